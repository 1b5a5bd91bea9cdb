"""A place of work in a process of a cluster: batches of tiles come, finished tiles go to the exchange.

The job is fetched and the model loaded with the first batch, and kept for the next ones. Everything happens in one
thread of its own, one batch at a time: threads of torch and settings of GDAL belong to the thread that made them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from olmoearth_core.inference.exchange import Order, publish, published, receive
from olmoearth_core.inference.job import MapJob, insist
from olmoearth_core.inference.pipeline import Behind
from olmoearth_core.inference.plan import Tile
from olmoearth_core.inference.worker import Outcome, Worker
from olmoearth_core.objects import open_objects

PUBLISHING = 4
"""Finished tiles that may wait to be handed over, while the next ones are computed."""


@dataclass(frozen=True)
class Batch:
    """Tiles for one worker.

    Attributes:
        order: the job they are of.
        tiles: of its plan.
        keys: of these tiles (`MapJob.keys`).
        last: they failed elsewhere before: one at a time, and told as they are if they fail again.
    """

    order: Order
    tiles: tuple[Tile, ...]
    keys: Mapping[str, str]
    last: bool = False

    @property
    def name(self) -> str:
        """For people."""
        more = len(self.tiles) - 1
        return self.tiles[0].name + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class Done:
    """What became of a batch.

    Attributes:
        outcomes: of its tiles, in any order; a tile with a record lies in the exchange.
        seconds: that computing took, without fetching the job and loading the model.
        computed: how many tiles were computed; others lay in the exchange already.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    computed: int


class Bench:
    """Computes batches; keeps the job and the model of the last one.

    Args:
        folder: private to this process; removed when the bench is closed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "bench")
        self._at_hand: tuple[Order, MapJob, Worker] | None = None
        self._keys: dict[str, str] = {}
        """Of the batch at hand; the job has it."""
        self._kept = ExitStack()

    def compute(self, batch: Batch) -> Done:
        """Compute the tiles of a batch that nobody handed over yet, and hand each over.

        Raises:
            CheckpointError, MappingError, CatalogueError, StoreError: as a worker on the maker's own machine.
        """
        return self._thread.submit(self._compute, batch).result()

    def close(self, run: str | None = None) -> Future[None]:
        """Forget job and model once the batch at hand is done; with `run`, only those of that call of the engine."""
        return self._thread.submit(self._close, run)

    def _compute(self, batch: Batch) -> Done:
        job, worker = self._open(batch.order, batch.keys)
        objects = open_objects(batch.order.exchange)
        records = {tile.name: published(objects, batch.order, tile.name) for tile in batch.tiles}
        outcomes = [Outcome(name, record) for name, record in records.items() if record]
        missing = [tile for tile in batch.tiles if not records[tile.name]]
        begun, handed = time.perf_counter(), []
        with Behind(PUBLISHING) as behind:
            for outcome in insist(worker, missing, first=2) if batch.last else worker.map(missing):
                if outcome.record:
                    handed.append(behind.do(publish, objects, batch.order, job, outcome.name))
                outcomes.append(outcome)
        for handing in handed:
            handing.result()
        return Done(tuple(outcomes), time.perf_counter() - begun, len(missing))

    def _open(self, order: Order, keys: Mapping[str, str]) -> tuple[MapJob, Worker]:
        if self._at_hand is None or self._at_hand[0] != order:
            self._close()
            self._kept.callback(shutil.rmtree, self._folder, ignore_errors=True)
            job = replace(receive(order, self._folder), keys=self._keys)
            self._at_hand = order, job, self._kept.enter_context(Worker(job))
        self._keys.clear()
        self._keys.update(keys)
        return self._at_hand[1:]

    def _close(self, run: str | None = None) -> None:
        if run is None or (self._at_hand is not None and self._at_hand[0].run == run):
            self._at_hand = None
            self._kept.close()
