"""Scores agree with scikit-learn, and what is not labelled does not count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.metrics import confusion, scores

NAMES = ("land", "water", "snow")


def test_scores_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    target = random.integers(3, size=(4, 8, 8)).astype(np.uint8)
    predicted = np.where(random.random(target.shape) < 0.7, target, random.integers(3, size=target.shape))
    target[random.random(target.shape) < 0.2] = IGNORE
    found = scores(confusion(target, predicted, 3).sum(axis=0), NAMES)
    y, p = target[target != IGNORE], predicted[target != IGNORE]
    assert found["confusion"] == confusion_matrix(y, p).tolist()
    assert found["overall_accuracy"] == pytest.approx(accuracy_score(y, p))
    assert found["miou"] == pytest.approx(jaccard_score(y, p, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(y, p, average="macro"))
    assert [found["classes"][n]["iou"] for n in NAMES] == pytest.approx(jaccard_score(y, p, average=None))
    assert [found["classes"][n]["f1"] for n in NAMES] == pytest.approx(f1_score(y, p, average=None))


@given(
    target=arrays(np.uint8, (3, 4, 4), elements=st.sampled_from([0, 1, 2, IGNORE])),
    predicted=arrays(np.int64, (3, 4, 4), elements=st.integers(0, 2)),
)
def test_each_window_is_counted_alone(target: np.ndarray, predicted: np.ndarray) -> None:
    together = confusion(target, predicted, 3)
    alone = [confusion(target[i : i + 1], predicted[i : i + 1], 3)[0] for i in range(3)]
    assert np.array_equal(together, alone)
    assert together.sum() == (target != IGNORE).sum()


def test_a_class_that_is_nowhere_has_no_score_and_stays_out_of_the_means() -> None:
    found = scores(np.diag([3, 2, 0]), NAMES)
    assert found["classes"]["snow"] == {"iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0}
    assert found["miou"] == 1.0


def test_nothing_labelled_gives_no_score_instead_of_nan() -> None:
    found = scores(np.zeros((3, 3), np.int64), NAMES)
    assert found["miou"] is None
    assert found["overall_accuracy"] is None
