"""Scores from per-window sums are those of torchmetrics on the pixels, however the pixels came."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from judging import LAND_COVER, TREES, SomeTask, land_cover, tree_cover
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, PearsonCorrCoef, R2Score

from olmoearth_core.errors import TrainingError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer, thin, thinned
from olmoearth_core.training.metrics import BINS
from olmoearth_core.training.tally import ClassTally, headline, tally


def parts(answer: Answer, *ends: int) -> Iterator[Answer]:
    """The same windows in several batches."""
    for first, last in zip((0, *ends), (*ends, len(answer.rows)), strict=True):
        cut = slice(first, last)
        values = None if answer.values is None else answer.values[cut]
        yield Answer(answer.rows[cut], answer.strata[cut], values, answer.scores[cut])


def test_scores_of_classes_are_those_of_torchmetrics() -> None:
    answer = land_cover(7, seed=1)
    found = tally(parts(answer, 3, 4), LAND_COVER).scores()
    scores, truth = torch.tensor(answer.scores), torch.tensor(answer.strata.astype(np.int64))
    three = {"num_classes": 3, "ignore_index": IGNORE}

    def theirs(metric: torch.nn.Module) -> torch.Tensor:
        value: torch.Tensor = metric(scores, truth)
        return value

    assert found["confusion"] == theirs(MulticlassConfusionMatrix(**three)).tolist()
    assert found["overall_accuracy"] == pytest.approx(theirs(MulticlassAccuracy(**three, average="micro")).item())
    assert found["miou"] == pytest.approx(theirs(MulticlassJaccardIndex(**three)).item())
    assert found["macro_f1"] == pytest.approx(theirs(MulticlassF1Score(**three)).item())
    for name, metric in {
        "iou": MulticlassJaccardIndex,
        "f1": MulticlassF1Score,
        "precision": MulticlassPrecision,
        "recall": MulticlassRecall,
    }.items():
        by_class = [c[name] for c in found["classes"].values()]
        assert by_class == pytest.approx(theirs(metric(**three, average=None)).tolist())
    ece = MulticlassCalibrationError(**three, n_bins=BINS, norm="l1")
    assert found["ece"] == pytest.approx(theirs(ece).item(), abs=1e-6)
    loss = torch.nn.functional.cross_entropy(scores, truth, ignore_index=IGNORE)
    assert found["log_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_scores_of_values_are_those_of_torchmetrics() -> None:
    answer = tree_cover(7, seed=1)
    found = tally(parts(answer, 2), TREES).scores()
    known = answer.strata != IGNORE
    assert answer.values is not None
    estimate, truth = torch.tensor(answer.scores[:, 0][known]), torch.tensor(answer.values[known])
    assert found["rmse"] == pytest.approx(MeanSquaredError(squared=False)(estimate, truth).item(), rel=1e-5)
    assert found["mae"] == pytest.approx(MeanAbsoluteError()(estimate, truth).item(), rel=1e-5)
    assert found["r2"] == pytest.approx(R2Score()(estimate, truth).item(), rel=1e-5)
    assert found["r"] == pytest.approx(PearsonCorrCoef()(estimate, truth).item(), rel=1e-5)
    assert found["bias"] == pytest.approx((estimate - truth).mean().item(), rel=1e-4)
    assert found["pixels"] == int(known.sum()) == sum(s["pixels"] for s in found["strata"].values())
    low = truth < 20
    assert found["strata"]["0..20"]["bias"] == pytest.approx((estimate - truth)[low].mean().item(), rel=1e-3)
    assert found["unit"] == "%"


@pytest.mark.parametrize(("answer", "task"), [(land_cover(9), LAND_COVER), (tree_cover(9), TREES)])
def test_batches_make_no_difference_and_windows_can_be_taken(answer: Answer, task: SomeTask) -> None:
    whole, in_parts = tally([answer], task), tally(parts(answer, 1, 5, 6), task)
    assert np.array_equal(whole.sums, in_parts.sums)
    assert whole.scores() == in_parts.scores()
    chosen = np.array([6, 2])
    assert np.array_equal(whole.take(chosen).sums, whole.sums[chosen])
    assert whole.take(chosen).pixels.tolist() == (answer.strata[chosen] != IGNORE).sum(axis=(1, 2)).tolist()


def test_the_sums_do_not_grow_with_pixels() -> None:
    small, large = tally([land_cover(3, size=4)], LAND_COVER), tally([land_cover(3, size=64)], LAND_COVER)
    assert small.sums.nbytes == large.sums.nbytes


def test_windows_without_labels_are_left_out() -> None:
    answer = land_cover(4)
    answer.strata[[0, 2]] = IGNORE
    assert tally([answer], LAND_COVER).rows.tolist() == [1, 3]


@pytest.mark.parametrize("task", [LAND_COVER, TREES])
def test_nothing_to_judge_gives_no_score_instead_of_nan(task: SomeTask) -> None:
    found = tally([], task).scores()
    assert headline(found, task) is None
    assert found["pixels"] == 0


def test_truth_that_does_not_vary_has_no_r2() -> None:
    answer = tree_cover(2)
    assert answer.values is not None
    answer.values[answer.strata != IGNORE] = 37.1
    found = tally([answer], TREES).scores()
    assert found["r2"] is None
    assert found["r"] is None
    assert found["rmse"] > 0


def test_a_temperature_changes_how_sure_and_not_what() -> None:
    answer = land_cover(5)
    warm, plain = tally([answer], LAND_COVER, 3.0), tally([answer], LAND_COVER)
    assert isinstance(warm, ClassTally)
    assert isinstance(plain, ClassTally)
    assert np.array_equal(warm.confusion, plain.confusion)
    assert warm.reliability[..., 1].sum() < plain.reliability[..., 1].sum()


def test_an_answer_that_is_no_number_is_refused_by_name() -> None:
    answer = land_cover(3)
    answer.scores[1] = np.nan
    with pytest.raises(TrainingError, match="window 1 of the training set is no number"):
        tally([answer], LAND_COVER)


def test_thinning_keeps_the_same_pixels_for_whoever_answers() -> None:
    answer = land_cover(6, size=16)
    kept = thinned(answer, 20)
    assert ((kept.strata != IGNORE).sum(axis=(1, 2)) == 20).all()
    assert (kept.strata[kept.strata != IGNORE] == answer.strata[kept.strata != IGNORE]).all()
    assert np.array_equal(thin(answer.strata[3], 20, 3), kept.strata[3])
    assert np.array_equal(thin(answer.strata[3], 1000, 3), answer.strata[3])
