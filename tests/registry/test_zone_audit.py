"""A map over two UTM zones is one map to the audit, whichever of its files is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from madeagain import mapped_project, record_all
from rasterio.warp import transform_geom
from rasters import CRS
from shapely.geometry import box, mapping, shape
from smallmap import square
from zonemap import write_degrees

from registry.audit.audit import audit
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def recorded(models_home: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path]:
    """A workspace, and the folder of the map; in the second zone lies no more than a speck without imagery."""
    folder = tmp_path_factory.mktemp("zones")
    project = mapped_project(folder / "zones", name="zones")
    here = shape(transform_geom(CRS, "EPSG:4326", mapping(square(10, 10, 60, 40))))
    write_degrees(project.path("area.geojson"), here, box(7.2, 42.4, 7.201, 42.401))
    workspace = Workspace.at(folder / "home", tracking_uri=models_home.tracking_uri, artifacts=models_home.artifacts)
    return workspace, record_all(project, workspace)["postprocess"].folder


@pytest.mark.parametrize("file", ["map_32631.tif", "map_32632.tif", "map.gti.gpkg", "item_32632.json", "areas.csv"])
def test_each_file_is_the_maps_own(recorded: tuple[Workspace, Path], file: str) -> None:
    workspace, folder = recorded
    report = audit(workspace, folder / file)
    assert report.verified, report.sentence
    assert report.map is not None
    assert report.map.id == folder.name


def test_a_changed_pixel_of_one_zone_is_found_from_the_other(recorded: tuple[Workspace, Path]) -> None:
    workspace, folder = recorded
    path = folder / "map_32632.tif"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        report = audit(workspace, folder / "map_32631.tif")
        assert not report.verified
        assert any("map_32632.tif" in str(check) for check in report.checks if check.status == "differs")
    finally:
        path.write_bytes(content)
