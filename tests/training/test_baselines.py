"""The random forest learns what is there to learn, answers as a model does, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from judging import EVENTS, SHORE, TREES, Seen, SomeTask, window

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training import baselines
from olmoearth_core.training.answers import thinned
from olmoearth_core.training.baselines import Forest, fit_forest, pixel_features, window_features
from olmoearth_core.training.tally import tally


def read(rows: Sequence[int]) -> list[Seen]:
    return [window(row) for row in rows]


def forest(name: str, task: SomeTask, rows: Sequence[int] = range(20)) -> Forest:
    found = fit_forest(read, rows, name, task)  # type: ignore[arg-type]
    assert found is not None
    return found


def answers(fitted: Forest, rows: Sequence[int], **how: int) -> list[baselines.Answer]:
    return list(fitted.answers(read, rows, **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "task", "score", "least"),
    [("shore", SHORE, "miou", 0.9), ("trees", TREES, "r2", 0.95), ("events", EVENTS, "macro_f1", 0.9)],
)
def test_it_learns_what_the_imagery_tells(name: str, task: SomeTask, score: str, least: float) -> None:
    fitted = forest(name, task)
    found = tally(answers(fitted, range(100, 110), at_once=4), task).scores()
    assert found[score] > least
    again = forest(name, task)
    mine, theirs = (answers(f, range(100, 110), at_once=n) for f, n in ((fitted, 10), (again, 3)))
    assert np.array_equal(np.concatenate([a.scores for a in mine]), np.concatenate([a.scores for a in theirs]))


def test_probabilities_are_those_of_the_trees_and_unknown_classes_have_next_to_none() -> None:
    answer = answers(forest("shore", SHORE), [100])[0]
    known = answer.strata[0] != IGNORE
    probabilities = np.exp(answer.scores[0][:, known])
    assert probabilities[:2].sum(axis=0) == pytest.approx(1, abs=1e-3)
    assert (probabilities[2] < 1e-3).all()
    assert (answer.scores[0][:, ~known] == 0).all()


def test_thinned_answers_are_those_of_the_same_pixels() -> None:
    fitted = forest("shore", SHORE)
    some, all_of_it = answers(fitted, [100, 101], most=9)[0], answers(fitted, [100, 101])[0]
    assert np.array_equal(some.strata, thinned(all_of_it, 9).strata)
    asked = some.strata != IGNORE
    assert asked.sum() == 18
    assert np.array_equal(np.moveaxis(some.scores, 1, -1)[asked], np.moveaxis(all_of_it.scores, 1, -1)[asked])


def test_a_rare_class_is_drawn_more_often_and_weighted_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_PIXELS", 400)
    rows = range(60)

    def rare(rows: Sequence[int]) -> list[Seen]:
        return [window(row, rare=True) for row in rows]

    _, strata, _, weights = baselines._draw_pixels(rare, rows, "shore", SHORE, 16, 0, lambda _n: None)  # type: ignore[arg-type]
    truth = np.concatenate([s.truths["shore"].strata.ravel() for s in rare(rows)])
    counts = np.bincount(truth[truth != IGNORE])
    assert (strata == 1).sum() > 2 * 400 * counts[1] / counts.sum()
    assert 300 < len(strata) < 520
    for index in (0, 1):
        assert weights[strata == index].sum() == pytest.approx(counts[index], rel=0.2)


def test_a_missing_timestep_is_the_mean_of_the_others() -> None:
    cube = np.array([10, 0, 30], np.uint16).reshape(3, 1, 1, 1)
    valid = np.array([True, False, True]).reshape(3, 1, 1)
    sample = Seen({"sentinel2_l2a": cube}, {"sentinel2_l2a": valid}, {})
    assert pixel_features(sample, np.ones((1, 1), bool)).tolist() == [[10, 20, 30]]  # type: ignore[arg-type]
    found = window_features(sample).reshape(3, 5)  # type: ignore[arg-type]
    assert found[:, 0].tolist() == [10, 20, 30]
    blind = Seen({"sentinel2_l2a": cube}, {"sentinel2_l2a": np.zeros_like(valid)}, {})
    assert pixel_features(blind, np.ones((1, 1), bool)).tolist() == [[0, 0, 0]]  # type: ignore[arg-type]
    assert not window_features(blind).any()  # type: ignore[arg-type]


def test_one_class_or_nothing_gives_no_forest() -> None:
    def unlabelled(rows: Sequence[int]) -> list[Seen]:
        none = {name: Truth(np.full((8, 8), IGNORE, np.uint8)) for name in ("shore", "trees", "events")}
        none["trees"] = Truth(none["trees"].strata, np.full((8, 8), np.nan, np.float32))
        return [Seen(window(row).inputs, window(row).valid, none) for row in rows]

    for name, task in (("shore", SHORE), ("trees", TREES), ("events", EVENTS)):
        assert fit_forest(unlabelled, [1, 2], name, task) is None  # type: ignore[arg-type]
        assert fit_forest(read, [], name, task) is None  # type: ignore[arg-type]
    assert fit_forest(read, [2, 4], "events", EVENTS) is None  # type: ignore[arg-type]


def test_windows_without_labels_are_answered_without_any() -> None:
    fitted = forest("events", EVENTS)

    def unlabelled(rows: Sequence[int]) -> list[Seen]:
        none = {"events": Truth(np.full((8, 8), IGNORE, np.uint8))}
        return [Seen(window(row).inputs, window(row).valid, none) for row in rows]

    answer = next(fitted.answers(unlabelled, [1, 2]))  # type: ignore[arg-type]
    assert (answer.strata == IGNORE).all()
    assert answer.scores.shape == (2, 2, 1, 1)
