"""The segmentation task: its loss, and how a model is judged by it. The loop knows a task by these verbs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.data import Batch, Windows
from olmoearth_core.training.metrics import confusion, scores


@dataclass(frozen=True)
class Evaluation:
    """How a model answers to the windows of one split.

    Attributes:
        loss: mean cross entropy of a labelled pixel; None where there is none.
        confusion: (N, K, K) pixels of each window by true (row) and predicted (column) class.
        scores: of all windows together (`metrics.scores`).
    """

    loss: float | None
    confusion: np.ndarray
    scores: dict[str, Any]

    @property
    def headline(self) -> float | None:
        """The one number by which epochs are compared, higher is better: mIoU."""
        value: float | None = self.scores["miou"]
        return value


@dataclass(frozen=True)
class Segmentation:
    """One class a pixel."""

    classes: Sequence[str]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the cross entropy over the labelled pixels of `batch`, and their number.

        Sum and number, not a mean: parts of a batch add up, and nothing labelled is 0 of 0 instead of NaN.
        """
        logits = model(batch.inputs, batch.dates, batch.valid)
        return _cross_entropy(logits, batch.target), int((batch.target != IGNORE).sum())

    def evaluate(self, model: nn.Module, windows: Windows, batch_size: int) -> Evaluation:
        """Judge `model`, in evaluation mode, by `windows`; there may be none."""
        model.eval()
        k = len(self.classes)
        total, counts = 0.0, [np.zeros((0, k, k), np.int64)]
        for batch in windows.in_order(batch_size):
            with torch.inference_mode():
                logits = model(batch.inputs, batch.dates, batch.valid)
                total += _cross_entropy(logits, batch.target).item()
            counts.append(confusion(batch.target, logits.argmax(dim=1).cpu().numpy(), k))
        by_window = np.concatenate(counts)
        pixels = int(by_window.sum())
        return Evaluation(total / pixels if pixels else None, by_window, scores(by_window.sum(axis=0), self.classes))


def _cross_entropy(logits: Tensor, target: np.ndarray) -> Tensor:
    """Sum over labelled pixels. logits (B, K, H, W), target (B, H, W)."""
    wanted = torch.as_tensor(target, dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum")
