from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import CRS

from olmoearth_core.grid import Grid, Lattice
from olmoearth_core.inference.blend import NODATA, Blend, window_weights

GRID = Grid(CRS, 10.0)
BOX = GRID.box(1003, -2001, 40, 30)


def predictions(size: int, stride: int, classes: int = 3, seed: int = 0) -> list:
    random = np.random.default_rng(seed)
    return [
        (window, random.dirichlet(np.ones(classes), (size, size)).transpose(2, 0, 1).astype(np.float32))
        for window in Lattice(size, stride).boxes(BOX)
    ]


@pytest.mark.parametrize("size", [8, 64, 128, 512])
def test_weights_are_positive_symmetric_and_highest_in_the_middle(size: int) -> None:
    weights = window_weights(size)
    assert weights.min() >= 1
    assert np.array_equal(weights, weights[::-1])
    assert np.array_equal(weights, weights.T)
    assert weights[size // 2, size // 2] == weights.max()
    assert (np.diff(weights[size // 2, : size // 2].astype(int)) >= 0).all()


@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.sampled_from([(16, 16), (16, 12), (16, 4), (24, 8)]))
def test_the_order_of_windows_and_the_cut_of_the_box_change_no_bit(random: object, sizes: tuple[int, int]) -> None:
    windows = predictions(*sizes)
    whole = Blend(BOX, 3)
    for window, probabilities in windows:
        whole.add(window, probabilities)
    everywhere = np.ones(BOX.shape, bool)

    part = GRID.box(BOX.column + 7, BOX.row + 5, 22, 17)
    cut = Blend(part, 3)
    random.shuffle(windows)  # type: ignore[attr-defined]
    for window, probabilities in windows:
        if min(window.cut(part).shape) > 0:
            cut.add(window, probabilities)
    rows, columns = part.slices_in(BOX)
    ones = np.ones(part.shape, bool)
    assert np.array_equal(cut.probabilities(ones), whole.probabilities(everywhere)[:, rows, columns])
    assert np.array_equal(cut.classes(ones), whole.classes(everywhere)[rows, columns])


def test_it_is_the_weighted_mean() -> None:
    windows = predictions(16, 4, seed=1)
    blend = Blend(BOX, 3)
    total, weight = np.zeros((3, *BOX.shape)), np.zeros(BOX.shape)
    for window, probabilities in windows:
        blend.add(window, probabilities)
        common = window.cut(BOX)
        rows, columns = common.slices_in(window)
        here = common.slices_in(BOX)
        w = window_weights(16)[rows, columns].astype(float)
        total[:, *here] += probabilities[:, rows, columns] * w
        weight[here] += w
    mean = total / weight
    stored = blend.probabilities(np.ones(BOX.shape, bool))
    assert np.abs(stored / 250 - mean).max() <= 0.5 / 250 + 1e-4
    clear = np.sort(mean, axis=0)[-1] - np.sort(mean, axis=0)[-2] > 1e-3
    assert np.array_equal(blend.classes(np.ones(BOX.shape, bool))[clear], mean.argmax(axis=0)[clear])


def test_certain_windows_sum_without_overflow_at_the_densest_overlap() -> None:
    blend = Blend(BOX, 2)
    lattice = Lattice(40, 8)
    assert max(lattice.last(pixel) - lattice.first(pixel) + 1 for pixel in range(64)) == 5
    for window in lattice.boxes(BOX):
        blend.add(window, np.stack([np.ones((40, 40), np.float32), np.zeros((40, 40), np.float32)]))
    probabilities = blend.probabilities(np.ones(BOX.shape, bool))
    assert (probabilities[0] == 250).all()
    assert (probabilities[1] == 0).all()


def test_what_is_not_mapped_is_nodata_in_all_bands() -> None:
    blend = Blend(BOX, 3)
    for window, probabilities in predictions(16, 8):
        blend.add(window, probabilities)
    mapped = np.zeros(BOX.shape, bool)
    mapped[3:9, 4:20] = True
    assert (blend.classes(mapped)[~mapped] == NODATA).all()
    assert (blend.probabilities(mapped)[:, ~mapped] == NODATA).all()
    assert blend.classes(mapped)[mapped].max() < 3
    assert blend.probabilities(mapped)[:, mapped].max() <= 250
