"""Which windows go through the model together, so that each becomes the same whoever else is there, bit for bit.

A matrix product rounds a row differently in a matrix of another height (measured: any batch size but one gives other
bits), and perhaps at another place in it. So a batch has a fixed shape, and a window a fixed place in it:

* A batch holds windows of one `Kind`, and always the number of rows that the plan sets for that many timesteps. Missing
  timesteps are not computed: a window without a third of them costs a third less.
* A window that sees a timestep in part is computed with all patches of that timestep, the missing ones masked
  (`Encoder.encode`, `whole_timesteps`): so it is as long as others with as many timesteps.
* A window's row follows from its place on the lattice (`row_of`).
* Where the plan says one row, every window goes alone, without masks and with just the patches that it sees.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from olmoearth_core.grid import PixelBox
from olmoearth_core.inference.imagery import Imagery
from olmoearth_core.inference.plan import Layout


@dataclass(frozen=True)
class Kind:
    """What the windows of a batch have in common.

    Attributes:
        timesteps: how many they see, by modality.
        whole: they see these to the last pixel, and of the others nothing.
    """

    timesteps: tuple[int, ...]
    whole: bool


@dataclass(frozen=True)
class Batch:
    """Windows by row; None where there is none. `masked` is what the model calls `whole_timesteps`."""

    rows: tuple[PixelBox | None, ...]
    masked: bool

    @property
    def windows(self) -> list[tuple[int, PixelBox]]:
        """(row, window) of the rows that hold one."""
        return [(row, window) for row, window in enumerate(self.rows) if window is not None]


def kind_of(imagery: Imagery, window: PixelBox, patch_size: int) -> Kind | None:
    """What the model sees of a window; None where that is nothing.

    A patch is there where its first pixel is (`Encoder.encode`), a timestep where one of its patches is.
    """
    timesteps, whole = [], True
    for valid in imagery.valid_of(window).values():  # (T, H, W)
        seen = valid[:, ::patch_size, ::patch_size].any(axis=(1, 2))
        timesteps.append(int(seen.sum()))
        whole = whole and bool(valid[seen].all()) and not valid[~seen].any()
    return Kind(tuple(timesteps), whole) if any(timesteps) else None


class Batcher:
    """Gathers the windows of one tile into batches.

    Args:
        layout: of the plan.
        sizes: rows of a batch of windows that see 1, 2, ... timesteps.
    """

    def __init__(self, layout: Layout, sizes: Sequence[int]) -> None:
        self._stride, self._sizes = layout.stride, sizes
        self._waiting: dict[Kind, list[deque[PixelBox]]] = {}

    def add(self, window: PixelBox, kind: Kind) -> Iterator[Batch]:
        """Take a window; the batch that it completes, if it does."""
        size = self._sizes[max(kind.timesteps) - 1]
        if size == 1:
            yield Batch((window,), masked=False)
            return
        rows = self._waiting.setdefault(kind, [deque() for _ in range(size)])
        rows[row_of(window, self._stride, size)].append(window)
        if all(rows):
            yield self._take(kind)

    def rest(self) -> Iterator[Batch]:
        """The batches of the windows that wait; rows stay empty."""
        for kind, rows in self._waiting.items():
            while any(rows):
                yield self._take(kind)

    def _take(self, kind: Kind) -> Batch:
        return Batch(tuple(row.popleft() if row else None for row in self._waiting[kind]), masked=not kind.whole)


def row_of(window: PixelBox, stride: int, rows: int) -> int:
    """The row of a window in its batch: neighbours on the lattice get different ones, so that few rows stay empty.

    Along a row of the lattice they count up, from one to the next they jump by the golden section of a batch.
    """
    return (window.column // stride + (int(0.618 * rows) | 1) * (window.row // stride)) % rows


def assemble(batch: Batch, imagery: Imagery) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """What the model is given: inputs {modality: (B, T, C, H, W)}, dates (B, T), valid {modality: (B, T, H, W)}.

    A row without a window repeats another one.
    """
    some = batch.windows[0][1]
    windows = [window or some for window in batch.rows]
    data, valid = [imagery.data_of(w) for w in windows], [imagery.valid_of(w) for w in windows]
    inputs = {m: np.stack([one[m] for one in data]) for m in data[0]}
    dates = np.broadcast_to(imagery.dates, (len(windows), len(imagery.dates)))
    return inputs, dates, {m: np.stack([one[m] for one in valid]) for m in valid[0]}
