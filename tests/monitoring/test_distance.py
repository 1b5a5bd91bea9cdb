"""The distances are those of their definitions, small without a shift and large with one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from olmoearth_core.monitoring.distance import ks, mean_distance, psi

RANDOM = np.random.default_rng(0)


def test_ks_is_that_of_scipy() -> None:
    for shift in (0.0, 0.4, 3.0):
        old, new = RANDOM.normal(size=700), RANDOM.normal(shift, 1.3, size=900)
        assert ks(old, new) == pytest.approx(ks_2samp(old, new).statistic)
    ties = RANDOM.integers(4, size=300)
    assert ks(ties, ties + 1) == pytest.approx(ks_2samp(ties, ties + 1).statistic)


def test_psi_of_a_known_shift() -> None:
    """Of two normal distributions a unit apart, by the tenths of the first: integrated numerically."""
    from scipy.stats import norm

    edges = norm.ppf(np.arange(0.1, 1, 0.1))
    new = np.diff(np.concatenate([[0], norm.cdf(edges - 1), [1]]))
    expected = float(((new - 0.1) * np.log(new / 0.1)).sum())
    assert psi(RANDOM.normal(size=200_000), RANDOM.normal(1, size=200_000)) == pytest.approx(expected, rel=0.03)
    assert psi(RANDOM.normal(size=200_000), RANDOM.normal(size=200_000)) < 0.001


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_any_samples_have_distances(one: list[int], other: list[int]) -> None:
    old, new = np.array(one), np.array(other)
    assert psi(old, new) >= 0
    assert psi(old, old) == 0
    assert 0 <= ks(old, new) <= 1
    assert ks(old, new) == ks(new, old)


def test_embeddings_without_a_shift_lie_together_however_few_they_are() -> None:
    for count in (8, 64):
        found = [mean_distance(RANDOM.normal(size=(count, 50)), RANDOM.normal(size=(count, 50))) for _ in range(30)]
        assert np.mean(found) < 0.2
    shifted = mean_distance(RANDOM.normal(size=(64, 50)), RANDOM.normal(1, size=(64, 50)))
    assert shifted == pytest.approx(1, abs=0.1), "a spread in each direction is a spread in all"
    assert mean_distance(np.ones((4, 3)), np.ones((4, 3))) == 0
