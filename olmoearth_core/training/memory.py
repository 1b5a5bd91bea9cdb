"""What becomes of a batch that is larger than the memory: it is halved until it fits."""

from __future__ import annotations

import gc
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

_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "could not create a primitive",
    "could not create a memory",
)
"""What torch on a CPU says; the last two are oneDNN's, which says no more."""


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
    return any(words in str(error) for words in _NO_MEMORY)


def free_memory() -> None:
    """Give back what nobody uses any more, and what torch keeps of it for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
