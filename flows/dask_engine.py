"""The engine `dask`: tiles are computed by the workers of a Dask cluster, each batch of tiles a Prefect task.

Workers share no folder with us: job and tiles go through the exchange (olmoearth_core/inference/exchange.py). A few
batches are out at a time, each worth a minute, so that neither Prefect, Dask nor we ever hold a million of them. A tile
counts when it is home. Who loses a worker loses the tiles that it had not handed over.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from olmoearth_core.inference.bench import Batch, Done
from olmoearth_core.inference.engines import Ledger
from olmoearth_core.inference.exchange import Order, bring_home, send
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.plan import Tile
from olmoearth_core.inference.worker import Outcome
from olmoearth_core.objects import open_objects

if TYPE_CHECKING:
    from flows.dask_cluster import Cluster

WORTH = 60.0
"""Seconds of a worker's time that a batch is worth: Prefect and Dask cost some tenths of a second for each, and a
worker begins each with nothing read ahead."""
MOST = 1000
"""Tiles in a batch."""
AHEAD = 2
"""Batches given out for each worker: one is computed, the next lies ready."""
FETCHING = 8
"""Threads that bring tiles home."""
GONE = 600.0
"""Seconds without a single worker, or without a scheduler, after which nobody waits any longer."""
TICK = 5.0
"""Seconds after which we look whether anybody is still there."""


@dataclass(frozen=True)
class DaskEngine:
    """An engine of Dask workers.

    Attributes:
        exchange: a folder that all workers see, or s3://bucket/prefix.
        scheduler: address of a running cluster (tcp://host:8786); None for a temporary one on this machine.
        workers: of the temporary cluster.
        worth: seconds of a worker's time that a batch is to be worth.
    """

    exchange: str
    scheduler: str | None = None
    workers: int = 1
    worth: float = WORTH

    @cached_property
    def device(self) -> str:
        """The kind of device that the workers compute on: "cuda" where any of them offers the resource GPU.

        Raises:
            EngineError: the scheduler does not answer, or has no workers.
        """
        from flows.dask_cluster import device_of_cluster

        return device_of_cluster(self.scheduler)

    def __call__(self, job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        """Have `tiles` computed; those that fail are tried again at the end, each alone.

        Raises:
            EngineError: the cluster cannot be reached, or is gone for good; finished tiles are kept.
        """
        from flows.dask_cluster import open_cluster

        run = secrets.token_hex(8)
        order = send(job, self.exchange, run)
        with open_cluster(self.scheduler, self.workers, job.plan.device) as cluster:
            try:
                ledger = Ledger(tiles)
                yield from Round(job, order, ledger, cluster, self.worth).outcomes()
                if ledger.failed:
                    again = Ledger(ledger.failed)
                    yield from Round(job, order, again, cluster, self.worth, last=True).outcomes()
            finally:
                cluster.clear_up(run)


@dataclass
class Pace:
    """How many tiles make a batch, from how long the last ones took."""

    worth: float
    seconds: float | None = None
    """That a tile takes; None while nobody knows."""

    def learn(self, done: Done) -> None:
        """Take a finished batch into account."""
        if done.computed:
            took = done.seconds / done.computed
            self.seconds = took if self.seconds is None else 0.7 * self.seconds + 0.3 * took

    def tiles(self, left: int, workers: int) -> int:
        """Tiles of the next batch: worth a minute, but towards the end a fair share, so that all end together."""
        if self.seconds is None:
            return 1
        wanted = MOST if self.seconds * MOST <= self.worth else math.ceil(self.worth / self.seconds)
        return max(1, min(wanted, math.ceil(left / (AHEAD * workers))))


@dataclass
class Round:
    """Gives out the tiles of a ledger and hears what became of them."""

    job: MapJob
    order: Order
    ledger: Ledger
    cluster: Cluster
    worth: float
    last: bool = False
    _given: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Key of a batch that is out -> its place among those (what the ledger calls a worker), and its future."""
    _ended: SimpleQueue[Any] = field(default_factory=SimpleQueue)

    def outcomes(self) -> Iterator[Outcome]:
        """What became of each tile; a tile with a record is in the job's folder."""
        pace = Pace(self.worth)
        try:
            with ThreadPoolExecutor(FETCHING, "home") as home:
                while not self.ledger.over:
                    self._give_out(pace)
                    yield from self._hear(self._next(), pace, home)
        finally:
            self.cluster.cancel([future for _, future in self._given.values()])

    def _give_out(self, pace: Pace) -> None:
        workers = max(1, self.cluster.workers)
        free = iter(set(range(AHEAD * workers)) - {place for place, _ in self._given.values()})
        for place in free:
            taken = self.ledger.take(place, 1 if self.last else pace.tiles(self.ledger.left, workers))
            if not taken:
                return
            keys = {tile.name: self.job.keys[tile.name] for tile in taken}
            future = self.cluster.submit(Batch(self.order, tuple(taken), keys, self.last))
            self._given[future.key] = place, future
            future.add_done_callback(self._ended.put)

    def _next(self) -> Any:
        while True:
            with suppress(Empty):
                return self._ended.get(timeout=TICK)
            self.cluster.check(GONE)

    def _hear(self, future: Any, pace: Pace, home: ThreadPoolExecutor) -> Iterator[Outcome]:
        place, _ = self._given.pop(future.key)
        done = self.cluster.result(future)
        if done is None:
            yield from self.ledger.lose(place)
            return
        pace.learn(done)
        for outcome in home.map(self._bring, done.outcomes):
            told = self.ledger.tell(place, outcome, last=self.last)
            if told is not None:
                yield told

    def _bring(self, outcome: Outcome) -> Outcome:
        if outcome.record is None:
            return outcome
        objects = open_objects(self.order.exchange)
        if bring_home(objects, self.order, outcome.record, outcome.name, self.job):
            return outcome
        reason = f"what lies in {self.order.exchange} is not what was written (its sha256 differs); it is made anew."
        return replace(outcome, record=None, reason=reason)
