"""Labelled points in the space of a frozen encoder's features: what probes learn from, and answer for.

A point is a patch and the label of its pixels (the commonest class, the mean value); of a classification it is a
window, by the mean of its tokens. A probe answers for points, and so for all pixels of a patch alike: its scores are
those of a map as coarse as the patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.models.heads import mean_token
from olmoearth_core.training.answers import Answer, Task
from olmoearth_core.training.embeddings import Embedded

MOST_POINTS = 20_000
"""Training points; of more, so many are drawn, any of them as likely as another."""


@dataclass(frozen=True)
class Points:
    """P labelled points.

    Attributes:
        features: (P, D) float32.
        strata: (P,) int64, position in task.strata.
        values: (P,) float32 in the task's unit; None unless it is a regression.
        blocks: (P,) int64, which block of ground a point lies in.
    """

    features: np.ndarray
    strata: np.ndarray
    values: np.ndarray | None
    blocks: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def take(self, chosen: np.ndarray) -> Points:
        """Some of the points, by their positions."""
        values = None if self.values is None else self.values[chosen]
        return Points(self.features[chosen], self.strata[chosen], values, self.blocks[chosen])


class Learner(Protocol):
    """What learned from points and answers for others."""

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(P, K) float32 logits of features (P, D); (P, 1) estimates of a regression."""
        ...


def draw_points(seen: Embedded, name: str, task: Task, blocks: np.ndarray, *, seed: int = 0) -> Points:
    """The labelled points of windows, at most MOST_POINTS; a patch that no timestep shows is none.

    Args:
        seen: the windows as a frozen encoder sees them.
        name: of the task.
        task: what is learned.
        blocks: (N,) block of ground of each window.
        seed: of the draw; the same windows and seed give the same points.
    """
    strata, values = coarse(seen, name)
    found = np.argwhere(strata != IGNORE)
    if len(found) > MOST_POINTS:
        found = found[np.sort(np.random.default_rng(seed).choice(len(found), MOST_POINTS, replace=False))]
    parts = []
    for window in np.unique(found[:, 0]):
        tokens = _tokens(np.asarray(seen.features[window : window + 1]), task)[0]
        at = found[found[:, 0] == window]
        parts.append(tokens[:, at[:, 1], at[:, 2]].T)
    features = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    shown = features.any(axis=1)
    window, row, column = found[shown].T
    known = None if values is None else values[window, row, column]
    return Points(features[shown], strata[window, row, column].astype(np.int64), known, blocks[window])


def answers_of(
    learner: Learner, seen: Embedded, name: str, task: Task, prior: np.ndarray, *, at_once: int = 16
) -> Iterator[Answer]:
    """What a learner says of windows: of every labelled pixel what it says of the patch.

    Args:
        learner: which.
        seen: the windows as the frozen encoder sees them.
        name: of the task.
        task: what is asked.
        prior: (K,) the answer where no timestep shows a patch.
        at_once: windows in an answer.
    """
    for batch in seen.in_order(at_once):
        truth = batch.truths[name]
        tokens = np.moveaxis(_tokens(batch.features, task), 1, -1)  # (B, h, w, D)
        edge = truth.strata.shape[-1] // tokens.shape[2]
        asked = (_patches(truth.strata, edge) != IGNORE).any(axis=-1)
        shown = asked & tokens.any(axis=-1)
        scores = np.broadcast_to(prior.astype(np.float32), (*asked.shape, len(prior))).copy()
        if shown.any():
            scores[shown] = learner.scores(tokens[shown])
        pixels = np.moveaxis(scores, -1, 1).repeat(edge, axis=2).repeat(edge, axis=3)
        yield Answer(batch.rows, truth.strata, truth.values, pixels)


def prior_of(points: Points, task: Task) -> np.ndarray:
    """(K,) what is to be said without looking: logarithms of how common each class is, or the mean value."""
    if points.values is not None:
        return np.array([points.values.mean()], np.float32)
    counts = np.bincount(points.strata, minlength=len(task.strata))
    return np.asarray(np.log(np.maximum(counts / counts.sum(), 1e-4)), np.float32)


def coarse(seen: Embedded, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(strata (N, h, w) uint8, values (N, h, w) float32 or None) of patches: the commonest stratum, the mean value.

    Of equally common ones the first in the task's order. IGNORE and NaN where no pixel of a patch is labelled.
    """
    truth = seen.truths[name]
    edge = max(1, truth.strata.shape[-1] // seen.features.shape[-1])
    strata = _patches(truth.strata, edge)
    counts = np.stack(
        [(strata == k).sum(axis=-1) for k in range(int(strata.max(initial=0, where=strata != IGNORE)) + 1)]
    )
    commonest = np.where(counts.any(axis=0), counts.argmax(axis=0), IGNORE).astype(np.uint8)
    if truth.values is None:
        return commonest, None
    values = _patches(truth.values, edge).astype(np.float64)
    known = np.isfinite(values)
    mean = np.where(known, values, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return commonest, np.where(known.any(axis=-1), mean, np.nan).astype(np.float32)


def _patches(pixels: np.ndarray, edge: int) -> np.ndarray:
    """(B, H, W) -> (B, h, w, edge * edge)."""
    b, height, width = pixels.shape
    parts: np.ndarray = pixels.reshape(b, height // edge, edge, width // edge, edge).swapaxes(2, 3)
    return parts.reshape(b, height // edge, width // edge, edge * edge)


def _tokens(features: np.ndarray, task: Task) -> np.ndarray:
    """(B, D, h, w), of a classification (B, D, 1, 1), their mean."""
    if task.kind != "classification":
        return features
    return np.asarray(mean_token(torch.as_tensor(np.array(features))).numpy()[..., None, None])
