"""Two learners that show what frozen features hold: weighted nearest neighbours, and one linear layer.

The neighbours learn nothing (Caron et al. 2021): the k nearest by cosine similarity, each with the weight
exp(similarity / 0.07). The linear layer (He et al. 2022): batch norm without weights of its own, then `Linear`, AdamW,
50 epochs, 10 % warm-up, half a cosine down to 1e-5; its learning rate is the best of RATES on training ground that is
held out for the choice, and it then learns from all of it. Neither sees a window of another split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmoearth_core.training.answers import Task
from olmoearth_core.training.metrics import HEADLINE, class_measures, confusion
from olmoearth_core.training.points import Points

K = 20
TEMPERATURE = 0.07
SURE = 1e-4
"""Least probability that is passed on: twenty neighbours cannot know a smaller one."""
AT_ONCE = 2048
"""Points answered at once."""

EPOCHS, BATCH, WARM_UP, LAST_RATE, WEIGHT_DECAY = 50, 256, 0.1, 1e-5, 0.01
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates to choose from."""
HELD_OUT = 5
"""One in so many blocks of training ground is held out to choose the learning rate."""

PROTOCOL: dict[str, Any] = {
    "knn": {"k": K, "similarity": "cosine", "weights": f"exp(similarity / {TEMPERATURE})"},
    "linear": {
        "layers": "BatchNorm1d without weights, Linear",
        "optimizer": "AdamW",
        "weight_decay": WEIGHT_DECAY,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "warm_up": WARM_UP,
        "schedule": f"cosine to {LAST_RATE:g}",
        "learning_rates": list(RATES),
        "learning_rate_chosen_on": f"one in {HELD_OUT} blocks of training ground, held out",
    },
}
"""How the two learn, as it is stored with scores."""


@dataclass(frozen=True)
class Neighbours:
    """Weighted nearest neighbours among N points.

    Attributes:
        features: (N, D) float32, of length 1.
        strata: (N,) int64.
        values: (N,) float32; None unless it is a regression.
        outputs: K.
    """

    features: Tensor
    strata: Tensor
    values: Tensor | None
    outputs: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(P, K) float32 logarithms of the votes' shares; (P, 1) weighted means of a regression."""
        found = [self._scores(part) for part in torch.as_tensor(features).split(AT_ONCE)]
        return np.asarray(torch.cat(found).numpy())

    def _scores(self, features: Tensor) -> Tensor:
        similarity, nearest = (F.normalize(features) @ self.features.T).topk(min(K, len(self.features)))
        weights = (similarity / TEMPERATURE).softmax(dim=1)
        if self.values is not None:
            return (weights * self.values[nearest]).sum(dim=1, keepdim=True)
        votes = torch.zeros(len(features), self.outputs).scatter_add_(1, self.strata[nearest], weights)
        return votes.clamp(min=SURE).log()


def neighbours(points: Points, task: Task) -> Neighbours:
    """The neighbours among `points` (at least one)."""
    values = None if points.values is None else torch.as_tensor(points.values)
    return Neighbours(
        F.normalize(torch.as_tensor(points.features)), torch.as_tensor(points.strata), values, len(task.strata)
    )


@dataclass(frozen=True)
class Linear:
    """A linear layer on normed features, trained.

    Attributes:
        norm: batch norm, in evaluation mode.
        layer: from D features to K.
        middle, spread: of the values it learned from, in the task's unit; 0 and 1 unless it is a regression.
        learning_rate: the one that was chosen.
    """

    norm: nn.BatchNorm1d
    layer: nn.Linear
    middle: float
    spread: float
    learning_rate: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(P, K) float32 logits of features (P, D); (P, 1) estimates of a regression."""
        with torch.inference_mode():
            found = self.layer(self.norm(torch.as_tensor(features)))
        return np.asarray((self.middle + self.spread * found).numpy())


def fit_linear(points: Points, task: Task, *, seed: int = 0) -> Linear:
    """Choose the learning rate on a part of the training ground, then learn from all; equal input gives equal layers.

    Args:
        points: at least two.
        task: what is learned.
        seed: of first weights, order, and which ground is held out.
    """
    held = _held_out(points, seed)
    tried = _train(points.take(np.flatnonzero(~held)), task, RATES, seed)
    judged = points.take(np.flatnonzero(held))
    best = max(tried, key=lambda linear: _score(linear, judged, task))  # of equals the slowest
    return _train(points, task, [best.learning_rate], seed)[0]


def _held_out(points: Points, seed: int) -> np.ndarray:
    """(P,) bool: points of one block of ground in HELD_OUT; one point in HELD_OUT where blocks would take most."""
    for groups in (points.blocks, np.arange(len(points))):
        order = np.random.default_rng((seed, 5)).permutation(np.unique(groups))
        held: np.ndarray = np.isin(groups, order[: math.ceil(len(order) / HELD_OUT)])
        if held.mean() <= 0.5:
            break
    return held


def _score(linear: Linear, points: Points, task: Task) -> float:
    """The headline score on points; of a regression, which is compared on the same points, the mean squared error."""
    found = linear.scores(points.features)
    if points.values is not None:
        return -float(np.mean((found[:, 0] - points.values) ** 2))
    matrix = confusion(points.strata[None, None], found.argmax(axis=1)[None, None], len(task.strata))[0]
    measures = class_measures(matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0), task.strata)
    return float(measures[HEADLINE[task.kind]])


def _train(points: Points, task: Task, rates: Sequence[float], seed: int) -> list[Linear]:
    """A layer for each learning rate, all trained beside each other on the same batches."""
    features = torch.as_tensor(points.features)
    middle, spread, target = _target(points)
    outputs = 1 if points.values is not None else len(task.strata)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(features.shape[1], affine=False)
        first = nn.Linear(features.shape[1], outputs)
    layers = [nn.Linear(features.shape[1], outputs) for _ in rates]
    for layer in layers:
        layer.load_state_dict(first.state_dict())
    optimizer = torch.optim.AdamW([{"params": layer.parameters()} for layer in layers], weight_decay=WEIGHT_DECAY)
    batches = math.ceil(len(points) / BATCH)
    for epoch in range(EPOCHS):
        order = np.random.default_rng((seed, epoch)).permutation(len(points))
        for step, part in enumerate(np.array_split(order, batches), start=epoch * batches):
            for entry, rate in zip(optimizer.param_groups, rates, strict=True):
                entry["lr"] = _rate(rate, step, EPOCHS * batches)
            normed = norm(features[part])
            optimizer.zero_grad()
            sum(_loss(layer(normed), target[part]) for layer in layers).backward()  # type: ignore[union-attr]
            optimizer.step()
    norm.eval()
    return [Linear(norm, layer, middle, spread, rate) for layer, rate in zip(layers, rates, strict=True)]


def _target(points: Points) -> tuple[float, float, Tensor]:
    """(middle, spread, what is learned): classes, or standard scores of values."""
    if points.values is None:
        return 0.0, 1.0, torch.as_tensor(points.strata)
    middle, spread = float(points.values.mean()), float(points.values.std()) or 1.0
    return middle, spread, torch.as_tensor((points.values - middle) / spread)


def _loss(answer: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point():
        return F.mse_loss(answer[:, 0], target)
    return F.cross_entropy(answer, target)


def _rate(peak: float, step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return LAST_RATE + (peak - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
