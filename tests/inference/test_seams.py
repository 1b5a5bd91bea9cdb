"""The seam score, on maps whose seams are known."""

from __future__ import annotations

import numpy as np
import pytest
from rasters import CRS

from olmoearth_core.grid import Grid
from olmoearth_core.inference.blend import Blend
from olmoearth_core.inference.plan import Layout
from olmoearth_core.inference.seams import Seams, differences

LAYOUT = Layout(tile_size=64, window_size=16, patch_size=4, stride=16)


def test_an_edge_that_shows_is_counted_and_one_that_does_not_is_not() -> None:
    flat = np.full((1, 8, 48), 100, np.uint8)
    flat[..., 1::2] += 2  # everywhere a difference of 2
    plain = differences(flat, 0, LAYOUT)[0]
    assert plain[0, 0] / plain[0, 1] == pytest.approx(plain[1, 0] / plain[1, 1])
    flat[..., 16:32] += 50  # a window of its own
    found = differences(flat, 0, LAYOUT)[0]
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
        across, inside, _ = sums[0, :, 0] / sums[0, :, 1]
        scores[stride] = across / inside
    assert scores[16] > 1.3, "side by side the windows are to be seen"
    assert scores[12] < 1.05
    assert scores[8] < 1.05


def test_the_score_is_told_beside_those_of_the_lattice_moved_elsewhere() -> None:
    """A map that varies by chance: its own edges are no others than those that might have been."""
    pixels = np.random.default_rng(0).integers(100, 150, (1, 64, 480)).astype(np.uint8)
    layout = Layout(tile_size=1024, window_size=16, patch_size=4, stride=12)
    chance = Seams.of(differences(pixels, 0, layout))
    assert len(chance.elsewhere) == layout.stride - 1
    assert chance.rank > 1 / 12, "nothing to see"
    pixels[..., 120:136] += 50  # a window of its own
    assert Seams.of(differences(pixels, 0, layout)).rank == pytest.approx(1 / 12)
