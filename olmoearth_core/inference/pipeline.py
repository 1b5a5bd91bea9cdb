"""Things done at the same time as others, in order and few at a time: what threads are for in mapping."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")


def prefetched(
    items: Iterable[Item], read: Callable[[Item], Read], *, threads: int, ahead: int
) -> Iterator[tuple[Item, Read]]:
    """Each item with what `read` makes of it, in order; `threads` threads work on those that come next.

    No more than `ahead` items after the one that was yielded are begun, so memory holds a few, however many there are.
    An error of `read` is raised where its item's turn would be.
    """
    queue = iter(items)
    waiting: deque[tuple[Item, Future[Read]]] = deque()
    pool = ThreadPoolExecutor(threads, "prefetch")
    try:
        waiting.extend((item, pool.submit(read, item)) for item in islice(queue, ahead + 1))
        while waiting:
            item, reading = waiting.popleft()
            made = reading.result()
            del reading  # or it would keep what was read
            waiting.extend((more, pool.submit(read, more)) for more in islice(queue, 1))
            yield item, made
    finally:
        pool.shutdown(cancel_futures=True)


class Behind(AbstractContextManager["Behind"]):
    """One thread that does what it is told, in that order, while the caller goes on.

    Args:
        most: things that may wait; the caller waits with the next one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Future[Any]] = deque()
        self._pool = ThreadPoolExecutor(1, "behind")

    def do(self, function: Callable[..., Done], *given: Any) -> Future[Done]:
        """Have `function(*given)` called after everything before it.

        An error of something told earlier is raised here.
        """
        while self._waiting and (len(self._waiting) >= self._most or self._waiting[0].done()):
            self._waiting.popleft().result()
        doing = self._pool.submit(function, *given)
        self._waiting.append(doing)
        return doing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thing that is being done; after an error the rest is left."""
        self._pool.shutdown(cancel_futures=kind is not None)
