from __future__ import annotations

import numpy as np
import pytest
from rasters import CRS

from olmoearth_core.grid import Grid, PixelBox, lattice
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.inference.blend import NODATA
from olmoearth_core.inference.plan import Layout, PlannedModel
from olmoearth_core.inference.tile import TileInput, batches, map_tile

BOX = Grid(CRS, 10.0).box(800, -1600, 64, 32)
WINDOWS = list(lattice(BOX, 16))


def cube(valid: np.ndarray) -> Cube:
    """One band that holds the column number of each pixel, over BOX; valid (T, H, W)."""
    timesteps = len(valid)
    data = np.broadcast_to(np.arange(64, dtype=np.uint16), (timesteps, 1, 32, 64)) * valid[:, None]
    dates = np.arange("2024-01", "2024-12", dtype="datetime64[M]")[:timesteps].astype("datetime64[D]")
    observed = np.zeros(valid.shape, np.int32)
    return Cube("sentinel2_l2a", ("B02",), data, valid.astype(np.uint8), observed, dates, BOX)


def all_valid() -> np.ndarray:
    return np.ones((2, 32, 64), bool)


MODEL = PlannedModel(weights_sha256="0" * 64, classes=["a", "b"])
LAYOUT = Layout(tile_size=64, window_size=16, patch_size=4, stride=16)


def sorted_batches(valid: np.ndarray, sizes: list[int]) -> list[list[PixelBox | None]]:
    return list(batches(WINDOWS, {"sentinel2_l2a": cube(valid)}, LAYOUT, sizes))


def windows_in(made: list[list[PixelBox | None]]) -> list[PixelBox]:
    return [window for batch in made for window in batch if window is not None]


def test_whole_windows_go_together_in_batches_of_one_size() -> None:
    made = sorted_batches(all_valid(), [4, 3])
    assert [len(batch) for batch in made] == [3, 3, 3]
    assert sorted(windows_in(made), key=WINDOWS.index) == WINDOWS


def test_a_window_has_the_same_row_whoever_else_is_there() -> None:
    rows = {w: batch.index(w) for batch in sorted_batches(all_valid(), [4, 5]) for w in batch if w}
    fewer = WINDOWS[3:]
    for batch in batches(fewer, {"sentinel2_l2a": cube(all_valid())}, LAYOUT, [4, 5]):
        for window in filter(None, batch):
            assert batch.index(window) == rows[window]


@pytest.mark.parametrize("size", [2, 5, 16, 21, 32])
def test_few_rows_stay_empty(size: int) -> None:
    around = Grid(CRS, 10.0).box(5000, -9000, 1024, 1024)
    windows = list(lattice(around, 64, 48))
    valid = np.ones((1, 1200, 1200), bool)
    box = around.pad(88)
    dates = np.array(["2024-05-01"], "datetime64[D]")
    observed = np.zeros(valid.shape, np.int32)
    whole = Cube("sentinel2_l2a", (), np.empty((1, 0, 1200, 1200)), valid.astype(np.uint8), observed, dates, box)
    layout = Layout(tile_size=1024, window_size=64, patch_size=8, stride=48)
    made = list(batches(windows, {"sentinel2_l2a": whole}, layout, [size]))
    assert len(made) * size <= 1.1 * len(windows)


def test_windows_that_see_equally_many_timesteps_share_a_batch_size() -> None:
    valid = all_valid()
    valid[0, :, :16] = False  # two windows miss the first timestep
    valid[1, :16, 16:32] = False  # one the second
    made = sorted_batches(valid, [7, 3])
    short = [batch for batch in made if len(batch) == 7]
    assert {w for batch in short for w in batch if w} == {WINDOWS[0], WINDOWS[4], WINDOWS[1]}
    assert len(windows_in(made)) == 8
    assert {len(batch) for batch in made} == {3, 7}


def test_a_window_that_sees_a_timestep_in_part_goes_alone() -> None:
    valid = all_valid()
    valid[0, 5, 5] = False
    made = sorted_batches(valid, [4, 3])
    assert made[0] == [WINDOWS[0]]
    assert len(windows_in(made)) == 8


def test_a_window_with_nothing_to_see_is_left_out() -> None:
    valid = all_valid()
    valid[:, :, :16] = False
    valid[:, 17, 1] = True  # a pixel, but no patch begins with it: the encoder would see nothing
    assert set(windows_in(sorted_batches(valid, [4, 3]))) == {w for w in WINDOWS if w.column > 800}


def test_a_tile_holds_nodata_outside_the_area_and_where_nothing_was_seen() -> None:
    valid = all_valid()
    valid[:, :, 20:24] = False  # never seen
    valid[0, :, 40:44] = False  # seen once
    area = np.ones(BOX.shape, bool)
    area[:5] = False
    seen: list[tuple[int, ...]] = []

    def predict(inputs: dict, dates: np.ndarray, masks: dict) -> np.ndarray:
        rows = inputs["sentinel2_l2a"].shape[0]
        assert dates.shape == (rows, 2)
        assert masks["sentinel2_l2a"].shape == (rows, 2, 16, 16)
        seen.append(inputs["sentinel2_l2a"].shape)
        west = (inputs["sentinel2_l2a"].max(axis=1) < 32).astype(np.float32)  # (B, 1, H, W)
        return np.concatenate([west * 0.8 + 0.1, 0.9 - west * 0.8], axis=1)

    tile = TileInput(BOX, area, WINDOWS, {"sentinel2_l2a": cube(valid)})
    mapped = map_tile(tile, predict, model=MODEL, layout=LAYOUT, batch_sizes=[2, 3])
    expected = np.where(np.arange(64) < 32, 0, 1) * np.ones((32, 1), int)
    known = area & valid.any(axis=0)
    assert np.array_equal(mapped.classes[known], expected[known])
    assert (mapped.classes[~known] == NODATA).all()
    assert (mapped.probabilities[:, ~known] == NODATA).all()
    assert set(np.unique(mapped.probabilities[:, known])) == {25, 225}
    assert mapped.area_pixels == area.sum()
    assert mapped.windows_seen == 8
    assert {shape[0] for shape in seen} == {1, 3}
