"""The windows of a training set as batches: what the model can learn from, and nothing else.

A labelled pixel that no timestep of any modality shows counts as unlabelled: the model cannot know it, and a map has
nodata there. A window without any labelled pixel left is left out, in training and in scores alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.augment import VIEWS, brighten, hide_timesteps, view

if TYPE_CHECKING:
    from olmoearth_core.dataset.dataset import Sample

MEMORY = 2 * 2**30
"""Training sets up to this size (bytes) stay in memory."""

Read = Callable[[Sequence[int]], "list[Sample]"]
"""Gives the samples in rows of the dataset's window table, in their order."""


@dataclass(frozen=True)
class Batch:
    """Windows side by side.

    Attributes:
        inputs: modality -> (B, T, C, H, W), physical values.
        valid: modality -> (B, T, H, W) bool.
        dates: (B, T) datetime64[D].
        target: (B, H, W) uint8 class indices, IGNORE where there is nothing to learn.
        rows: (B,) rows of the dataset's window table.
    """

    inputs: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    dates: np.ndarray
    target: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Windows:
    """The usable windows of one split.

    Attributes:
        read: gives the samples in rows of the dataset's window table.
        rows: (N,) rows of the dataset's window table.
        pixels: (N, K) labelled, visible pixels of each window and class.
        left_out: how many windows of the split hold nothing to learn from.
        bytes_read: size of all windows of the split.
    """

    read: Read
    rows: np.ndarray
    pixels: np.ndarray
    left_out: int
    bytes_read: int

    def __len__(self) -> int:
        return len(self.rows)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, as it is."""
        return self._batches(np.arange(len(self)), batch_size, None)

    def shuffled(self, batch_size: int, seed: Sequence[int], augment: bool) -> Iterator[Batch]:
        """Every window once, in an order and (with `augment`) changed in ways that depend on `seed` alone."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self._batches(order, batch_size, tuple(seed) if augment else None)

    def _batches(self, order: np.ndarray, batch_size: int, changes: tuple[int, ...] | None) -> Iterator[Batch]:
        """Batches in `order`, each read while the one before is in use; `changes` seeds what is changed in them."""
        plan = np.split(order, range(batch_size, len(order), batch_size)) if len(order) else []

        def make(step: int) -> Batch:
            batch = self._batch(plan[step])
            return batch if changes is None else _changed(batch, np.random.default_rng((*changes, step)))

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            ahead = [pool.submit(make, step) for step in range(len(plan))[:1]]
            for following in range(1, len(plan)):
                ahead.append(pool.submit(make, following))
                yield ahead.pop(0).result()
            if ahead:
                yield ahead.pop().result()

    def _batch(self, positions: np.ndarray) -> Batch:
        rows = self.rows[positions]
        samples = self.read(rows.tolist())
        return Batch(
            inputs={m: np.stack([s.inputs[m] for s in samples]) for m in samples[0].inputs},
            valid={m: np.stack([s.valid[m] for s in samples]) for m in samples[0].valid},
            dates=np.stack([s.dates for s in samples]),
            target=np.stack([visible_target(s) for s in samples]),
            rows=rows,
        )


def _changed(batch: Batch, random: np.random.Generator) -> Batch:
    """The batch as another satellite pass might show it."""
    views = random.integers(VIEWS, size=len(batch.rows)).tolist()

    def turn(array: np.ndarray) -> np.ndarray:
        return np.stack([view(window, v) for window, v in zip(array, views, strict=True)])

    return Batch(
        inputs={m: turn(brighten(cube, random)) for m, cube in batch.inputs.items()},
        valid={m: turn(mask) for m, mask in hide_timesteps(batch.valid, batch.target != IGNORE, random).items()},
        dates=batch.dates,
        target=turn(batch.target),
        rows=batch.rows,
    )


def visible_target(sample: Sample) -> np.ndarray:
    """The target (H, W) uint8, IGNORE where no timestep of any modality is valid."""
    seen = np.any([valid.any(axis=0) for valid in sample.valid.values()], axis=0)
    return np.where(seen, sample.target, np.uint8(IGNORE))


def gather(
    read: Read,
    splits: Mapping[str, Sequence[int]],
    classes: int,
    *,
    at_once: int,
    memory: int = MEMORY,
    advance: Callable[[int], None] = lambda _steps: None,
) -> dict[str, Windows]:
    """Look at every window once: count what can be learned from it, and keep the samples while they fit in memory.

    Args:
        read: gives the samples in rows of the dataset's window table.
        splits: split -> rows of its windows.
        classes: K.
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
        usable, pixels, size = [], [], 0
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            for row, sample in zip(part, read(part), strict=True):
                target = visible_target(sample)
                counts = np.bincount(target[target != IGNORE], minlength=classes)
                size += _size(sample)
                if not counts.any():
                    continue
                usable.append(row)
                pixels.append(counts)
                if held + _size(sample) <= memory:
                    held += _size(sample)
                    kept[row] = sample
            advance(len(part))
        found[split] = Windows(
            read=read_again,
            rows=np.array(usable, np.int64),
            pixels=np.array(pixels, np.int64).reshape(-1, classes),
            left_out=len(rows) - len(usable),
            bytes_read=size,
        )
    return found


def _size(sample: Sample) -> int:
    arrays = [*sample.inputs.values(), *sample.valid.values(), sample.target]
    return sum(array.nbytes for array in arrays)
