"""Real Sentinel-2 scenes (shared/data): two tiles without a seam, clouds masked, missing bands, export and compose."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import open_scenes

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.compose import Composite, compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.modality import SENTINEL2_L2A
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList, available_bands, read_scenes
from olmoearth_core.labels.labels import read_labels
from olmoearth_core.labels.windows import training_windows
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

AUGUST = Timestep(date(2023, 8, 1), date(2023, 9, 1))
CLOUDY = Timestep(date(2023, 8, 10), date(2023, 8, 11))
GRID = Grid("EPSG:32633", 120.0)
BORDER = GRID.around((530_000, 5_080_000, 560_000, 5_110_000))
"""30 km across the overlap of the tiles, which reaches from 5.093 to 5.097 million metres north."""


@pytest.fixture(scope="module")
def alps(real_data: Path) -> SceneList:
    return open_scenes(real_data / "alps_clouds" / "catalog.json")


def mosaic(scenes: SceneList, box: PixelBox, step: Timestep = AUGUST, composite: Composite = "least_cloudy") -> Cube:
    bands = available_bands(scenes, "sentinel2_l2a")
    return compose(scenes, box, [step], modality="sentinel2_l2a", bands=bands, composite=composite)


def test_bands_that_no_scene_has_are_missing_by_name(alps: SceneList) -> None:
    assert available_bands(alps, "sentinel2_l2a") == ("B02", "B03", "B04", "B08")
    assert all(scene.mask for scene in alps.scenes)
    assert {scene.offset for scene in alps.scenes} == {0}  # baseline 05.09, but declared as applied
    assert mosaic(alps, BORDER).data.shape[1] == 4


@pytest.mark.parametrize("composite", ["least_cloudy", "median"])
def test_two_tiles_compose_without_a_seam(alps: SceneList, composite: Composite) -> None:
    cube = mosaic(alps, BORDER, composite=composite)
    assert cube.valid.mean(axis=(0, 2)).min() > 0.98  # no rim of nodata where one tile ends and the other begins
    steps = np.abs(np.diff(cube.data[0].astype(float), axis=1)).mean(axis=(0, 2))  # from row to row, all bands
    northings = BORDER.centres[1][1:]
    overlap = (northings > 5_091_000) & (northings < 5_099_000)
    assert overlap.sum() > 40
    # rows where the mosaic goes over from tile to tile change no more than rows elsewhere do
    assert steps[overlap].max() < 1.25 * np.percentile(steps[~overlap], 99)


@pytest.mark.parametrize("composite", ["least_cloudy", "median"])
def test_two_halves_are_the_whole(alps: SceneList, composite: Composite) -> None:
    whole = mosaic(alps, BORDER, composite=composite)
    half = BORDER.height // 2
    for top in (0, half):
        part = PixelBox(GRID, BORDER.column, BORDER.row + top, BORDER.width, half)
        assert np.array_equal(mosaic(alps, part, composite=composite).data, whole.crop(part).data)


def test_clouds_are_masked(alps: SceneList, real_data: Path) -> None:
    """On the cloudy date: what is valid is what the classification calls clear, and it is not bright."""
    scenes = {scene.id[4:9]: scene for scene in alps.scenes if scene.date == CLOUDY.start}
    south = scenes["33TWL"]
    with rasterio.open(real_data / "alps_clouds" / str(south.mask)) as raster:
        # the southern tile's pixels are half a pixel off the grid in x: a grid pixel's centre is a tile's pixel's edge
        scl, left, top = raster.read(1), raster.bounds.left, raster.bounds.top
    box = GRID.around((540_000, 5_040_000, 564_000, 5_064_000))  # south of the overlap
    cube = mosaic(alps, box, CLOUDY)
    x, y = box.centres
    clear = ~np.isin(scl, [0, 1, 3, 8, 9, 10])
    expected = clear[np.floor((top - y) / 120).astype(int)][:, np.floor((x - left) / 120).astype(int)]
    assert np.array_equal(cube.valid[0], expected)
    assert 0.1 < cube.valid.mean() < 0.7
    assert not cube.data[0][:, ~cube.valid[0]].any()


def test_least_cloudy_fills_what_the_median_fills(alps: SceneList) -> None:
    cubes = [mosaic(alps, BORDER, composite=c) for c in ("least_cloudy", "median")]
    assert np.array_equal(cubes[0].valid, cubes[1].valid)
    assert cubes[1].observations.max() <= 10
    assert cubes[1].observations.mean() > 3
    red = [cube.data[0, 2].astype(float) for cube in cubes]
    assert np.corrcoef(red[0].ravel(), red[1].ravel())[0, 1] > 0.7


PROJECT = """
name: reservoir
task: {{classes: [{{name: land, color: "#aaaaaa"}}, {{name: water, color: "#0000ff"}}]}}
labels: {{files: [{data}/labels/water_2020-06-21.geojson]}}
imagery: {{catalogue: {data}/catalog.json, framing: {{kind: period, timesteps: 2, days: 30, offset_days: -10}}}}
dataset: {{}}
model: {{patch_size: 4, window_size: 64}}
training: {{}}
map: {{area: {data}/area.geojson, date: 2021-07-16}}
"""


def test_the_reservoir_is_exported_and_composes_to_the_same_pixels(tmp_path: Path, real_data: Path) -> None:
    (tmp_path / "project.yaml").write_text(PROJECT.format(data=real_data / "reservoir"))
    project = load_project(tmp_path)
    result = run_stage(STAGES["export"], STAGES, project, Silent())
    summary = result.manifest.summary
    assert (summary["scenes"], summary["assets"], summary["failed_assets"]) == (1, 12, [])
    here = read_scenes(result.folder / "scenes.json", result.folder)
    there = open_scenes(real_data / "reservoir" / "catalog.json")
    assert available_bands(here, "sentinel2_l2a") == tuple(SENTINEL2_L2A.bands)
    windows = training_windows(read_labels(project), 64)
    steps = project.config.imagery.framing.spans(windows[0].date)
    with AssetReader() as reader:
        for window in windows:
            ours, theirs = (
                compose(
                    scenes, window.box, steps, modality="sentinel2_l2a", bands=tuple(SENTINEL2_L2A.bands),
                    composite="least_cloudy", reader=reader,
                )
                for scenes in (here, there)
            )  # fmt: skip
            assert np.array_equal(ours.data, theirs.data)
            assert ours.valid[0].any()
            assert not ours.valid[1].any()  # from 2020-07-11 on there is no scene for 30 days
        assert not reader.failures
