"""What a model, or a baseline, says of windows: the one thing that judging takes.

A model, a random forest and an index are judged by the same code, because each is an iterator of `Answer`. What is
labelled travels along, so that nobody asks twice what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.labels.windows import IGNORE

if TYPE_CHECKING:
    from olmoearth_core.dataset.dataset import Sample

Read = Callable[[Sequence[int]], "list[Sample]"]
"""Gives the samples in rows of the dataset's window table, in their order."""


class Kind(Protocol):
    """What is asked of a task to know where its truth lies."""

    @property
    def kind(self) -> str:
        """Is "segmentation", "classification" or "regression"."""


class Task(Kind, Protocol):
    """What judging asks of a task; TaskConfig of project.yaml has it."""

    @property
    def strata(self) -> Sequence[str]:
        """Class names; of a regression, the names of the equal parts of its range."""

    @property
    def unit(self) -> str:
        """Unit of a regression's values."""

    @property
    def range(self) -> tuple[float, float] | None:
        """Least and largest possible value of a regression."""


@dataclass(frozen=True)
class Answer:
    """What is said of B windows of one task, and what is true there.

    Attributes:
        rows: (B,) rows of the dataset's window table.
        strata: (B, H, W) uint8, position in task.strata; IGNORE where nothing is known. Of a classification H = W = 1.
        values: (B, H, W) float32 in the task's unit, NaN where nothing is known; None unless it is a regression.
        scores: (B, K, H, W) float32 logits; of a regression (B, 1, H, W), estimates in the task's unit.
    """

    rows: np.ndarray
    strata: np.ndarray
    values: np.ndarray | None
    scores: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        """(B, H, W) bool, where something is known."""
        known: np.ndarray = self.strata != IGNORE
        return known


def visible_truths(sample: Sample, tasks: Mapping[str, Kind]) -> dict[str, Truth]:
    """What is known of the pixels that any timestep of any modality shows; of a classification, of the window.

    Args:
        sample: one window.
        tasks: what is asked.

    Returns:
        task -> truth, (H, W); (1, 1) of a classification.
    """
    seen = np.any([valid.any(axis=0) for valid in sample.valid.values()], axis=0)
    truths = {name: sample.truths[name].where(seen) for name in tasks}
    return {
        name: Truth(np.full((1, 1), window_class(truth.strata), np.uint8))
        if tasks[name].kind == "classification"
        else truth
        for name, truth in truths.items()
    }


def window_class(strata: np.ndarray) -> int:
    """The class of a whole window: that of its labelled pixels; IGNORE where there is none. `strata` is (H, W)."""
    known = strata[strata != IGNORE]
    return int(np.bincount(known).argmax()) if known.size else IGNORE


def thin(strata: np.ndarray, most: int, row: int) -> np.ndarray:
    """(H, W) uint8: `strata` with at most `most` labelled pixels left, drawn by the window's row alone."""
    labelled = np.flatnonzero(strata != IGNORE)
    if len(labelled) <= most:
        return strata
    gone = np.random.default_rng((row, 1)).permutation(labelled)[most:]
    thinned = strata.copy()
    thinned.flat[gone] = IGNORE
    return thinned


def thinned(answer: Answer, most: int) -> Answer:
    """The answer with at most `most` labelled pixels in each window: the same for whoever answers."""
    kept = [thin(strata, most, row) for strata, row in zip(answer.strata, answer.rows.tolist(), strict=True)]
    return replace(answer, strata=np.stack(kept))


def of_rows(answers: Iterator[Answer]) -> Iterator[tuple[int, Answer]]:
    """Each window of the answers by itself: (row, answer of one window)."""
    for answer in answers:
        for k, row in enumerate(answer.rows.tolist()):
            one = slice(k, k + 1)
            values = None if answer.values is None else answer.values[one]
            yield row, Answer(answer.rows[one], answer.strata[one], values, answer.scores[one])
