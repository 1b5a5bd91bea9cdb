"""What a task's answers are punished for.

A loss is one or two terms, and each term a sum over labels and the weight of those labels: of parts of a batch both add
up, whether they are computed one after the other or by several processes. A step descends
`sum over terms of (sum of the term / weight of the term)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.errors import TrainingError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.models.card import TaskCard
from olmoearth_core.models.transfer import to_device

OF_CLASSES = ("cross_entropy", "focal", "dice")
OF_VALUES = ("huber", "squared", "absolute")
FOCUS = 2.0
"""Exponent of the focal loss (Lin et al. 2017)."""
HUBER = 0.1
"""Errors up to this share of half the range are squared, larger ones are not."""


@dataclass(frozen=True)
class Loss:
    """The loss of one task.

    Attributes:
        task: which.
        kind: one of OF_CLASSES or OF_VALUES.
        class_weights: (K,) of each class's labels; empty means that all weigh the same.
    """

    task: TaskCard
    kind: str
    class_weights: tuple[float, ...] = ()

    def weights(self, truth: Truth) -> np.ndarray:
        """(terms,) weight of the labels of `truth`; needs no answers, so that a step's is known before its forward."""
        labelled = truth.strata != IGNORE
        if self.class_weights:
            table = np.array([*self.class_weights, *[0.0] * (IGNORE + 1 - len(self.class_weights))])
            weight = float(table[truth.strata].sum())
        else:
            weight = float(labelled.sum())
        if self.kind != "dice":
            return np.array([weight])
        return np.array([weight, float(labelled.any(axis=(1, 2)).sum())])

    def sums(self, answer: Tensor, truth: Truth) -> Tensor:
        """(terms,) sums over the labels of `truth`.

        Args:
            answer: (B, K, H, W) scores, or (B, 1, H, W) estimates in the task's unit.
            truth: (B, H, W).
        """
        if self.task.kind == "regression":
            return self._of_values(answer[:, 0], truth)[None]
        wanted = to_device(truth.strata, answer.device).long()
        weight = to_device(self.class_weights, answer.device) if self.class_weights else None
        each = F.cross_entropy(answer, wanted, ignore_index=IGNORE, reduction="none", weight=weight)
        if self.kind == "focal":
            known = wanted.clamp(max=answer.shape[1] - 1)
            right = answer.log_softmax(dim=1).gather(1, known[:, None])[:, 0].exp()
            each = each * (1 - right) ** FOCUS
        if self.kind == "dice":
            return torch.stack([each.sum(), _dice(answer, wanted)])
        return each.sum()[None]

    def _of_values(self, answer: Tensor, truth: Truth) -> Tensor:
        assert truth.values is not None
        assert self.task.range is not None
        half = (self.task.range[1] - self.task.range[0]) / 2
        known = to_device(truth.strata != IGNORE, answer.device)
        wanted = to_device(np.nan_to_num(truth.values), answer.device)
        error = torch.where(known, (answer - wanted) / half, 0.0)
        if self.kind == "squared":
            return error.square().sum()
        if self.kind == "absolute":
            return error.abs().sum()
        return F.huber_loss(error, torch.zeros_like(error), delta=HUBER, reduction="sum") / HUBER


def make_loss(task: TaskCard, kind: str, counts: np.ndarray, *, balanced: bool) -> Loss:
    """The loss that project.yaml asks for.

    Args:
        task: which.
        kind: training.loss.
        counts: (K,) labels of each class in training.
        balanced: a class's labels weigh as much together as another's.

    Raises:
        TrainingError: a loss that does not fit the task.
    """
    allowed: Sequence[str] = OF_VALUES if task.kind == "regression" else OF_CLASSES
    if kind == "auto":
        kind = allowed[0]
    if kind not in allowed:
        raise TrainingError(
            f"training.loss: '{kind}' is no loss for the {task.kind} '{task.name}'; allowed are {', '.join(allowed)}."
        )
    if not balanced or task.kind == "regression":
        return Loss(task, kind)
    present = counts > 0
    weights = np.where(present, counts.sum() / np.maximum(counts, 1) / max(present.sum(), 1), 0.0)
    return Loss(task, kind, tuple(np.round(weights, 6).tolist()))


def _dice(answer: Tensor, wanted: Tensor) -> Tensor:
    """Sum over windows of 1 - soft Dice, the mean over the classes that are labelled in the window."""
    classes = answer.shape[1]
    known = (wanted != IGNORE)[:, None]
    probability = answer.softmax(dim=1) * known
    truth = F.one_hot(wanted.clamp(max=classes - 1), classes).movedim(-1, 1) * known
    both, either = (probability * truth).sum(dim=(2, 3)), (probability + truth).sum(dim=(2, 3))
    present = truth.any(dim=2).any(dim=2)
    lost = torch.where(present, 1 - 2 * both / either.clamp(min=1e-6), 0.0)
    return (lost.sum(dim=1) / present.sum(dim=1).clamp(min=1)).sum()
