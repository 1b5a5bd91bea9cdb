"""What becomes of a batch that is larger than the memory: it is halved until it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from olmoearth_core.errors import TrainingError
from olmoearth_core.training.data import Batch

T = TypeVar("T")
TOO_LARGE = (
    "A single window does not fit the memory. Set training.checkpointing to true, make model.window_size smaller or "
    "model.patch_size larger, or take a smaller encoder."
)


def in_parts(batch: Batch, compute: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
    """(part, what `compute` makes of it), part by part: the whole batch where it fits.

    Raises:
        TrainingError: a single window does not fit.
    """
    first, size = 0, len(batch)
    while first < len(batch):
        part = batch.part(first, first + size)
        try:
            made = compute(part)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            yield part, made
            first += len(part)
            continue
        free_memory()
        if size == 1:
            raise TrainingError(TOO_LARGE)
        size = -(-size // 2)


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what `error` means; on a CPU torch has no error of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def free_memory() -> None:
    """Give back what torch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
