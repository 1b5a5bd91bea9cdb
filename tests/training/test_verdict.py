"""What a difference means is said in words that hold."""

from __future__ import annotations

import pytest

from olmoearth_core.models.score_text import difference_text, shown, with_interval
from olmoearth_core.training.bootstrap import Interval, Resampled
from olmoearth_core.training.metrics import HEADLINE
from olmoearth_core.training.verdict import NO_GAIN, NOT_WORTH, compare

RF = "a random forest"


def _difference(kind: str, value: float, low: float, high: float, blocks: int = 20) -> Resampled:
    path = HEADLINE[kind]
    limits = {} if blocks < 2 else {path: Interval(low, high)}
    return Resampled({path: value}, limits, blocks)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "sentence"),
    [
        (0.031, 0.012, 0.05, "better",
         "The model is better than a random forest by 3.1 points of mean IoU (95 % interval 1.2 to 5.0)."),
        (-0.031, -0.05, -0.012, "worse",
         f"The model is worse than a random forest by 3.1 points of mean IoU (95 % interval 1.2 to 5.0). {NOT_WORTH}"),
        (0.004, -0.006, 0.013, "not shown",
         "The model is not shown to be better than a random forest: it has 0.4 points of mean IoU more "
         "(95 % interval -0.6 to 1.3)."),
        (-0.004, -0.013, 0.006, "not shown",
         "The model is not shown to be better than a random forest: it has 0.4 points of mean IoU less "
         f"(95 % interval -1.3 to 0.6). {NO_GAIN}"),
    ],
)  # fmt: skip
def test_a_difference_is_told_with_its_interval(
    value: float, low: float, high: float, verdict: str, sentence: str
) -> None:
    assert compare(_difference("segmentation", value, low, high), "segmentation", RF) == (verdict, sentence)


def test_r2_is_told_as_it_is() -> None:
    _, sentence = compare(_difference("regression", 0.031, 0.012, 0.05), "regression", RF)
    assert sentence == "The model is better than a random forest by 0.031 of R² (95 % interval 0.012 to 0.050)."


def test_few_blocks_show_nothing_however_large_the_difference() -> None:
    verdict, sentence = compare(_difference("segmentation", 0.2, 0.1, 0.3, blocks=3), "segmentation", RF)
    assert verdict == "not shown"
    assert "higher than a random forest, by 20.0 points of mean IoU (10.0 to 30.0)" in sentence
    assert "3 blocks of ground only" in sentence
    verdict, sentence = compare(_difference("segmentation", -0.2, 0, 0, blocks=1), "segmentation", RF)
    assert verdict == "not shown"
    assert "lower than a random forest, by 20.0 points of mean IoU, but" in sentence
    assert NO_GAIN in sentence
    assert NOT_WORTH not in sentence  # no loss is shown either


def test_no_score_cannot_be_compared() -> None:
    verdict, sentence = compare(Resampled({}, {}, 0), "classification", RF)
    assert verdict == "not shown"
    assert "one of them has no macro F1" in sentence


def test_scores_are_written_with_their_intervals() -> None:
    scores = {"miou": 0.87349, "rmse": 12.345, "ece": None, "intervals": {"miou": {"low": 0.85, "high": 0.89}}}
    assert with_interval(scores, "miou") == "0.873 (0.850 to 0.890)"
    assert with_interval(scores, "rmse") == "12.3"
    assert with_interval(scores, "ece") == "none"
    assert shown("bias", -0.0123) == "-0.0123"
    difference = {"classes": {"water": {"iou": {"value": 0.1, "low": -0.01, "high": 0.2}}}}
    assert difference_text(difference, "classes", "water", "iou") == "+0.100 (-0.010 to +0.200)"
    assert difference_text(difference, "classes", "land", "iou") == "none"
