"""What a probe says in words: a bigger encoder pays where the paired interval says so, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from judging import LAND_COVER, land_cover

from olmoearth_core.models.card import BaseWeights
from olmoearth_core.training.probe_report import Probed, report
from olmoearth_core.training.tally import Tally, tally

WINDOWS = 24


def _tally(skill: float, windows: int = WINDOWS) -> Tally:
    return tally([land_cover(windows, skill=skill)], LAND_COVER)


def _blocks(found: Tally) -> np.ndarray:
    return np.stack([found.rows // 2, np.zeros_like(found.rows)], axis=1)


def _probed(name: str, macs: int, skill: float | None, windows: int = WINDOWS) -> Probed:
    base = BaseWeights(source="random" if skill is None else "hf://somewhere", licence="free")
    chance = {learner: (_tally(1.0, windows), {}) for learner in ("knn", "linear")}
    known = skill and {learner: (_tally(skill, windows), {}) for learner in ("knn", "linear")}
    return Probed(name, base, 10 * macs, macs, known or None, chance)


def _report(*probed: Probed, forest: float | None = 1.5) -> dict[str, Any]:
    fitted = None if forest is None else (_tally(forest, len(probed[0].random["knn"][0].rows)), {})
    return report({}, LAND_COVER, list(probed), fitted, _blocks)


@pytest.mark.parametrize(
    ("skill", "verdict", "sentence"),
    [
        (3.0, "better", "At 4.0 times the compute, the bigger encoder pays."),
        (2.0, "not shown", "At 4.0 times the compute, that the bigger encoder pays is not shown."),
        (1.5, "worse", "At 4.0 times the compute, the bigger encoder does not pay."),
    ],
)
def test_whether_a_bigger_encoder_pays(skill: float, verdict: str, sentence: str) -> None:
    found = _report(_probed("big", 400, skill), _probed("small", 100, 2.0))
    assert [row["encoder"] for row in found["encoders"]] == ["small", "big"]
    [told] = [c for c in found["comparisons"] if c["what"] == "big for small"]
    assert told["verdict"] == verdict
    assert told["sentence"].endswith(sentence)
    assert told["sentence"].startswith(f"big is {verdict.replace('not shown', 'not shown to be better')} than small")
    assert "by -" not in told["sentence"]
    assert "points of mean IoU between their linear probes (95 % interval" in told["sentence"]
    if verdict != "not shown":
        assert told["low"] * told["high"] > 0


def test_pretraining_and_the_forest_are_compared_with() -> None:
    found = _report(_probed("small", 100, 2.0), forest=2.6)
    pretraining, forest = found["comparisons"]
    assert (pretraining["what"], pretraining["verdict"]) == ("pretraining of small", "better")
    assert pretraining["sentence"].startswith("small with these weights is better than with random ones, by ")
    assert (forest["what"], forest["verdict"]) == ("small for a random forest", "worse")
    assert "points of mean IoU between its linear probe and the forest (95 % interval" in forest["sentence"]
    assert "The forest answers for pixels, a probe for patches." in forest["sentence"]
    assert found["forest"]["value"] > found["encoders"][0]["linear"]["value"]


def test_random_weights_alone_say_nothing_of_size() -> None:
    found = _report(_probed("small", 100, None), _probed("big", 400, None), forest=None)
    assert found["comparisons"] == []
    assert found["forest"] is None
    assert found["encoders"][0]["knn"] is None


def test_of_few_blocks_nothing_is_shown() -> None:
    found = _report(_probed("small", 100, 1.0, 6), _probed("big", 400, 6.0, 6))
    assert {c["verdict"] for c in found["comparisons"]} == {"not shown"}
    assert "3 blocks of ground only" in found["note"]
