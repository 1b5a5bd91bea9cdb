"""The engine `processes`: several processes on this machine, each with the model; tiles go to whoever is free.

A process asks for a tile when it has room to read one, so reading and computing overlap across tiles as they do in one
process. One that is killed loses only the tiles it held: another takes its place, and others take the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from olmoearth_core.errors import CoreError
from olmoearth_core.inference.engines import Ledger
from olmoearth_core.inference.job import MapJob, map_some
from olmoearth_core.inference.plan import Tile
from olmoearth_core.inference.worker import Outcome, Worker

GRACE = 10.0
"""Seconds that a process may take to end, before it is made to."""


@dataclass(frozen=True)
class Processes:
    """An engine of `count` processes. Each computes with as many threads as the plan says."""

    count: int

    def __call__(self, job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        """Compute `tiles`; those that fail are tried again at the end, one by one in this process."""
        ledger = Ledger(tiles)
        hands = [_Hand(job) for _ in range(min(self.count, len(tiles)))]
        try:
            while not ledger.over:
                ready = wait([hand.connection for hand in hands])
                for hand in [hand for hand in hands if hand.connection in ready]:
                    yield from _attend(hand, hands, ledger)
                asking = sum(not hand.idle for hand in hands)
                hands += [_Hand(job) for _ in range(min(self.count - asking, ledger.left))]  # for those lost
        finally:
            for hand in hands:
                hand.end()
        if ledger.failed:
            yield from map_some(job, ledger.failed)


class _Hand:
    """A process and the line to it."""

    def __init__(self, job: MapJob) -> None:
        context = get_context("spawn")  # a fork would take threads and locks of torch and GDAL along
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(job, theirs), daemon=True)
        self.process.start()
        theirs.close()  # or its end would not be noticed here
        self.idle = False
        """It was told that no tile is left, and ends when it has told of those it holds."""

    def end(self) -> None:
        self.connection.close()
        self.process.join(GRACE if self.idle else 0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _attend(hand: _Hand, hands: list[_Hand], ledger: Ledger) -> Iterator[Outcome]:
    """Hear one message of a process: it asks for a tile (None), tells of one, or cannot go on."""
    try:
        message = hand.connection.recv()
        if message is None:
            taken = ledger.take(hand)
            hand.idle = not taken
            hand.connection.send(taken[0] if taken else None)
            return
    except (EOFError, OSError):
        hands.remove(hand)
        hand.end()
        if not hand.idle or ledger.holds(hand):
            yield from ledger.lose(hand)
        return
    if isinstance(message, BaseException):
        raise message
    outcome = ledger.tell(hand, message)
    if outcome is not None:
        yield outcome


def _work(job: MapJob, connection: Connection) -> None:
    """What a process does: ask for tiles, compute them, tell of them, until there are none or nobody listens."""

    def tiles() -> Iterator[Tile]:
        while True:
            connection.send(None)
            tile = connection.recv()
            if tile is None:
                return
            yield tile

    try:
        with Worker(job) as worker:
            for outcome in worker.map(tiles()):
                connection.send(outcome)
    except (BrokenPipeError, EOFError, ConnectionResetError):
        return  # who gave the work is gone
    except CoreError as error:
        connection.send(error)
