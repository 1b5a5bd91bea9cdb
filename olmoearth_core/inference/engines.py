"""Who computes the tiles of a map: an engine takes a job and tiles, and tells what became of each.

Every engine makes the same bytes, since a worker chooses nothing: the plan says how a tile is computed. `local` is this
process; `Processes` (processes.py) are several on this machine; flows/dask_engine.py reaches other machines, which do
what bench.py says and exchange files as exchange.py says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol

import torch

from olmoearth_core.errors import MappingError
from olmoearth_core.inference.job import GIVE_UP, MapJob, map_some
from olmoearth_core.inference.plan import Tile
from olmoearth_core.inference.worker import Outcome
from olmoearth_core.models.precision import resolve_device

LOSSES = 3
"""Workers that may be lost over a tile, before it counts as failed."""


class Engine(Protocol):
    """Computes tiles and tells of each once, in any order.

    Raises:
        CheckpointError: the model is damaged.
        MappingError: one tile after the other fails, or one worker after the other is lost.
        StoreError: the disk is full; finished tiles are kept.
    """

    def __call__(self, job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        """Compute `tiles` of `job`; a tile is told when its file and its record are in `job.out`."""
        ...


def device_of(engine: Engine | None) -> torch.device:
    """The device that the plan is made for: this machine's, unless the engine's workers have another (its `device`)."""
    found = getattr(engine, "device", None)
    return torch.device(found) if found else resolve_device("auto")


def local(job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
    """Compute in this process: threads read and write, the device computes."""
    yield from map_some(job, tiles)


class Ledger:
    """Which tiles are to do, who has which, and what became of them, where workers may be lost at any time.

    A tile whose worker is lost goes to another one, alone in its turn; after `LOSSES` workers it counts as failed, for
    a tile that kills whoever takes it (memory, mostly) must not take the whole map with it.
    """

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self._left = deque(tiles)
        self._held: dict[Hashable, dict[str, Tile]] = {}
        self._losses: Counter[str] = Counter()
        self._in_vain = 0
        self.failed: list[Tile] = []
        """Tiles that a worker could not compute: to be tried again when all others are done."""

    @property
    def left(self) -> int:
        """Tiles that nobody has yet."""
        return len(self._left)

    @property
    def over(self) -> bool:
        """Whether every tile is told or failed."""
        return not self._left and not any(self._held.values())

    def holds(self, worker: Hashable) -> bool:
        """Whether `worker` has tiles that it has not told of."""
        return bool(self._held.get(worker))

    def take(self, worker: Hashable, count: int = 1) -> list[Tile]:
        """The next tiles for a worker, fewer than `count` where fewer are left."""
        taken: list[Tile] = []
        while self._left and len(taken) < count:
            if taken and self._losses[self._left[0].name]:
                break  # it may be the one that kills its worker: not together with others
            taken.append(self._left.popleft())
            if self._losses[taken[-1].name]:
                break
        self._held.setdefault(worker, {}).update({tile.name: tile for tile in taken})
        return taken

    def tell(self, worker: Hashable, outcome: Outcome, *, last: bool = False) -> Outcome | None:
        """What `worker` says of a tile; None where it failed and is to be tried again at the end.

        With `last` a failure is told too: there is no other time.
        """
        tile = self._held[worker].pop(outcome.name)
        if outcome.record is not None or last:
            self._in_vain = 0
            return outcome
        self._failure(f"{outcome.name}, because: {outcome.reason}")
        self.failed.append(tile)
        return None

    def lose(self, worker: Hashable) -> list[Outcome]:
        """The worker is gone: its tiles go back, first in the row; those given up are told.

        Raises:
            MappingError: one worker after the other is lost, and no tile is finished.
        """
        held = self._held.pop(worker, {})
        self._failure("a worker that was killed (was its memory too little?).")
        given_up = []
        for tile in reversed(held.values()):
            self._losses[tile.name] += 1
            if self._losses[tile.name] < LOSSES:
                self._left.appendleft(tile)
            else:
                reason = f"{LOSSES} workers were killed over it (was their memory too little?)."
                given_up.append(Outcome(tile.name, None, reason))
        return given_up

    def _failure(self, what: str) -> None:
        self._in_vain += 1
        if self._in_vain >= GIVE_UP * max(1, len(self._held)):
            raise MappingError(
                f"{self._in_vain} failures one after the other and no tile in between, the last of {what} "
                "Finished tiles are kept; run the same command again when that is mended."
            )
