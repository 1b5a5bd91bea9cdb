"""The random forest that a model has to beat: what the imagery tells without an encoder, in a minute on one core.

It learns from the same training windows. Of a segmentation or regression it sees a pixel (all bands of all timesteps),
of a classification what a window's bands are like (mean, spread and percentiles at each timestep). Where a timestep is
missing, the mean over the others stands in for it. It answers as a model does, so both are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer, Read, Task, thin, visible_truths

if TYPE_CHECKING:
    from olmoearth_core.dataset.dataset import Sample

NAME = "a random forest"
TREES = 100
MOST_PIXELS = 30_000
"""Training pixels (or windows): more make it slower and hardly better."""
LEAST_SHARE = 0.25
"""Each class gives at least this share of an equal part of the training pixels, as far as it has them."""
PERCENTILES = (10, 50, 90)
SURE = 1e-4
"""Least probability that is passed on: a hundred trees cannot know a smaller one."""


@dataclass(frozen=True)
class Forest:
    """A random forest, fitted for one task.

    Attributes:
        name: of the task.
        task: what it was fitted for.
        classes: (C,) strata that it knows; empty of a regression.
        trees: of scikit-learn.
    """

    name: str
    task: Task
    classes: np.ndarray
    trees: Any

    def answers(
        self, read: Read, rows: Sequence[int], *, at_once: int = 16, most: int | None = None
    ) -> Iterator[Answer]:
        """What the forest says of windows.

        Args:
            read: gives the samples in rows of the dataset's window table.
            rows: which.
            at_once: windows in an answer.
            most: labelled pixels to answer for in each window (`answers.thin`), all when not given; no others are
                labelled in the answer. Unlabelled ones have scores of 0.
        """
        for part in _parts(rows, at_once):
            samples = read(part)
            truths = [self._truth(sample, row, most) for sample, row in zip(samples, part, strict=True)]
            strata = np.stack([strata for strata, _ in truths])
            asked = strata != IGNORE
            scores = np.zeros((*asked.shape, self._channels), np.float32)
            if asked.any():
                features = [self._features(s, a) for s, a in zip(samples, asked, strict=True) if a.any()]
                scores[asked] = self._scores(np.concatenate(features))
            values = np.stack([v for _, v in truths if v is not None]) if self.task.kind == "regression" else None
            yield Answer(np.array(part, np.int64), strata, values, np.moveaxis(scores, -1, 1))

    @property
    def _channels(self) -> int:
        return 1 if self.task.kind == "regression" else len(self.task.strata)

    def _truth(self, sample: Sample, row: int, most: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """(strata (H, W), values (H, W) or None) that are asked for."""
        truth = visible_truths(sample, {self.name: self.task})[self.name]
        if most is None or self.task.kind == "classification":
            return truth.strata, truth.values
        return thin(truth.strata, most, row), truth.values

    def _features(self, sample: Sample, asked: np.ndarray) -> np.ndarray:
        """(P, F) of the pixels `asked`, or (1, F) of the window."""
        if self.task.kind == "classification":
            return window_features(sample)[None]
        return pixel_features(sample, asked)

    def _scores(self, features: np.ndarray) -> np.ndarray:
        """(P, K) float32: logarithms of probabilities, or (P, 1) estimates."""
        if self.task.kind == "regression":
            return np.asarray(self.trees.predict(features)[:, None], np.float32)
        probabilities = np.zeros((len(features), len(self.task.strata)))
        probabilities[:, self.classes] = self.trees.predict_proba(features)
        return np.log(np.maximum(probabilities, SURE)).astype(np.float32)


def fit_forest(
    read: Read,
    rows: Sequence[int],
    name: str,
    task: Task,
    *,
    at_once: int = 16,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _windows: None,
) -> Forest | None:
    """Fit a random forest on training windows; the same windows and seed give the same forest.

    Training pixels are drawn by stratum, so that a rare class is seen at all, and weighted back to how common each is.

    Args:
        read: gives the samples in rows of the dataset's window table.
        rows: of the training windows.
        name: of the task, as samples know it.
        task: what is learned.
        at_once: windows to read together.
        seed: of draw and trees.
        advance: told the number of windows that were looked at; all are, twice, of a classification once.

    Returns:
        None where there is nothing to learn from, or one class only.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    draw = _draw_windows if task.kind == "classification" else _draw_pixels
    features, strata, values, weights = draw(read, rows, name, task, at_once, seed, advance)
    present = np.unique(strata)
    if task.kind == "regression":
        if not len(values):
            return None
        # a third of the features at each split, as Breiman advises for regression; every leaf holds a few pixels
        trees = RandomForestRegressor(TREES, max_features=1 / 3, min_samples_leaf=3, random_state=seed, n_jobs=1)
        return Forest(name, task, np.zeros(0, np.int64), trees.fit(features, values, weights))
    if len(present) < 2:
        return None
    forest = RandomForestClassifier(TREES, min_samples_leaf=1, random_state=seed, n_jobs=1)
    return Forest(name, task, present.astype(np.int64), forest.fit(features, strata, weights))


def pixel_features(sample: Sample, asked: np.ndarray) -> np.ndarray:
    """(P, F) float32: every band of every timestep of the pixels `asked` (H, W) bool.

    A pixel's missing timestep gets the mean of its others; a modality that never shows it is 0.
    """
    parts = []
    for modality, cube in sample.inputs.items():
        valid = sample.valid[modality][:, asked]
        pixels = np.where(valid[:, None], cube[:, :, asked], 0).astype(np.float32)
        count = np.maximum(valid.sum(axis=0), 1)
        filled = np.where(valid[:, None], pixels, pixels.sum(axis=0) / count)
        parts.append(filled.reshape(-1, valid.shape[1]).T)
    return np.concatenate(parts, axis=1).astype(np.float32)


def window_features(sample: Sample) -> np.ndarray:
    """(F,) float32: mean, standard deviation and percentiles of every band at every timestep.

    A timestep that shows nothing gets the mean of the others; a modality that shows nothing is 0.
    """
    parts = []
    for modality, cube in sample.inputs.items():
        valid = sample.valid[modality]
        found = np.zeros((*cube.shape[:2], 2 + len(PERCENTILES)), np.float64)
        seen = valid.any(axis=(1, 2))
        for step in np.flatnonzero(seen):
            pixels = cube[step][:, valid[step]].astype(np.float64)
            spread = np.percentile(pixels, PERCENTILES, axis=1)
            found[step] = np.stack([pixels.mean(axis=1), pixels.std(axis=1), *spread], axis=1)
        if seen.any():
            found[~seen] = found[seen].mean(axis=0)
        parts.append(found.reshape(-1))
    return np.concatenate(parts).astype(np.float32)


_Drawn = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Features (P, F), strata (P,), values (P,), weights (P,)."""


def _draw_windows(
    read: Read, rows: Sequence[int], name: str, task: Task, at_once: int, seed: int, advance: Callable[[int], None]
) -> _Drawn:
    """Windows and their classes, at most MOST_PIXELS of them."""
    if len(rows) > MOST_PIXELS:
        rows = np.sort(np.random.default_rng(seed).choice(np.asarray(rows), MOST_PIXELS, replace=False)).tolist()
    features, strata = [], []
    for part in _parts(rows, at_once):
        for sample in read(part):
            found = int(visible_truths(sample, {name: task})[name].strata[0, 0])
            if found != IGNORE:
                features.append(window_features(sample))
                strata.append(found)
        advance(len(part))
    return np.array(features, np.float32), np.array(strata, np.int64), np.zeros(0), np.ones(len(strata))


def _draw_pixels(
    read: Read, rows: Sequence[int], name: str, task: Task, at_once: int, seed: int, advance: Callable[[int], None]
) -> _Drawn:
    """Pixels of every window, from each stratum the same share everywhere."""
    total = np.zeros(len(task.strata), np.int64)
    for part in _parts(rows, at_once):
        for sample in read(part):
            strata = visible_truths(sample, {name: task})[name].strata
            total += np.bincount(strata[strata != IGNORE], minlength=len(total))
        advance(len(part))
    share = _shares(total)
    drawn = []
    for part in _parts(rows, at_once):
        for row, sample in zip(part, read(part), strict=True):
            truth = visible_truths(sample, {name: task})[name]
            strata, values = truth.strata, truth.values
            asked = _lot(strata, share, np.random.default_rng((seed, row, 2)))
            if asked.any():
                known = np.zeros(0) if values is None else values[asked]
                drawn.append((pixel_features(sample, asked), strata[asked].astype(np.int64), known))
        advance(len(part))
    if not drawn:
        return np.zeros((0, 1)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    features, classes, found = (np.concatenate(column) for column in zip(*drawn, strict=True))
    return features, classes, found, 1 / share[classes]


def _shares(total: np.ndarray) -> np.ndarray:
    """(K,) share of each stratum's pixels that is drawn: one for all, more of a rare one."""
    common = min(1.0, MOST_PIXELS / max(1, total.sum()))
    least = LEAST_SHARE * MOST_PIXELS / max(1, (total > 0).sum())
    shares: np.ndarray = np.clip(least / np.maximum(total, 1), common, 1.0)
    return shares


def _lot(strata: np.ndarray, share: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(H, W) bool, pixels drawn from a window: of each stratum its share."""
    chance: np.ndarray = np.append(share, np.zeros(256 - len(share)))[strata]
    drawn: np.ndarray = random.random(strata.shape) < chance
    return drawn


def _parts(rows: Sequence[int], at_once: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), at_once):
        yield list(rows[first : first + at_once])
