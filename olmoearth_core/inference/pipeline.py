"""Read, compute and write at the same time: the device never waits for a disk that it could have waited for earlier."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], Done],
    *,
    ahead: int = 1,
) -> Iterator[Done]:
    """Take each item through `read`, `compute`, `write`, and yield what `write` returns, in order.

    One thread reads `ahead` items before they are needed, the caller's thread computes, one thread writes; no more than
    `ahead` items wait to be written. So memory holds a few items, however many there are.

    An error of any of the three is raised here; what was written before stays.
    """
    queue = iter(items)
    readings: deque[tuple[Item, Future[Read]]] = deque()
    writings: deque[Future[Done]] = deque()
    readers = ThreadPoolExecutor(1, "read")
    writers = ThreadPoolExecutor(1, "write")

    def read_next() -> None:
        for item in queue:
            readings.append((item, readers.submit(read, item)))
            return

    try:
        for _ in range(ahead + 1):
            read_next()
        while readings:
            item, reading = readings.popleft()
            made = compute(item, reading.result())
            del reading  # what was read is as large as a tile's imagery
            read_next()
            while len(writings) > ahead:
                yield writings.popleft().result()
            writings.append(writers.submit(write, item, made))
        while writings:
            yield writings.popleft().result()
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown()
