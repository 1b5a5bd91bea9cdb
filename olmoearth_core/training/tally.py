"""What answers come to in each window: a few numbers that add up.

Scores of any set of windows follow from the sum of theirs, so windows are judged once, in a stream, and resampled,
compared and traced afterwards. Memory grows with windows, never with pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np

from olmoearth_core.errors import TrainingError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer, Task, thinned
from olmoearth_core.training.metrics import (
    BINS,
    HEADLINE,
    MOMENTS,
    Path,
    class_measures,
    confidence_measures,
    moments,
    nested,
    plain,
    scores,
    value_measures,
)

CELLS = 64
"""Bins of truth and of estimate in the picture of a regression, over the task's range."""


@dataclass(frozen=True)
class _OfWindows:
    """N windows, judged.

    Attributes:
        task: what was asked.
        rows: (N,) int64, rows of the dataset's window table, each once.
    """

    task: Task
    rows: np.ndarray

    def _places(self, rows: np.ndarray) -> np.ndarray:
        place = {row: k for k, row in enumerate(self.rows.tolist())}
        return np.array([place[row] for row in rows.tolist()], np.int64)


@dataclass(frozen=True)
class ClassTally(_OfWindows):
    """Windows of a segmentation or classification, judged.

    Attributes:
        confusion: (N, K, K) int64, pixels by truth (row) and prediction (column).
        reliability: (N, BINS, 3) float64, pixels by the confidence of their predicted class: how many, summed
            confidence, how many are right.
        log_loss: (N,) float64, summed cross entropy.
        temperature: what the scores were divided by.
    """

    confusion: np.ndarray
    reliability: np.ndarray
    log_loss: np.ndarray
    temperature: float

    @property
    def sums(self) -> np.ndarray:
        """(N, 3 K + 1 + 3 BINS) float64: hits, labelled and predicted pixels of each class; loss; reliability."""
        c = self.confusion
        hits = np.diagonal(c, axis1=1, axis2=2)
        parts = [hits, c.sum(axis=2), c.sum(axis=1), self.log_loss[:, None], self.reliability.reshape(len(c), 3 * BINS)]
        return np.concatenate(parts, axis=1, dtype=np.float64)

    def measures(self, sums: np.ndarray) -> dict[Path, np.ndarray]:
        """Scores (...,) of added-up `sums` (..., S), by their place in the JSON; NaN where there is none."""
        k = len(self.task.strata)
        hits, true, found = (sums[..., i * k : (i + 1) * k] for i in range(3))
        reliability = sums[..., 3 * k + 1 :].reshape(*sums.shape[:-1], BINS, 3)
        return class_measures(hits, true, found, self.task.strata) | confidence_measures(reliability, sums[..., 3 * k])

    @property
    def pixels(self) -> np.ndarray:
        """(N,) int64, labelled pixels of each window."""
        count: np.ndarray = self.confusion.sum(axis=(1, 2))
        return count

    @property
    def holds(self) -> np.ndarray:
        """(N, K) bool, which classes each window has labels of."""
        held: np.ndarray = self.confusion.sum(axis=2) > 0
        return held

    @property
    def loss(self) -> np.ndarray:
        """(N,) float64, summed cross entropy of each window."""
        return self.log_loss

    def take(self, rows: np.ndarray) -> Self:
        """The tally of the windows in `rows` alone, in their order; all must be here."""
        at = self._places(rows)
        return replace(
            self,
            rows=self.rows[at],
            confusion=self.confusion[at],
            reliability=self.reliability[at],
            log_loss=self.log_loss[at],
        )

    def scores(self) -> dict[str, Any]:
        """`metrics.scores` of all windows, ece, log_loss, and reliability [[pixels, confidence, accuracy] a bin]."""
        measures = plain(self.measures(self.sums.sum(axis=0)))
        count, confidence, hits = self.reliability.sum(axis=0).T
        bins = [[int(n), c / n, h / n] for n, c, h in zip(count, confidence, hits, strict=True) if n]
        confidence_scores = {name: measures[(name,)] for name in ("ece", "log_loss")}
        return scores(self.confusion.sum(axis=0), self.task.strata) | confidence_scores | {"reliability": bins}


@dataclass(frozen=True)
class ValueTally(_OfWindows):
    """Windows of a regression, judged.

    Attributes:
        moments: (N, S, 9) float64, MOMENTS summed over the pixels of each stratum of the truth.
        histogram: (CELLS, CELLS) int64, pixels by truth (row) and estimate (column) over the task's range, estimates
            beyond it in the outermost bins; of all windows that were judged, also after `take`.
    """

    moments: np.ndarray
    histogram: np.ndarray

    @property
    def sums(self) -> np.ndarray:
        """(N, S * 9) float64."""
        return self.moments.reshape(len(self.moments), self.moments.shape[1] * len(MOMENTS))

    def measures(self, sums: np.ndarray) -> dict[Path, np.ndarray]:
        """Scores (...,) of added-up `sums` (..., S), by their place in the JSON; NaN where there is none."""
        by_stratum = sums.reshape(*sums.shape[:-1], len(self.task.strata), len(MOMENTS))
        found = value_measures(by_stratum.sum(axis=-2))
        for k, name in enumerate(self.task.strata):
            inside = value_measures(by_stratum[..., k, :])
            found |= {("strata", name, key): inside[(key,)] for key in ("bias", "mae", "rmse")}
        return found

    @property
    def pixels(self) -> np.ndarray:
        """(N,) int64, labelled pixels of each window."""
        return np.asarray(self.moments[:, :, 0].sum(axis=1), np.int64)

    @property
    def holds(self) -> np.ndarray:
        """(N, S) bool, which parts of the range each window has labels of."""
        held: np.ndarray = self.moments[:, :, 0] > 0
        return held

    @property
    def loss(self) -> np.ndarray:
        """(N,) float64, summed squared error of each window."""
        squared: np.ndarray = self.moments[:, :, MOMENTS.index("squared")].sum(axis=1)
        return squared

    def take(self, rows: np.ndarray) -> Self:
        """The tally of the windows in `rows` alone, in their order; all must be here."""
        at = self._places(rows)
        return replace(self, rows=self.rows[at], moments=self.moments[at])

    def scores(self) -> dict[str, Any]:
        """JSON values: pixels, r2, rmse, mae, bias, r, unit, strata {name: {bias, mae, rmse, pixels}}."""
        total = self.moments.sum(axis=0)
        counts = {("strata", name, "pixels"): int(n) for name, n in zip(self.task.strata, total[:, 0], strict=True)}
        found = nested(plain(self.measures(total.reshape(-1))) | counts)
        return found | {"pixels": int(total[:, 0].sum()), "unit": self.task.unit}


Tally: TypeAlias = ClassTally | ValueTally
"""N windows, judged: `sums` of each, `measures` of added-up sums, `scores` of all of them."""


def headline(scores: dict[str, Any], task: Task) -> float | None:
    """The one score by which models are compared, higher is better; None where there is nothing to judge by."""
    value: float | None = scores[HEADLINE[task.kind][0]]
    return value


def tally(answers: Iterable[Answer], task: Task, temperature: float = 1.0) -> Tally:
    """Judge answers, window by window, in one pass.

    Args:
        answers: each window once; windows without a labelled pixel are left out.
        task: what was asked.
        temperature: by which scores of classes are divided before they become probabilities.
    """
    counter = Counter(task, temperature)
    for answer in answers:
        counter.add(answer)
    return counter.tally()


class Counter:
    """Judges answers as they come; several may listen to one stream.

    Args:
        task: what was asked.
        temperature: by which scores of classes are divided before they become probabilities.
        most: labelled pixels that count in each window (`answers.thin`); all when not given.
    """

    def __init__(self, task: Task, temperature: float = 1.0, *, most: int | None = None) -> None:
        self._task, self._temperature, self._most = task, temperature, most
        self._rows: list[np.ndarray] = []
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._histogram = np.zeros((CELLS, CELLS), np.int64)

    def add(self, answer: Answer) -> None:
        """Count the windows of `answer` that hold labelled pixels."""
        if self._most is not None:
            answer = thinned(answer, self._most)
        used = answer.labelled.any(axis=(1, 2))
        if not used.all():
            values = None if answer.values is None else answer.values[used]
            answer = Answer(answer.rows[used], answer.strata[used], values, answer.scores[used])
        if len(answer.rows):
            count = self._values if self._task.kind == "regression" else self._classes
            self._rows.append(answer.rows)
            self._parts.append(count(answer))

    def tally(self) -> Tally:
        """What the answers come to so far."""
        rows = np.concatenate(self._rows or [np.zeros(0)]).astype(np.int64)
        parts = [np.concatenate(part) for part in zip(*self._parts, strict=True)]
        k = len(self._task.strata)
        if self._task.kind == "regression":
            return ValueTally(
                self._task, rows, parts[0] if parts else np.zeros((0, k, len(MOMENTS))), self._histogram.copy()
            )
        matrix, reliability, loss = parts or [np.zeros((0, k, k), np.int64), np.zeros((0, BINS, 3)), np.zeros(0)]
        return ClassTally(self._task, rows, matrix, reliability, loss, self._temperature)

    def _classes(self, answer: Answer) -> tuple[np.ndarray, ...]:
        windows, classes = len(answer.rows), len(self._task.strata)
        window, truth, logits = labelled_scores(answer)
        _check(logits, answer.rows[window])
        predicted = logits.argmax(axis=1)
        log_probabilities = log_softmax(logits / np.float32(self._temperature))
        each = np.arange(len(truth))
        confidence = np.exp(log_probabilities[each, predicted]).astype(np.float64)
        place = window * BINS + np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        weights = (None, confidence, (predicted == truth).astype(np.float64))
        bins = [np.bincount(place, w, minlength=windows * BINS) for w in weights]
        loss = np.bincount(window, -log_probabilities[each, truth].astype(np.float64), minlength=windows)
        matrix = np.bincount((window * classes + truth) * classes + predicted, minlength=windows * classes**2)
        return (
            matrix.reshape(windows, classes, classes),
            np.stack(bins, axis=-1).reshape(windows, BINS, 3).astype(np.float64),
            loss,
        )

    def _values(self, answer: Answer) -> tuple[np.ndarray, ...]:
        assert answer.values is not None
        assert self._task.range is not None
        low, high = self._task.range
        windows, strata = len(answer.rows), len(self._task.strata)
        window, row, column = np.nonzero(answer.labelled)
        truth, estimate = answer.values[window, row, column], answer.scores[window, 0, row, column]
        _check(estimate[:, None], answer.rows[window])
        middle = np.float64(low + high) / 2
        place = window * strata + answer.strata[window, row, column]
        each = moments(truth - middle, estimate - middle)
        sums = [np.bincount(place, column, minlength=windows * strata) for column in each.T]
        cells = [
            np.clip((v.astype(np.float64) - low) / (high - low) * CELLS, 0, CELLS - 1).astype(np.int64)
            for v in (truth, estimate)
        ]
        self._histogram += np.bincount(cells[0] * CELLS + cells[1], minlength=CELLS**2).reshape(CELLS, CELLS)
        return (np.stack(sums, axis=-1).reshape(windows, strata, len(MOMENTS)),)


def _check(scores: np.ndarray, rows: np.ndarray) -> None:
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        raise TrainingError(
            f"The answer to window {rows[~finite][0]} of the training set is no number, so that nothing can be judged. "
            "Lower training.learning_rate and train again."
        )


def labelled_scores(answer: Answer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position of the window (P,), truth (P,), scores (P, K)) of the labelled pixels of an answer."""
    window, row, column = np.nonzero(answer.strata != IGNORE)
    return window, answer.strata[window, row, column].astype(np.int64), answer.scores[window, :, row, column]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities (P, K), float32."""
    logits = logits - logits.max(axis=1, keepdims=True)
    found: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found
