from __future__ import annotations

import numpy as np
from rasters import CRS

from olmoearth_core.grid import Grid, PixelBox, lattice
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.inference.blend import NODATA
from olmoearth_core.inference.tile import TileInput, batches, map_tile

BOX = Grid(CRS, 10.0).box(800, -1600, 64, 32)
WINDOWS = list(lattice(BOX, 16))


def cube(valid: np.ndarray) -> Cube:
    """One band that holds the column number of each pixel, over BOX; valid (T, H, W)."""
    timesteps = len(valid)
    data = np.broadcast_to(np.arange(64, dtype=np.uint16), (timesteps, 1, 32, 64)) * valid[:, None]
    dates = np.arange("2024-01", "2024-12", dtype="datetime64[M]")[:timesteps].astype("datetime64[D]")
    return Cube("sentinel2_l2a", ("B02",), data, valid, valid.astype(np.uint8), dates, BOX)


def all_valid() -> np.ndarray:
    return np.ones((2, 32, 64), bool)


def sorted_batches(valid: np.ndarray, sizes: list[int]) -> list[tuple[list[PixelBox], int]]:
    return list(batches(WINDOWS, {"sentinel2_l2a": cube(valid)}, 4, sizes))


def test_whole_windows_go_together_and_the_last_batch_is_padded() -> None:
    made = sorted_batches(all_valid(), [4, 3])
    assert [(len(windows), rows) for windows, rows in made] == [(3, 3), (3, 3), (2, 3)]
    assert [w for windows, _ in made for w in windows] == WINDOWS


def test_windows_that_see_equally_many_timesteps_share_a_batch_size() -> None:
    valid = all_valid()
    valid[0, :, :16] = False  # two windows miss the first timestep
    valid[1, :16, 16:32] = False  # one the second
    made = sorted_batches(valid, [4, 3])
    assert [(len(windows), rows) for windows, rows in made] == [(3, 4), (3, 3), (2, 3)]


def test_a_window_that_sees_a_timestep_in_part_goes_alone() -> None:
    valid = all_valid()
    valid[0, 5, 5] = False
    made = sorted_batches(valid, [4, 3])
    assert made[0] == ([WINDOWS[0]], 1)
    assert sum(len(windows) for windows, _ in made) == 8


def test_a_window_with_nothing_to_see_is_left_out() -> None:
    valid = all_valid()
    valid[:, :16, :16] = False
    valid[:, 17, 1] = True
    valid[:, 16:, :16] = False
    valid[:, 17, 1] = True  # a pixel, but no patch begins with it: the encoder would see nothing
    made = sorted_batches(valid, [4, 3])
    assert {w for windows, _ in made for w in windows} == {w for w in WINDOWS if w.column > 800}


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
    mapped = map_tile(tile, predict, classes=2, patch_size=4, batch_sizes=[2, 3])
    expected = np.where(np.arange(64) < 32, 0, 1) * np.ones((32, 1), int)
    known = area & valid.any(axis=0)
    assert np.array_equal(mapped.classes[known], expected[known])
    assert (mapped.classes[~known] == NODATA).all()
    assert (mapped.probabilities[:, ~known] == NODATA).all()
    assert set(np.unique(mapped.probabilities[:, known])) == {25, 225}
    assert mapped.area_pixels == area.sum()
    assert mapped.windows_seen == 8
    assert {shape[0] for shape in seen} == {1, 3}
