"""Intervals by blocks: exact against a slow loop, honest in a simulation, and plain where they mean nothing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from judging import LAND_COVER, TREES, SomeTask, land_cover, tree_cover

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer, thinned
from olmoearth_core.training.bootstrap import blocks_of, intervals, paired_difference, tail
from olmoearth_core.training.metrics import scores
from olmoearth_core.training.tally import ClassTally, tally

WATER_IOU = ("classes", "water", "iou")


def _blocks(windows: int, count: int) -> np.ndarray:
    """Windows dealt to `count` blocks in turn."""
    return np.stack([np.arange(windows) % count, np.zeros(windows, np.int64) - 7], axis=1)


def test_intervals_are_those_of_a_slow_loop() -> None:
    judged = tally([land_cover(24)], LAND_COVER)
    assert isinstance(judged, ClassTally)
    blocks = _blocks(24, 6)
    found = intervals(judged, blocks, seed=3, replicates=200)

    random, slow = np.random.default_rng((3, 6)), []
    for _ in range(200):
        weights = random.multinomial(6, np.full(6, 1 / 6))
        matrix = sum(weights[blocks[k, 0]] * judged.confusion[k] for k in range(24))
        slow.append(scores(np.asarray(matrix), LAND_COVER.strata))
    for path, theirs in {
        ("miou",): [s["miou"] for s in slow],
        ("overall_accuracy",): [s["overall_accuracy"] for s in slow],
        WATER_IOU: [s["classes"]["water"]["iou"] for s in slow],
    }.items():
        low, high = np.quantile(theirs, [tail(6), 1 - tail(6)])
        assert (found.intervals[path].low, found.intervals[path].high) == pytest.approx((low, high))
    assert found.values[("miou",)] == pytest.approx(judged.scores()["miou"])


def test_intervals_of_few_blocks_are_wider() -> None:
    # sqrt(n / (n - 1)) t as a normal quantile: t is 2.776 for 5 blocks, 2.262 for 10 (tables of Student's t, 97.5 %)
    assert tail(5) == pytest.approx(0.5 * math.erfc(2.7764 * math.sqrt(5 / 4) / math.sqrt(2)), rel=1e-3)
    assert tail(10) == pytest.approx(0.5 * math.erfc(2.2622 * math.sqrt(10 / 9) / math.sqrt(2)), rel=1e-3)
    assert tail(100_000) == pytest.approx(0.025, rel=1e-3)


@pytest.mark.parametrize("task", [LAND_COVER, TREES])
def test_draws_depend_on_the_seed_alone(task: SomeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = tally([land_cover(20) if task is LAND_COVER else tree_cover(20)], task)
    blocks = _blocks(20, 10)
    once = intervals(judged, blocks, seed=1)
    shuffled = np.random.default_rng(0).permutation(20)
    again = intervals(judged.take(judged.rows[shuffled]), blocks[shuffled], seed=1)
    for path, interval in once.intervals.items():
        other = again.intervals[path]
        assert (other.low, other.high) == pytest.approx((interval.low, interval.high))
    assert intervals(judged, blocks, seed=2).intervals != once.intervals
    monkeypatch.setattr("olmoearth_core.training.bootstrap.AT_ONCE", 1000)  # replicates in several parts
    assert intervals(judged, blocks, seed=1).intervals.keys() == once.intervals.keys()


def _hard_and_easy_ground(blocks: int, seed: int) -> Answer:
    """One window a block; blocks differ in how much of them is right, by far more than pixels by chance would."""
    random = np.random.default_rng(seed)
    share = random.beta(8, 2, blocks)
    strata = np.zeros((blocks, 16, 16), np.uint8)
    right = random.random(strata.shape) < share[:, None, None]
    scores = np.stack([right, ~right], axis=1).astype(np.float32)
    return Answer(np.arange(blocks), strata, None, scores)


@pytest.mark.parametrize(("blocks", "least"), [(5, 0.85), (10, 0.89), (30, 0.90)])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(blocks: int, least: float) -> None:
    two, expected, held = SomeTask("segmentation", ("a", "b")), 0.8, []
    for seed in range(300):
        judged = tally([_hard_and_easy_ground(blocks, seed)], two)
        places = np.stack([judged.rows, judged.rows], axis=1)
        interval = intervals(judged, places, replicates=400).intervals[("overall_accuracy",)]
        held.append(interval.low <= expected <= interval.high)
    assert least <= np.mean(held) <= 0.98


def test_pixels_drawn_one_by_one_would_be_far_too_sure() -> None:
    two = SomeTask("segmentation", ("a", "b"))
    judged = tally([_hard_and_easy_ground(30, 0)], two)
    places = np.stack([judged.rows, judged.rows], axis=1)
    by_block = intervals(judged, places).intervals[("overall_accuracy",)]
    accuracy = judged.scores()["overall_accuracy"]
    by_pixel = 2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / (30 * 256))
    assert by_block.high - by_block.low > 3 * by_pixel


def test_a_paired_difference_is_surer_than_the_scores_it_is_made_of() -> None:
    hard = _hard_and_easy_ground(20, 4)
    random = np.random.default_rng(1)
    better = Answer(hard.rows, hard.strata, None, hard.scores.copy())
    repaired = (random.random(hard.strata.shape) < 0.2) & (hard.scores[:, 0] == 0)
    better.scores[:, 0][repaired], better.scores[:, 1][repaired] = 1, 0
    two = SomeTask("segmentation", ("a", "b"))
    one, other = tally([better], two), tally([hard], two)
    places = np.stack([one.rows, one.rows], axis=1)
    path = ("overall_accuracy",)
    difference = paired_difference(one, other, places)
    assert difference.values[path] == pytest.approx(
        one.scores()["overall_accuracy"] - other.scores()["overall_accuracy"]
    )
    assert difference.intervals[path].low > 0
    alone = intervals(other, places).intervals[path]
    assert difference.intervals[path].high - difference.intervals[path].low < 0.5 * (alone.high - alone.low)
    turned = paired_difference(other, one, places)
    assert turned.intervals[path].low == pytest.approx(-difference.intervals[path].high)


def test_tallies_of_other_pixels_are_not_compared() -> None:
    answer = land_cover(6)
    one, other = tally([answer], LAND_COVER), tally([thinned(answer, 5)], LAND_COVER)
    with pytest.raises(ValueError, match="same windows and pixels"):
        paired_difference(one, other, _blocks(6, 6))


def test_few_blocks_are_told_and_one_has_no_interval() -> None:
    judged = tally([land_cover(12)], LAND_COVER)
    few = intervals(judged, _blocks(12, 3))
    assert not few.trusted
    assert "3 blocks of ground only: the intervals cannot be trusted" in few.note
    assert few.intervals
    one = intervals(judged, _blocks(12, 1))
    assert not one.intervals
    assert "one block of ground" in one.note
    assert one.to_json()[("miou",)] == {"value": pytest.approx(judged.scores()["miou"]), "low": None, "high": None}
    assert intervals(judged, _blocks(12, 5)).note == ""


def test_a_class_in_one_block_of_many_has_no_interval() -> None:
    answer = land_cover(12)
    answer.strata[answer.strata == 2] = IGNORE
    answer.scores[:, 2] = -50
    answer.strata[0, 0, :] = 2
    found = intervals(tally([answer], LAND_COVER), _blocks(12, 12)).to_json()
    assert found[("classes", "snow", "recall")]["value"] == 0
    # its block is in 65 % of the replicates, and its recall in all of these is the same: that is no certainty
    assert found[("classes", "snow", "recall")]["high"] is None
    assert found[("classes", "snow", "recall")]["low"] is None
    assert ("classes", "snow", "precision") not in found


def test_nothing_to_draw_from_has_no_scores() -> None:
    found = intervals(tally([], LAND_COVER), np.zeros((0, 2), np.int64))
    assert not found.values
    assert not found.intervals


def test_blocks_are_those_of_the_window_table() -> None:
    table = pd.DataFrame({"block_column": [1, 2, 3], "block_row": [-4, -5, -6]})
    assert blocks_of(table, np.array([2, 0])).tolist() == [[3, -6], [1, -4]]


def test_a_class_is_trusted_by_the_blocks_that_hold_it() -> None:
    """Ten blocks of land and water say nothing of snow, which lies in two of them."""
    answer = land_cover(20)
    answer.strata[answer.strata == 2] = IGNORE
    answer.strata[[0, 1, 11], 0, :] = 2
    for found in (
        intervals(tally([answer], LAND_COVER), _blocks(20, 10)),
        paired_difference(tally([answer], LAND_COVER), tally([answer], LAND_COVER), _blocks(20, 10)),
    ):
        assert found.trusted
        assert found.note == ""
        assert found.holding == {"land": 10, "water": 10, "snow": 2}
        assert found.rare.startswith(
            "Fewer than 5 of the 10 blocks of ground hold snow (in 2): intervals of these scores"
        )
    assert intervals(tally([land_cover(20)], LAND_COVER), _blocks(20, 10)).rare == ""
    assert intervals(tally([answer], LAND_COVER), _blocks(20, 3)).rare == ""  # all of it is said to be few
    assert intervals(tally([tree_cover(20)], TREES), _blocks(20, 10)).holding == dict.fromkeys(TREES.strata, 10)
