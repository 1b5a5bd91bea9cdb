"""Items and assets that say odd things: one observation less and a reason, never other pixels or a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters import LEFT, TOP, Layer, StacScene, open_scenes, write_catalogue
from shore import BANDS, SIZE, clear_scene, halves, write_shore

from olmoearth_core.errors import NoSceneError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.export import _folder
from olmoearth_core.imagery.read import AssetReader, Failure
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.progress import Silent
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

MAY = Timestep(date(2024, 5, 1), date(2024, 6, 1))
BOX = Grid("EPSG:32631").around((LEFT, TOP - 40, LEFT + 40, TOP))
ONE = Layer(np.full((4, 4), 1000, np.uint16))


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A catalogue of one scene, whose item `change` has been at."""
    catalogue = write_catalogue(folder, [StacScene(name, "2024-05-05", {"B02": ONE})])
    path = folder / name / f"{name}.json"
    item = json.loads(path.read_text())
    change(item)
    path.write_text(json.dumps(item))
    return catalogue


def composed(catalogue: Path) -> tuple[Cube, list[Failure]]:
    with AssetReader() as reader:
        cube = compose(open_scenes(catalogue), BOX, [MAY], modality="sentinel2_l2a", bands=["B02"], reader=reader)
        return cube, reader.failures


@pytest.mark.parametrize(
    "cover", [-1, 101, True, "99.0", float("nan"), 10**400], ids=["not computed", "101", "true", "text", "nan", "huge"]
)
def test_a_cloud_cover_that_is_none_is_unknown(tmp_path: Path, cover: Any) -> None:
    catalogue = edited(tmp_path, "a", lambda item: item["properties"].update({"eo:cloud_cover": cover}))
    (scene,) = open_scenes(catalogue).scenes
    assert scene.cloud_cover is None


@pytest.mark.parametrize(
    "bands", [None, {}, ["x"], [{"offset": float("nan")}], [{"offset": -1, "scale": 1e-320}]], ids=str
)
def test_odd_band_metadata_declares_nothing(tmp_path: Path, bands: Any) -> None:
    for key in ("raster:bands", "bands"):
        folder = tmp_path / key.replace(":", "")
        catalogue = edited(folder, "a", lambda item, key=key: item["assets"]["B02"].update({key: bands}))  # type: ignore[misc]
        (scene,) = open_scenes(catalogue).scenes
        assert scene.offset == 0


@pytest.mark.parametrize("offset", [0.1, -10])
def test_an_offset_that_sentinel2_does_not_have_is_refused(tmp_path: Path, offset: float) -> None:
    bands = [{"scale": 0.0001, "offset": offset}]
    catalogue = edited(tmp_path, "a", lambda item: item["assets"]["B02"].update({"raster:bands": bands}))
    with pytest.raises(NoSceneError, match="Sentinel-2 has 0 or -1000"):
        open_scenes(catalogue)


@pytest.mark.parametrize("href", [5, ["a"], "a\0b"])
def test_an_address_that_is_none_is_told(tmp_path: Path, href: Any) -> None:
    catalogue = edited(tmp_path, "a", lambda item: item["assets"]["B02"].update({"href": href}))
    with pytest.raises(NoSceneError, match="item a: asset B02 has the address"):
        open_scenes(catalogue)


@pytest.mark.parametrize("href", ["ftp://x/y.tif", "http://[::1", "/vsicurl/http://127.0.0.1:9/x.tif"])
def test_an_address_that_leads_nowhere_costs_the_observation(tmp_path: Path, href: str) -> None:
    cube, failures = composed(edited(tmp_path, "a", lambda item: item["assets"]["B02"].update({"href": href})))
    assert not cube.valid.any()
    assert [failure.asset for failure in failures] == ["B02"]


def test_file_urls_are_paths(tmp_path: Path) -> None:
    href = (tmp_path / "a" / "B02.tif").as_uri()
    cube, failures = composed(edited(tmp_path, "a", lambda item: item["assets"]["B02"].update({"href": href})))
    assert (cube.data == 1000).all()
    assert not failures


def test_nodata_that_only_the_catalogue_declares(tmp_path: Path) -> None:
    stored = Layer(np.where(np.arange(16).reshape(4, 4) < 8, 65535, 700).astype(np.uint16))
    scene = StacScene("a", "2024-05-05", {"B02": stored}, asset_fields={"raster:bands": [{"nodata": 65535}]})
    cube, _ = composed(write_catalogue(tmp_path, [scene]))
    assert cube.valid[0, :, 0].tolist() == [False, False, True, True]
    assert (cube.data[0, 0, 2:] == 700).all()


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_masks_of_a_file_hide_its_pixels(tmp_path: Path, kind: str) -> None:
    catalogue = write_catalogue(tmp_path, [StacScene("a", "2024-05-05", {"B02": ONE})])
    path = tmp_path / "a" / "B02.tif"
    with rasterio.open(path) as file:
        about = {k: file.profile[k] for k in ("crs", "transform", "width", "height", "dtype")}
    path.unlink()
    seen = np.full((4, 4), 255, np.uint8)
    seen[:, 2:] = 0
    bands = 2 if kind == "alpha" else 1
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", count=bands, alpha="unspecified", **about)
        if kind == "alpha"
        else rasterio.open(path, "w", driver="GTiff", count=bands, **about) as file,
    ):
        file.write(ONE.pixels, 1)
        if kind == "alpha":
            file.write(seen.astype(np.uint16) * 257, 2)
            file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
        else:
            file.write_mask(seen)
    cube, _ = composed(catalogue)
    assert cube.valid[0].tolist() == (seen > 0).tolist()


def test_no_two_scenes_share_a_folder_of_the_export() -> None:
    names = ["a_1", "a/1", "a:1", "..", ".", "", "x" * 300, "x" * 301, "../a_1"]
    folders = [_folder(modality, name) for modality in ("sentinel2_l2a", "landsat") for name in names]
    assert len(set(folders)) == len(folders)
    assert all("/" not in folder and not folder.startswith(".") and len(folder) < 120 for folder in folders)


def test_scenes_of_like_names_keep_their_own_pixels(tmp_path: Path) -> None:
    """One composite of two scenes whose names differ only in what no folder can be called."""
    edge = round(SIZE / 10)

    def flat(name: str, day: str, value: int) -> StacScene:
        return StacScene(name, day, {band: Layer(np.full((edge, edge), value, np.uint16)) for band in BANDS})

    scenes = [flat("a_1", "2024-05-01", 1000), flat("b", "2024-05-02", 5000), clear_scene("c", "2024-06-01")]
    project = write_shore(tmp_path, scenes=scenes, labels=halves("2024-05-01", "2024-05-02"))
    path = project.root / "imagery" / "b" / "b.json"
    path.write_text(path.read_text().replace('"id": "b"', '"id": "a/1"'))
    export = run_stage(STAGES["export"], STAGES, project, Silent())
    listed = read_scenes(export.folder / "scenes.json", export.folder)
    values = {}
    for scene in listed.scenes:
        with rasterio.open(str(listed.address(scene, scene.assets["B02"]))) as file:
            values[scene.id] = int(file.read(1).max())
    assert (values["a_1"], values["a/1"]) == (1000, 5000)
