"""Losses: equal to torch's, additive over parts of a batch, blind to what is not labelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.errors import TrainingError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.models.card import TaskCard
from olmoearth_core.training.losses import OF_CLASSES, OF_VALUES, Loss, make_loss

LAND = TaskCard(classes=["land", "water", "snow"])
COVER = TaskCard(name="cover", kind="regression", range=(0.0, 100.0))


def _classes(seed: int = 0, windows: int = 4) -> tuple[torch.Tensor, Truth]:
    random = np.random.default_rng(seed)
    strata = random.integers(0, 3, (windows, 6, 6)).astype(np.uint8)
    strata[random.random(strata.shape) < 0.3] = IGNORE
    return torch.as_tensor(random.normal(size=(windows, 3, 6, 6)), dtype=torch.float32), Truth(strata)


def _values(seed: int = 0, windows: int = 4) -> tuple[torch.Tensor, Truth]:
    random = np.random.default_rng(seed)
    values = random.uniform(0, 100, (windows, 6, 6)).astype(np.float32)
    values[random.random(values.shape) < 0.3] = np.nan
    strata = np.where(np.isnan(values), IGNORE, 0).astype(np.uint8)
    return torch.as_tensor(random.uniform(0, 100, (windows, 1, 6, 6)), dtype=torch.float32), Truth(strata, values)


def _mean(loss: Loss, answer: torch.Tensor, truth: Truth) -> float:
    return float((loss.sums(answer, truth).numpy() / loss.weights(truth)).sum())


def test_cross_entropy_is_torchs() -> None:
    answer, truth = _classes()
    wanted = torch.as_tensor(truth.strata, dtype=torch.long)
    assert _mean(Loss(LAND, "cross_entropy"), answer, truth) == pytest.approx(
        float(F.cross_entropy(answer, wanted, ignore_index=IGNORE)), rel=1e-5
    )
    weights = (0.5, 2.0, 1.0)
    assert _mean(Loss(LAND, "cross_entropy", weights), answer, truth) == pytest.approx(
        float(F.cross_entropy(answer, wanted, torch.tensor(weights), ignore_index=IGNORE)), rel=1e-5
    )


def test_the_focal_loss_hardly_counts_what_is_right_already() -> None:
    truth = Truth(np.zeros((1, 1, 1), np.uint8))
    sure, unsure = (torch.tensor([[[[s]], [[0.0]], [[0.0]]]]) for s in (5.0, 0.0))
    plain, focal = Loss(LAND, "cross_entropy"), Loss(LAND, "focal")
    right = torch.softmax(torch.tensor([5.0, 0, 0]), 0)[0].item()
    assert _mean(focal, sure, truth) == pytest.approx(_mean(plain, sure, truth) * (1 - right) ** 2, rel=1e-4)
    assert _mean(focal, unsure, truth) == pytest.approx(_mean(plain, unsure, truth) * (2 / 3) ** 2, rel=1e-4)


def test_dice_is_zero_for_a_perfect_and_one_for_an_opposite_answer() -> None:
    strata = np.zeros((1, 4, 4), np.uint8)
    strata[0, :2] = 1
    perfect = 100 * F.one_hot(torch.as_tensor(strata, dtype=torch.long), 3).movedim(-1, 1).float()
    dice = Loss(LAND, "dice")
    assert float(dice.sums(perfect, Truth(strata))[1]) == pytest.approx(0, abs=1e-5)
    assert float(dice.sums(perfect, Truth(1 - strata))[1]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", OF_VALUES)
def test_errors_are_shares_of_half_the_range(kind: str) -> None:
    answer, truth = _values()
    assert truth.values is not None
    error = ((answer[:, 0].numpy() - truth.values) / 50)[truth.strata != IGNORE]
    expected = {
        "squared": (error**2).mean(),
        "absolute": np.abs(error).mean(),
        "huber": np.where(np.abs(error) < 0.1, error**2 / 0.2, np.abs(error) - 0.05).mean(),
    }
    assert _mean(Loss(COVER, kind), answer, truth) == pytest.approx(float(expected[kind]), rel=1e-4)


@pytest.mark.parametrize("kind", [*OF_CLASSES, *OF_VALUES])
def test_parts_of_a_batch_add_up(kind: str) -> None:
    task, (answer, truth) = (LAND, _classes()) if kind in OF_CLASSES else (COVER, _values())
    loss = make_loss(task, kind, np.array([5, 1, 2]), balanced=True)
    whole = loss.sums(answer, truth), loss.weights(truth)
    parts = []
    for k in range(4):
        one = Truth(truth.strata[k : k + 1], None if truth.values is None else truth.values[k : k + 1])
        parts.append((loss.sums(answer[k : k + 1], one), loss.weights(one)))
    assert torch.allclose(torch.stack([p[0] for p in parts]).sum(dim=0), whole[0], rtol=1e-4)
    assert np.allclose(np.sum([p[1] for p in parts], axis=0), whole[1])


@pytest.mark.parametrize("kind", [*OF_CLASSES, *OF_VALUES])
def test_what_is_not_labelled_teaches_nothing(kind: str) -> None:
    task, (answer, truth) = (LAND, _classes()) if kind in OF_CLASSES else (COVER, _values())
    answer.requires_grad_(True)
    make_loss(task, kind, np.ones(3), balanced=False).sums(answer, truth).sum().backward()
    assert answer.grad is not None
    assert (answer.grad.abs().sum(dim=1).numpy()[truth.strata == IGNORE] == 0).all()
    assert answer.grad.abs().sum() > 0


def test_balanced_classes_weigh_alike() -> None:
    loss = make_loss(LAND, "auto", np.array([900, 90, 0]), balanced=True)
    assert loss.kind == "cross_entropy"
    assert loss.class_weights[0] * 900 == pytest.approx(loss.class_weights[1] * 90, rel=1e-4)
    assert loss.class_weights[2] == 0


def test_a_loss_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"'huber' is no loss for the segmentation 'main'; allowed are cross_entropy"
    ):
        make_loss(LAND, "huber", np.ones(3), balanced=False)
    with pytest.raises(TrainingError, match=r"'dice' is no loss for the regression 'cover'; allowed are huber"):
        make_loss(COVER, "dice", np.ones(3), balanced=False)
