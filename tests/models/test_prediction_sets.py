"""Prediction sets hold the truth as often as asked, class by class, on pixels they never saw."""

from __future__ import annotations

import numpy as np
import pytest

from olmoearth_core.models.prediction_sets import COVERAGES, PredictionSets

SHARES = np.array([0.7, 0.25, 0.05])


def some_pixels(count: int, random: np.random.Generator, shares: np.ndarray = SHARES) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities (P, 3), truth (P,)) of a model that is overconfident and confuses the last two classes."""
    truth = random.choice(3, count, p=shares)
    centres = np.array([[2.0, 0, 0], [0, 1.5, 1.0], [0, 1.0, 1.5]])
    scores = 2 * (centres[truth] + random.normal(size=(count, 3)))
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True), truth


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_each_class_is_held_as_often_as_asked(coverage: float) -> None:
    """Over 200 draws of 2,000 known pixels (100 of the rarest class), whatever the shares of the classes in the map."""
    random = np.random.default_rng(0)
    held, sizes = [], []
    for _ in range(200):
        sets = PredictionSets.fit(*some_pixels(2000, random))
        probabilities, truth = some_pixels(2000, random, np.array([0.2, 0.3, 0.5]))
        members = sets.members(probabilities.T, coverage)
        held.append([members[k, truth == k].mean() for k in range(3)])
        sizes.append(members.sum(axis=0).mean())
    assert (np.mean(held, axis=0) >= coverage - 0.005).all(), np.mean(held, axis=0)
    assert np.mean(held, axis=0)[1:] == pytest.approx(coverage, abs=0.03)
    assert 1 < np.mean(sizes) < 2.5  # and they rule something out


def test_more_coverage_rules_fewer_classes_out() -> None:
    random = np.random.default_rng(1)
    sets = PredictionSets.fit(*some_pixels(5000, random))
    assert (np.diff(np.array(sets.least), axis=1) <= 0).all()
    probabilities, truth = some_pixels(5000, random)
    found = [sets.held(probabilities, truth, coverage) for coverage in COVERAGES]
    assert found == sorted(found)  # type: ignore[type-var]
    assert sets.needed(0.87).tolist() == sets.needed(0.9).tolist()  # the next higher that is kept
    with pytest.raises(ValueError, match=r"above 0\.99"):
        sets.needed(0.995)


def test_a_class_with_too_few_pixels_is_ruled_out_nowhere() -> None:
    random = np.random.default_rng(2)
    probabilities, _ = some_pixels(30, random)
    sets = PredictionSets.fit(probabilities, np.repeat([0, 1], [21, 9]))
    assert sets.pixels == [21, 9, 0]
    assert sets.needed(0.9)[0] > 0  # the 20th of 21
    assert sets.needed(0.9)[1] > 0  # the 9th of 9
    assert sets.needed(0.95).tolist()[1:] == [0, 0]
    assert sets.needed(0.5)[2] == 0
    members = sets.members(probabilities.T, 0.9)
    assert members[2].all()
    nobody = PredictionSets.fit(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert nobody.members(probabilities.T, 0.5).all()
    assert nobody.held(np.zeros((0, 3)), np.zeros(0, np.int64), 0.5) is None


def test_a_set_is_never_empty_and_rounding_rules_nothing_out() -> None:
    sets = PredictionSets(coverages=[0.9], least=[[0.9], [0.9], [0.5018]], pixels=[9, 9, 9])
    probabilities = np.array([[0.34, 0.33, 0.33], [0.2, 0.2982, 0.5018], [0.1, 0.0, 0.9]]).T
    assert sets.members(probabilities, 0.9).T.tolist() == [
        [True, False, False],
        [False, False, True],
        [False] * 2 + [True],
    ]
    stored = np.rint(probabilities * 250).astype(np.uint8)
    assert (sets.members(stored, 0.9, 250) >= sets.members(probabilities, 0.9)).all()
