"""Temperature scaling finds the temperature that was hidden, and says why where it cannot look for one."""

from __future__ import annotations

import numpy as np
import pytest
from judging import LAND_COVER, land_cover

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.calibration import Keeper, fit_temperature
from olmoearth_core.training.tally import log_softmax, tally


def _honest(windows: int, seed: int = 0) -> Answer:
    """Windows whose truth is drawn from the very probabilities that the scores say."""
    random = np.random.default_rng(seed)
    scores = (2 * random.normal(size=(windows, 3, 16, 16))).astype(np.float32)
    flat = np.moveaxis(scores, 1, -1).reshape(-1, 3)
    threshold = random.random((len(flat), 1))
    strata = (np.exp(log_softmax(flat)).cumsum(axis=1) < threshold).sum(axis=1).clip(0, 2)
    return Answer(np.arange(windows), strata.reshape(windows, 16, 16).astype(np.uint8), None, scores)


@pytest.mark.parametrize("hidden", [0.4, 1.0, 3.0])
def test_a_hidden_temperature_is_found_and_probabilities_become_true(hidden: float) -> None:
    honest = _honest(40)
    told = Answer(honest.rows, honest.strata, None, honest.scores * np.float32(hidden))
    keeper = Keeper(40)
    keeper.add(told)
    before = tally([told], LAND_COVER).scores()
    found = keeper.temperature()
    assert found.value == pytest.approx(hidden, rel=0.05)
    assert found.pixels == 40 * 256
    assert found.log_loss_before == pytest.approx(before["log_loss"], rel=1e-5)
    assert found.log_loss_after is not None
    assert found.log_loss_after <= found.log_loss_before + 1e-9
    fresh = _honest(40, seed=1)  # ground that it was not fitted on
    other = Answer(fresh.rows, fresh.strata, None, fresh.scores * np.float32(hidden))
    assert tally([other], LAND_COVER, found.value).scores()["ece"] < 0.02


def test_it_is_fitted_on_a_bounded_number_of_pixels_the_same_for_any_batches() -> None:
    answer = land_cover(12, size=16)
    found = []
    for ends in ([12], [5, 12]):
        keeper, first = Keeper(12, most=600), 0
        for last in ends:
            cut = slice(first, last)
            keeper.add(Answer(answer.rows[cut], answer.strata[cut], None, answer.scores[cut]))
            first = last
        found.append(keeper.temperature())
    assert found[0] == found[1]
    assert found[0].pixels == 12 * 50


def test_without_anything_to_fit_on_probabilities_stay_and_it_is_said() -> None:
    nothing = Keeper(0).temperature()
    assert (nothing.value, nothing.pixels) == (1.0, 0)
    assert "nothing labelled" in nothing.note
    unlabelled = land_cover(2)
    unlabelled.strata[:] = IGNORE
    keeper = Keeper(2)
    keeper.add(unlabelled)
    assert "nothing labelled" in keeper.temperature().note
    scores = np.array([[2, 1], [1, 2], [3, 1]], np.float32)
    one_class = fit_temperature(scores, np.zeros(3, np.int64))
    assert one_class.value == 1.0
    assert "one class only" in one_class.note
    flawless = fit_temperature(scores, np.array([0, 1, 0]))
    assert flawless.value == 1.0
    assert "all right" in flawless.note
    assert flawless.to_json()["temperature"] == 1.0
