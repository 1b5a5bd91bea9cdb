"""The estimators against the published example, and against simulated maps whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmoearth_core.assessment.estimators import accuracy, allocate, sample_size
from olmoearth_core.errors import MappingError

NAMES = ["deforestation", "forest gain", "stable forest", "stable non-forest"]
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = [200_000, 150_000, 3_200_000, 6_450_000]
"""The example of Olofsson et al. (2014), section 5: mapped pixels of 30 m, and the error matrix of table 8."""


def test_the_published_example() -> None:
    """Section 5.2 of the paper: areas in hectares and accuracies, with half widths of 95 % intervals."""
    hectares = [pixels * 0.09 for pixels in PIXELS]
    found = accuracy(COUNTS, hectares, NAMES)
    areas = [(e.value * sum(hectares), 1.96 * e.error * sum(hectares)) for e in found.shares]  # type: ignore[operator]
    published = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    for (area, half), (told, told_half) in zip(areas, published, strict=True):
        assert area == pytest.approx(told, abs=1)
        assert half == pytest.approx(told_half, abs=1)
    assert (found.overall.value, 1.96 * found.overall.error) == pytest.approx((0.95, 0.02), abs=0.005)  # type: ignore[operator]
    users = [(e.value, 1.96 * e.error) for e in found.users]  # type: ignore[operator]
    assert np.array(users) == pytest.approx(
        np.array([(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]), abs=0.005
    )
    producers = [e.value for e in found.producers]
    assert producers == pytest.approx([0.75, 0.85, 0.93, 0.96], abs=0.006)


def test_the_published_sample_size() -> None:
    """Section 5.1.1: user's accuracies of 0.70, 0.60, 0.90, 0.95 and a standard error of 0.01 ask for 641 units."""
    shares = np.array(PIXELS) / sum(PIXELS)
    assert sample_size(shares.tolist(), [0.70, 0.60, 0.90, 0.95], 0.01) == 641


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """800 samples of one simulated map: 95 % of the intervals hold the true area and overall accuracy."""
    random = np.random.default_rng(0)
    truth = random.choice(3, 200_000, p=[0.08, 0.3, 0.62])
    wrong = random.random(truth.size) < 0.15
    mapped = np.where(wrong, random.integers(0, 3, truth.size), truth)
    pixels = np.bincount(mapped, minlength=3)
    of_class = [np.flatnonzero(mapped == k) for k in range(3)]
    units = allocate(400, pixels.tolist(), 75)
    held, producers = np.zeros(4), []
    for _ in range(800):
        drawn = np.concatenate([random.choice(of_class[k], units[k], replace=False) for k in range(3)])
        counts = np.zeros((3, 3), np.int64)
        np.add.at(counts, (mapped[drawn], truth[drawn]), 1)
        found = accuracy(counts, pixels, ["a", "b", "c"])
        true = [*np.bincount(truth, minlength=3) / truth.size, (mapped == truth).mean()]
        for k, (estimate, value) in enumerate(zip([*found.shares, found.overall], true, strict=True)):
            low, high = estimate.interval() or (1.0, 0.0)
            held[k] += low <= value <= high
        producers.append([(e.value, e.error) for e in found.producers])
    assert (held / 800 > 0.92).all(), held / 800
    assert (held / 800 < 0.98).all(), held / 800
    values, errors = np.moveaxis(np.array(producers), 2, 0)  # (samples, classes) each
    assert values.mean(axis=0) == pytest.approx([(mapped[truth == k] == k).mean() for k in range(3)], abs=0.01)
    assert errors.mean(axis=0) == pytest.approx(values.std(axis=0), rel=0.1)  # they vary as much as they say


@given(
    st.integers(1, 2000),
    st.lists(st.integers(0, 10**7), min_size=1, max_size=8).filter(lambda pixels: sum(pixels) > 0),
    st.integers(2, 100),
)
def test_allocation_gives_what_was_asked(total: int, pixels: list[int], least: int) -> None:
    units = allocate(total, pixels, least)
    assert all(unit <= available for unit, available in zip(units, pixels, strict=True))
    assert all(unit >= min(least, available) for unit, available in zip(units, pixels, strict=True))
    smallest = sum(min(least, available) for available in pixels)
    assert sum(units) <= max(total, smallest)
    if total >= smallest and total <= sum(pixels) // 2 and min(pixels) > total:
        assert sum(units) == total


def test_a_rare_class_gets_the_least_and_the_rest_is_in_proportion() -> None:
    assert allocate(640, PIXELS, 75) == [75, 75, 162, 328]


def test_classes_that_cannot_be_judged() -> None:
    """A single unit has no variance; a class that nobody mapped or found has no accuracy."""
    with pytest.raises(MappingError, match="mapped class b"):
        accuracy(np.array([[9, 1], [0, 1]]), [5, 5], ["a", "b"])
    found = accuracy(np.array([[9, 0, 1], [0, 9, 1], [0, 0, 0]]), [5, 5, 0], ["a", "b", "never mapped"])
    assert found.users[2].value is None
    assert found.producers[2].value == 0
    assert found.shares[2].value == pytest.approx(0.1)
    never = accuracy(np.array([[9, 0], [9, 0]]), [5, 5], ["a", "b"])
    assert never.producers[1].value is None
