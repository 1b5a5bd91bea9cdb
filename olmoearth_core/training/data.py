"""The windows of a training set as batches: what the model can learn from, and nothing else.

A labelled pixel that no timestep of any modality shows counts as unlabelled: the model cannot know it, and a map has
nodata there. A window without any labelled pixel left is left out, in training and in scores alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.project_training import AugmentConfig
from olmoearth_core.training.answers import Read, visible_truths
from olmoearth_core.training.augment import brighten, drawn_view, hide, view

if TYPE_CHECKING:
    from olmoearth_core.dataset.cubes import Sample
    from olmoearth_core.models.card import TaskCard

MEMORY = 2 * 2**30
"""Training sets up to this size (bytes) stay in memory."""
AHEAD = 2
"""Batches that are made while one is in use."""


@dataclass(frozen=True)
class Batch:
    """Windows side by side.

    Attributes:
        rows: (B,) rows of the dataset's window table.
        truths: task -> strata (B, H, W), and values; of a classification H = W = 1.
        inputs: modality -> (B, T, C, H, W), physical values, arrays or tensors.
        valid: modality -> (B, T, H, W) bool.
        dates: (B, T) datetime64[D].
        seeds: (B,) what is random about each window while training; None: nothing is.
        features: (B, D, h, w) where a frozen encoder saw the windows before; inputs are then empty.
        pixels: (B, P, H, W) what else heads look at, or None.
    """

    rows: np.ndarray
    truths: dict[str, Truth]
    inputs: dict[str, Any] = field(default_factory=dict)
    valid: dict[str, np.ndarray] = field(default_factory=dict)
    dates: np.ndarray = field(default_factory=lambda: np.empty(0, "datetime64[D]"))
    seeds: np.ndarray | None = None
    features: Any = None
    pixels: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, first: int, last: int) -> Batch:
        """The windows from `first` up to `last`."""

        def cut(array: Any) -> Any:
            return None if array is None else array[first:last]

        return Batch(
            rows=cut(self.rows),
            truths={name: Truth(cut(t.strata), cut(t.values)) for name, t in self.truths.items()},
            inputs={m: cut(cube) for m, cube in self.inputs.items()},
            valid={m: cut(mask) for m, mask in self.valid.items()},
            dates=cut(self.dates),
            seeds=cut(self.seeds),
            features=cut(self.features),
            pixels=cut(self.pixels),
        )


@dataclass(frozen=True)
class Order:
    """In which order and how changed windows come in an epoch of training, and which of them come here.

    Attributes:
        batch_size: windows of a step, over all processes.
        seed: of the run.
        epoch: from 0.
        augment: what is changed.
        rank: which of the processes this is; it gets every `processes`-th window of a step.
        processes: how many there are.
    """

    batch_size: int
    seed: int
    epoch: int
    augment: AugmentConfig
    rank: int = 0
    processes: int = 1

    def steps(self, windows: int) -> list[np.ndarray]:
        """Positions of the windows of each step that come here; there may be none."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(windows)
        whole = np.split(order, range(self.batch_size, windows, self.batch_size)) if windows else []
        return [step[self.rank :: self.processes] for step in whole]

    def seeds(self, rows: np.ndarray) -> np.ndarray:
        """(B,) a seed for each window, of this epoch and its own."""
        return np.array(
            [np.random.SeedSequence((self.seed, self.epoch, int(row))).generate_state(1)[0] for row in rows], np.int64
        )


@dataclass(frozen=True)
class Windows:
    """The usable windows of one split.

    Attributes:
        read: gives the samples in rows of the dataset's window table.
        tasks: what is answered; the main one first.
        rows: (N,) rows of the dataset's window table.
        counts: task -> (N, K) labelled, visible pixels of each window and stratum; of a classification, windows.
        left_out: how many windows of the split hold nothing to learn from.
        bytes_read: size of all windows of the split.
    """

    read: Read
    tasks: Mapping[str, TaskCard]
    rows: np.ndarray
    counts: Mapping[str, np.ndarray]
    left_out: int
    bytes_read: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pixels(self) -> np.ndarray:
        """(N, K) `counts` of the main task."""
        return next(iter(self.counts.values()))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, as it is."""
        plan = [np.arange(first, min(first + batch_size, len(self))) for first in range(0, len(self), batch_size)]
        for batch in ahead(plan, self.batch):
            assert batch is not None
            yield batch

    def shuffled(self, order: Order, prepare: Callable[[Batch], Batch] = lambda batch: batch) -> Iterator[Batch | None]:
        """Every window once, changed; None for a step of which no window comes here.

        Args:
            order: which window comes when, and how.
            prepare: what else is done to a batch before it is asked for.
        """

        def make(positions: np.ndarray) -> Batch | None:
            return prepare(self._shown(self.batch(positions), order)) if len(positions) else None

        return ahead(order.steps(len(self)), make)

    def truths(self, at_once: int) -> Iterator[dict[str, Truth]]:
        """What is known of every window, in order, without its imagery."""
        for first in range(0, len(self), at_once):
            samples = self.read(self.rows[first : first + at_once].tolist())
            yield stack([visible_truths(sample, self.tasks) for sample in samples])

    def batch(self, positions: np.ndarray) -> Batch:
        """The windows at `positions`, as they are."""
        rows = self.rows[positions]
        samples = self.read(rows.tolist())
        truths = [visible_truths(sample, self.tasks) for sample in samples]
        return Batch(
            rows=rows,
            truths=stack(truths),
            inputs={m: np.stack([s.inputs[m] for s in samples]) for m in samples[0].inputs},
            valid={m: np.stack([s.valid[m] for s in samples]) for m in samples[0].valid},
            dates=np.stack([s.dates for s in samples]),
        )

    def _shown(self, batch: Batch, order: Order) -> Batch:
        """The batch as another satellite pass might show it."""
        seeds = order.seeds(batch.rows)
        if order.augment.nothing:
            return replace(batch, seeds=seeds)
        inputs: dict[str, list[np.ndarray]] = {m: [] for m in batch.inputs}
        valid: dict[str, list[np.ndarray]] = {m: [] for m in batch.valid}
        truths: list[dict[str, Truth]] = []
        for k, seed in enumerate(seeds.tolist()):
            random = np.random.default_rng(seed)
            turn = drawn_view(order.augment, random)
            masks = {m: mask[k] for m, mask in batch.valid.items()}
            for m, mask in hide(masks, _labelled(batch, k), order.augment, random).items():
                valid[m].append(view(mask, turn))
            for m, cube in batch.inputs.items():
                inputs[m].append(view(brighten(cube[k], order.augment, random), turn))
            truths.append(turned({name: _one(truth, k) for name, truth in batch.truths.items()}, turn))
        return replace(
            batch,
            inputs={m: np.stack(cubes) for m, cubes in inputs.items()},
            valid={m: np.stack(masks) for m, masks in valid.items()},
            truths=stack(truths),
            seeds=seeds,
        )


def ahead(plan: Sequence[np.ndarray], make: Callable[[np.ndarray], Batch | None]) -> Iterator[Batch | None]:
    """What `make` makes of each entry of `plan`, made by a thread while the ones before are in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        waiting = [pool.submit(make, positions) for positions in plan[:AHEAD]]
        for k in range(len(plan)):
            if k + AHEAD < len(plan):
                waiting.append(pool.submit(make, plan[k + AHEAD]))
            yield waiting.pop(0).result()


def stack(truths: Sequence[Mapping[str, Truth]]) -> dict[str, Truth]:
    """Truths of single windows, side by side."""
    stacked = {}
    for name, first in truths[0].items():
        values = None if first.values is None else np.stack([t[name].values for t in truths])  # type: ignore[misc]
        stacked[name] = Truth(np.stack([t[name].strata for t in truths]), values)
    return stacked


def turned(truths: Mapping[str, Truth], turn: int) -> dict[str, Truth]:
    """Truths of a window in another view."""
    return {
        name: Truth(view(t.strata, turn), None if t.values is None else view(t.values, turn))
        for name, t in truths.items()
    }


def _labelled(batch: Batch, k: int) -> np.ndarray:
    """(H, W) bool: pixels of a window that any task's labels are on; all of them may be where the window has one."""
    of_pixels = [t.strata[k] != IGNORE for t in batch.truths.values() if t.strata[k].size > 1]
    return np.logical_or.reduce(of_pixels) if of_pixels else np.zeros((1, 1), bool)


def _one(truth: Truth, k: int) -> Truth:
    return Truth(truth.strata[k], None if truth.values is None else truth.values[k])


def gather(
    read: Read,
    splits: Mapping[str, Sequence[int]],
    tasks: Mapping[str, TaskCard],
    strata: Mapping[str, int],
    *,
    at_once: int,
    memory: int = MEMORY,
    advance: Callable[[int], None] = lambda _steps: None,
) -> dict[str, Windows]:
    """Look at every window once: count what can be learned from it, and keep the samples while they fit in memory.

    Args:
        read: gives the samples in rows of the dataset's window table.
        splits: split -> rows of its windows.
        tasks: what is answered.
        strata: task -> how many strata (classes) it has.
        at_once: windows to read together.
        memory: samples are kept up to this many bytes; the rest is read again for each batch.
        advance: told the number of windows that were looked at.
    """
    kept: dict[int, Sample] = {}

    def read_again(rows: Sequence[int]) -> list[Sample]:
        gone = [row for row in rows if row not in kept]
        fresh = dict(zip(gone, read(gone), strict=True)) if gone else {}
        return [kept[row] if row in kept else fresh[row] for row in rows]

    found = {}
    held = 0
    for split, rows in splits.items():
        usable, size = [], 0
        counts: dict[str, list[np.ndarray]] = {name: [] for name in tasks}
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            for row, sample in zip(part, read(part), strict=True):
                truths = visible_truths(sample, tasks)
                size += _size(sample)
                here = {n: np.bincount(t.strata[t.strata != IGNORE], minlength=strata[n]) for n, t in truths.items()}
                if not any(count.any() for count in here.values()):
                    continue
                usable.append(row)
                for name, count in here.items():
                    counts[name].append(count)
                if held + _size(sample) <= memory:
                    held += _size(sample)
                    kept[row] = sample
            advance(len(part))
        found[split] = Windows(
            read=read_again,
            tasks=tasks,
            rows=np.array(usable, np.int64),
            counts={n: np.array(c, np.int64).reshape(-1, strata[n]) for n, c in counts.items()},
            left_out=len(rows) - len(usable),
            bytes_read=size,
        )
    return found


def _size(sample: Sample) -> int:
    arrays = [*sample.inputs.values(), *sample.valid.values(), *(t.strata for t in sample.truths.values())]
    return sum(array.nbytes for array in arrays)
