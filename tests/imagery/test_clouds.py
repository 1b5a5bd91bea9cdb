"""s2cloudless: what it finds on real scenes, and that a pixel's answer does not depend on the box."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import Layer, StacScene, open_scenes, write_catalogue

from olmoearth_core.errors import ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery import clouds
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.read import AssetReader

GRID = Grid("EPSG:32631")
CLEAR = [300, 500, 400, 900, 2500, 2700, 1800, 900]
CLOUD = [5850, 5370, 4790, 5120, 5380, 4910, 3820, 3240]
"""Medians of a clear and of the overcast date of the reservoir, in the order of clouds.BANDS."""


def scenery(box: PixelBox, cloudy: np.ndarray) -> np.ndarray:
    """Reflectance (8, h, w): CLOUD where `cloudy` (h, w), else CLEAR."""
    return np.where(cloudy, np.array(CLOUD)[:, None, None], np.array(CLEAR)[:, None, None]).astype(np.uint16)


def in_disk(box: PixelBox, column: int, row: int, radius: int) -> np.ndarray:
    """Where the pixels of `box` lie in a disk on the grid."""
    rows, columns = np.ogrid[box.row : box.row + box.height, box.column : box.column + box.width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_a_cloud_is_found_with_a_margin_and_clear_ground_is_not() -> None:
    box = GRID.box(600, -900, 240, 240)
    outer = clouds.around(box)
    free = clouds.cloud_free(scenery(outer, in_disk(outer, 720, -780, 50)), box)
    assert not free[in_disk(box, 720, -780, 55)].any()
    assert free[~in_disk(box, 720, -780, 110)].all()


def test_pixels_without_data_are_no_cloud() -> None:
    box = GRID.box(0, 0, 30, 30)
    outer = clouds.around(box)
    assert clouds.cloud_free(np.zeros((8, *outer.shape), np.uint16), box).all()


@settings(max_examples=25, deadline=None)
@given(
    outer=st.tuples(*[st.integers(-50, 50)] * 2, *[st.integers(30, 90)] * 2),
    inner=st.tuples(*[st.floats(0, 1)] * 4),
    resolution=st.sampled_from([10.0, 20.0, 25.0, 100.0]),
)
def test_a_pixel_never_depends_on_the_box(
    outer: tuple[int, int, int, int], inner: tuple[float, float, float, float], resolution: float
) -> None:
    a = Grid("EPSG:32631", resolution).box(*outer)
    left, top = int(inner[0] * (a.width - 1)), int(inner[1] * (a.height - 1))
    width, height = 1 + int(inner[2] * (a.width - left - 1)), 1 + int(inner[3] * (a.height - top - 1))
    b = PixelBox(a.grid, a.column + left, a.row + top, width, height)
    found = []
    for box in (a, b):
        wide = clouds.around(box)
        found.append(clouds.cloud_free(scenery(wide, in_disk(wide, 20, 10, 15)), box))
    rows, columns = b.slices_in(a)
    assert np.array_equal(found[0][rows, columns], found[1])


def test_it_stands_in_for_the_catalogue_s_clouds_and_keeps_its_shadows(tmp_path: Path) -> None:
    def scene(name: str, values: list[int], scl: int, cloud: float) -> StacScene:
        layers = {
            band: Layer(np.full((24, 24), value, np.uint16)) for band, value in zip(clouds.BANDS, values, strict=True)
        }
        classes = np.full((12, 12), scl, np.uint8)
        classes[0] = 3  # shadow
        return StacScene(name, "2024-05-05", {**layers, "SCL": Layer(classes, 20.0)}, cloud_cover=cloud)

    cube = _compose(tmp_path / "clear", scene("bright roof", CLEAR, 9, 0))
    assert not cube.valid[0, :2].any()
    assert cube.valid[0, 2:].all()  # the catalogue says cloud, s2cloudless does not
    assert not _compose(tmp_path / "cloud", scene("missed", CLOUD, 4, 0)).valid.any()


def test_a_scene_without_its_bands_is_lost_with_the_reason(tmp_path: Path) -> None:
    layers = {band: Layer(np.full((24, 24), 500, np.uint16)) for band in clouds.BANDS[:-1]}
    scenes = open_scenes(write_catalogue(tmp_path, [StacScene("poor", "2024-05-05", layers)]))
    with AssetReader() as reader:
        _composed(scenes, reader)
        (failure,) = reader.failures
    assert "has no B12, which s2cloudless needs" in failure.reason


def test_without_the_package_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    clouds._classifier.cache_clear()
    with pytest.raises(ImageryError, match="pip install lightgbm"):
        clouds._classifier()


def test_on_the_reservoir_the_overcast_date_is_cloud_and_clear_dates_are_not(real_data: Path) -> None:
    from olmoearth_core.imagery.scene import available_bands

    scenes = open_scenes(real_data / "reservoir" / "catalog.json")
    box = GRID.around((482880, 4686540, 486600, 4690260))
    share = {}
    for day in (date(2020, 1, 18), date(2020, 6, 21), date(2020, 9, 14), date(2021, 7, 16)):
        step = Timestep(day, day + timedelta(days=1))
        bands = available_bands(scenes, "sentinel2_l2a")
        cube = compose(scenes, box, [step], modality="sentinel2_l2a", bands=bands, cloud_mask="s2cloudless")
        share[day] = 1 - cube.valid.mean()
    assert share.pop(date(2020, 1, 18)) > 0.95
    assert max(share.values()) < 0.01


def _compose(folder: Path, scene: StacScene) -> Cube:
    with AssetReader() as reader:
        cube = _composed(open_scenes(write_catalogue(folder, [scene])), reader)
        assert not reader.failures
    return cube


def _composed(scenes: object, reader: AssetReader) -> Cube:
    box = GRID.around((500_040, 4_690_020 - 240, 500_280, 4_690_020))
    step = Timestep(date(2024, 5, 1), date(2024, 6, 1))
    return compose(
        scenes,
        box,
        [step],
        modality="sentinel2_l2a",
        bands=["B02"],
        cloud_mask="s2cloudless",
        reader=reader,  # type: ignore[arg-type]
    )
