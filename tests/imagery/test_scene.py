"""Scenes and scene lists: to JSON and back, addresses that mean the same on every machine."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import pytest

from olmoearth_core.errors import CatalogueError, ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.address import join, relative
from olmoearth_core.imagery.footprint import lonlat_bounds, lonlat_outline, near
from olmoearth_core.imagery.scene import Scene, SceneList, available_bands, read_scenes

SCENE = Scene(
    id="S2A_1",
    modality="sentinel2_l2a",
    collection="sentinel-2-l2a",
    datetime=dt.datetime(2024, 5, 5, 23, 59, 59, 500_000, tzinfo=dt.UTC),
    cloud_cover=12.5,
    assets={"B02": "a/B02.tif", "B08": "https://example.org/B08.tif"},
    mask=None,
    offset=1000,
    stored="numbers",
    reason="because",
    bbox=(3.0, 42.0, 4.0, 43.0),
)


def test_a_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    unknown = replace(SCENE, id="S2A_2", cloud_cover=None, mask="a/SCL.tif")
    written = SceneList("imagery/catalog.json", {"area": [1.5]}, (SCENE, unknown), tmp_path)
    written.write(tmp_path / "scenes.json")
    assert read_scenes(tmp_path / "scenes.json", tmp_path) == written
    assert str(tmp_path) not in (tmp_path / "scenes.json").read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 1, "scenes": [{"id": 1}]}', '{"schema_version": 9}']
)
def test_a_damaged_list_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scenes.json"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=r"scenes\.json.*Remove the file"):
        read_scenes(path, tmp_path)


def test_a_missing_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no such scene list"):
        read_scenes(tmp_path / "scenes.json", tmp_path)


@pytest.mark.parametrize(
    ("catalogue", "href", "expected"),
    [
        ("imagery/catalog.json", "a/B02.tif", "/project/imagery/a/B02.tif"),
        ("../shared/catalog.json", "a/B02.tif", "/shared/a/B02.tif"),
        ("/data/catalog.json", "a/B02.tif", "/data/a/B02.tif"),
        ("imagery/catalog.json", "https://x.org/a.tif", "https://x.org/a.tif"),
        ("https://x.org/stac/catalog.json", "a/B02.tif", "https://x.org/stac/a/B02.tif"),
        ("s3://bucket/stac/catalog.json", "../cogs/B02.tif", "s3://bucket/cogs/B02.tif"),
    ],
)
def test_addresses_start_at_the_catalogue(catalogue: str, href: str, expected: str) -> None:
    scenes = SceneList(catalogue, {}, (), Path("/project"))
    assert scenes.address(SCENE, href) == expected


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/imagery/a/B02.tif", "/data/imagery/catalog.json"),
        ("/elsewhere/B02.tif", "/data/imagery/catalog.json"),
        ("https://x.org/cogs/B02.tif", "https://x.org/stac/catalog.json"),
        ("https://y.org/cogs/B02.tif", "https://x.org/stac/catalog.json"),
        ("https://x.org/cogs/B02.tif?sig=a%2Fb", "https://x.org/stac/catalog.json"),
        ("https://y.org/B02.tif", "/data/imagery/catalog.json"),
        ("s3://bucket/B02.tif", "s3://bucket/catalog.json"),
    ],
)
def test_relative_addresses_lead_back(address: str, file: str) -> None:
    short = relative(address, file)
    assert not short.startswith("/")
    assert join(file, short) == address


def test_a_scene_belongs_to_the_day_it_was_taken() -> None:
    day = dt.date(2024, 5, 5)
    assert SCENE.in_step(Timestep(day, day + dt.timedelta(1)))
    assert not SCENE.in_step(Timestep(day - dt.timedelta(1), day))
    assert not SCENE.in_step(Timestep(day + dt.timedelta(1), day + dt.timedelta(2)))


def test_bands_are_listed_in_the_encoders_order() -> None:
    other = replace(SCENE, assets={"B09": "x", "B04": "x"})
    listed = SceneList("c", {}, (SCENE, other), Path("/"))
    assert available_bands(listed, "sentinel2_l2a") == ("B02", "B04", "B08", "B09")
    with pytest.raises(ImageryError, match="none of the 0 scenes"):
        available_bands(SceneList("c", {}, (), Path("/")), "sentinel2_l2a")


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((2.9, 42.0, 3.1, 43.0), True),
        ((3.05, 42.0, 3.1, 43.0), True),  # 4 km away: catalogues are not that exact
        ((3.5, 42.0, 4.1, 43.0), False),
        ((2.9, 44.0, 3.1, 45.0), False),
        ((363.0, 42.0, 363.1, 43.0), True),
    ],
)
def test_scenes_that_cannot_touch_are_left_out(bbox: tuple[float, float, float, float], expected: bool) -> None:
    box = Grid("EPSG:32631").around((500_000, 4_690_000, 500_640, 4_690_640))  # 3.0 E, 42.36 N
    assert near(bbox, box) is expected


def test_the_antimeridian_is_no_edge() -> None:
    box = Grid("EPSG:32660").around((829_000, 1_000_000, 831_000, 1_002_000))  # 180 E, 9 N
    west, _, east, _ = lonlat_bounds(box)
    assert 179.9 < west < 180 < east < 180.1
    assert near((179.0, 8.5, -179.0, 9.5), box)
    assert near((-180.0, 8.5, -179.0, 9.5), box)
    assert near((179.0, 8.5, 180.0, 9.5), box)
    assert not near((-179.0, 8.5, -178.0, 9.5), box)


def test_an_outline_is_a_closed_ring_in_degrees() -> None:
    ring = lonlat_outline(Grid("EPSG:32631").box(50_000, -469_000, 64, 64))
    assert ring[0] == ring[-1] == (3.0, 42.3565068)
    assert len(json.loads(json.dumps(ring))) == 5
