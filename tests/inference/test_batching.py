"""Which windows go together, and what the model is given of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from rasters import CRS

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, Lattice, PixelBox
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.inference.batching import Batch, Batcher, Kind, assemble, kind_of
from olmoearth_core.inference.imagery import Imagery, strips
from olmoearth_core.inference.plan import Layout

BOX = Grid(CRS, 10.0).box(800, -1600, 64, 32)
WINDOWS = list(Lattice(16, 16).boxes(BOX))
LAYOUT = Layout(tile_size=64, window_size=16, patch_size=4, stride=16)
STEPS = [
    Timestep(np.datetime64("2024-01-01").item(), np.datetime64("2024-02-01").item()),
    Timestep(np.datetime64("2024-02-01").item(), np.datetime64("2024-03-01").item()),
]


def imagery(valid: np.ndarray, box: PixelBox = BOX) -> Imagery:
    """One band that holds the column number of each pixel, over `box`; valid (T, H, W)."""
    times, height, width = valid.shape
    data = np.broadcast_to(np.arange(width, dtype=np.uint16), (times, 1, height, width)) * valid[:, None]
    dates = np.array([step.date for step in STEPS[:times]], "datetime64[D]")
    made = Imagery(box, STEPS[:times], {"sentinel2_l2a": ("B02",)})
    observed = np.zeros(valid.shape, np.int32)
    made.fill(Cube("sentinel2_l2a", ("B02",), data, valid.astype(np.uint8), observed, dates, box))
    return made


def all_valid() -> np.ndarray:
    return np.ones((2, 32, 64), bool)


def batches(seen: Imagery, sizes: Sequence[int], windows: Sequence[PixelBox] = WINDOWS) -> list[Batch]:
    batcher, made = Batcher(LAYOUT, sizes), []
    for window in windows:
        if (kind := kind_of(seen, window, LAYOUT.patch_size)) is not None:
            made += batcher.add(window, kind)
    return [*made, *batcher.rest()]


def windows_in(made: Sequence[Batch]) -> list[PixelBox]:
    return [window for batch in made for _, window in batch.windows]


def test_whole_windows_go_together_in_batches_of_one_size() -> None:
    made = batches(imagery(all_valid()), [4, 3])
    assert {len(batch.rows) for batch in made} == {3}
    assert not any(batch.masked for batch in made)
    assert sorted(windows_in(made), key=WINDOWS.index) == WINDOWS


def test_a_window_has_the_same_row_whoever_else_is_there() -> None:
    seen = imagery(all_valid())
    rows = {w: row for batch in batches(seen, [4, 5]) for row, w in batch.windows}
    for batch in batches(seen, [4, 5], WINDOWS[3:]):
        for row, window in batch.windows:
            assert rows[window] == row


@pytest.mark.parametrize("size", [2, 5, 16, 21, 32])
def test_few_rows_stay_empty(size: int) -> None:
    around = Grid(CRS, 10.0).box(5000, -9000, 1024, 1024)
    windows = list(Lattice(64, 48).boxes(around))
    batcher = Batcher(Layout(tile_size=1024, window_size=64, patch_size=8, stride=48), [size])
    made = [batch for window in windows for batch in batcher.add(window, Kind((1,), whole=True))]
    made += batcher.rest()
    assert sorted(windows_in(made), key=windows.index) == windows
    assert len(made) * size <= 1.1 * len(windows)


def test_windows_that_see_equally_many_timesteps_share_a_batch_size() -> None:
    valid = all_valid()
    valid[0, :, :16] = False  # two windows miss the first timestep
    valid[1, :16, 16:32] = False  # one the second
    made = batches(imagery(valid), [7, 3])
    short = [batch for batch in made if len(batch.rows) == 7]
    assert set(windows_in(short)) == {WINDOWS[0], WINDOWS[4], WINDOWS[1]}
    assert len(windows_in(made)) == 8
    assert {len(batch.rows) for batch in made} == {3, 7}


def test_windows_that_see_a_timestep_in_part_go_together_masked() -> None:
    valid = all_valid()
    valid[0, 5, 5] = False
    valid[0, 20, 40] = False
    made = batches(imagery(valid), [4, 3])
    masked = [batch for batch in made if batch.masked]
    assert set(windows_in(masked)) == {w for w in WINDOWS if (w.column, w.row) in ((800, -1600), (832, -1584))}
    assert {len(batch.rows) for batch in masked} == {3}
    assert len(windows_in(made)) == 8


def test_where_the_plan_says_one_row_every_window_goes_alone_and_unmasked() -> None:
    valid = all_valid()
    valid[0, 5, 5] = False
    made = batches(imagery(valid), [1, 1])
    assert [len(batch.rows) for batch in made] == [1] * 8
    assert not any(batch.masked for batch in made)


def test_a_window_with_nothing_to_see_is_left_out() -> None:
    valid = all_valid()
    valid[:, :, :16] = False
    valid[:, 17, 1] = True  # a pixel, but no patch begins with it: the encoder would see nothing
    assert set(windows_in(batches(imagery(valid), [4, 3]))) == {w for w in WINDOWS if w.column > 800}


def test_an_empty_row_repeats_another_window() -> None:
    seen = imagery(all_valid())
    inputs, dates, valid = assemble(Batch((None, WINDOWS[2]), masked=False), seen)
    assert inputs["sentinel2_l2a"].shape == (2, 2, 1, 16, 16)
    assert (inputs["sentinel2_l2a"][0] == inputs["sentinel2_l2a"][1]).all()
    assert inputs["sentinel2_l2a"].min() == 32
    assert dates.shape == (2, 2)
    assert valid["sentinel2_l2a"].all()


@pytest.mark.parametrize("height", [16, 40, 100, 1000])
def test_strips_cover_a_box_once_and_are_several_also_where_it_is_small(height: int) -> None:
    box = Grid(CRS, 10.0).box(3, 5, 50, height)
    made = list(strips(box, 16))
    assert sum(strip.height for strip in made) == height
    assert [strip.row for strip in made] == [5 + sum(s.height for s in made[:k]) for k in range(len(made))]
    assert {strip.width for strip in made} == {50}
    assert len(made) >= min(4, -(-height // 25)) or height == 16
