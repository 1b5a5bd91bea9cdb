"""The seam score, on maps whose seams are known."""

from __future__ import annotations

import numpy as np
import pytest
from rasters import CRS

from olmoearth_core.grid import Grid
from olmoearth_core.inference.blend import Blend
from olmoearth_core.inference.plan import Layout, map_layout
from olmoearth_core.inference.seams import Seams, differences

LAYOUT = Layout(tile_size=64, window_size=16, patch_size=4, stride=16)


def test_an_edge_that_shows_is_counted_and_one_that_does_not_is_not() -> None:
    flat = np.full((1, 8, 48), 100, np.uint8)
    flat[..., 1::2] += 2  # everywhere a difference of 2
    plain = differences(flat, 0, LAYOUT)
    assert plain[0, 0] / plain[0, 1] == pytest.approx(plain[1, 0] / plain[1, 1])
    flat[..., 16:32] += 50  # a window of its own
    found = differences(flat, 0, LAYOUT)
    assert found[0, 0] / found[0, 1] > 10 * found[1, 0] / found[1, 1]
    assert (found[:, 1] == plain[:, 1]).all()


def test_blending_leaves_less_seam_than_pasting_side_by_side() -> None:
    """A smooth field, of which each window sees a little more or less: as a model does that sees no neighbours."""
    box = Grid(CRS, 10.0).box(0, 0, 256, 256)
    rows, columns = np.mgrid[:256, :256]
    field = 0.5 + 0.3 * np.sin(rows / 9) * np.cos(columns / 13)
    scores = {}
    for stride in (16, 12, 8):
        layout = Layout(tile_size=64, window_size=16, patch_size=4, stride=stride)
        blend, random = Blend(box, 2), np.random.default_rng(0)
        for window in layout.lattice.boxes(box):
            seen = window.cut(box)
            part = np.zeros((2, 16, 16), np.float32)
            part[0][seen.slices_in(window)] = field[seen.slices_in(box)] + random.normal(0, 0.02)
            part[1] = 1 - part[0]
            blend.add(window, part)
        probabilities = blend.probabilities(np.ones(box.shape, bool))
        sums = differences(probabilities, 0, layout) + differences(probabilities.swapaxes(1, 2), 0, layout)
        across, inside, _ = sums[:, 0] / sums[:, 1]
        scores[stride] = across / inside
    assert scores[16] > 1.3, "side by side the windows are to be seen"
    assert scores[12] < 1.05
    assert scores[8] < 1.05


def test_windows_whose_patches_lie_apart_do_not_agree_where_to_jump() -> None:
    """What a model says jumps a little from patch to patch; on one lattice of patches, windows end where it jumps."""
    box = Grid(CRS, 10.0).box(0, 0, 512, 512)
    scores = {}
    for shifted in (False, True):
        layout = map_layout(512, 64, 8, 0.25)
        assert layout.shift == 4
        layout = layout if shifted else layout.model_copy(update={"shift": 0})
        blend, random = Blend(box, 1), np.random.default_rng(0)
        ground = random.normal(0, 0.02, (512 + 128, 512 + 128))
        for window in layout.lattice.boxes(box):
            row, column = window.row + 64, window.column + 64  # from the ground's corner
            patches = ground[row : row + 64, column : column + 64].reshape(8, 8, 8, 8).mean(axis=(1, 3))
            part = 0.5 + ground[row : row + 64, column : column + 64] + np.kron(patches, np.ones((8, 8)))
            blend.add(window, part[None].astype(np.float32))
        probabilities = blend.probabilities(np.ones(box.shape, bool))
        sums = differences(probabilities, 0, layout) + differences(probabilities.swapaxes(1, 2), 0, layout)
        scores[shifted] = Seams.of(sums).score
    assert scores[False] > 1.005
    assert abs(scores[True] - 1) < abs(scores[False] - 1)
