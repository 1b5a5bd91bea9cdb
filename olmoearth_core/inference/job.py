"""The work of a map as any engine hands it out: a `MapJob` and some tiles go in, finished tiles come out one by one.

A worker needs nothing but the job, which names everything by its path and can be pickled, and chooses nothing: how a
tile is computed stands in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from olmoearth_core.errors import MappingError
from olmoearth_core.inference.plan import Plan, Tile
from olmoearth_core.inference.worker import Outcome, Worker
from olmoearth_core.manifest import SCRATCH
from olmoearth_core.project import Project

ATTEMPTS = 3
"""At a tile, before it counts as failed. (Requests to servers have attempts of their own.)"""
GIVE_UP = 5
"""Tiles that fail one after the other, and nothing goes well: then it is no matter of tiles."""


@dataclass(frozen=True)
class MapJob:
    """Everything that a worker needs to compute any tile of a map.

    Attributes:
        project: folder and settings (imagery, access); files of the project are read where it lies.
        plan: how tiles are computed.
        area: the vector file of `map.area`.
        scenes: the frozen scene list.
        model: folder of the trained model.
        out: where tiles go; journals go to its scratch folder.
        keys: tile -> its key (keys.py), written into its record.
    """

    project: Project
    plan: Plan
    area: Path
    scenes: Path
    model: Path
    out: Path
    keys: Mapping[str, str]

    @property
    def scratch(self) -> Path:
        """The folder of the journals."""
        return self.out / SCRATCH


def map_some(job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
    """Compute `tiles` with a worker of their own, as `insist` does."""
    with Worker(job) as worker:
        yield from insist(worker, tiles)


def insist(worker: Worker, tiles: Sequence[Tile], *, first: int = 1) -> Iterator[Outcome]:
    """Compute `tiles`, each written whole or not at all before it is told.

    A tile that fails (imagery that a server does not give, memory) is tried again after all others, up to `ATTEMPTS`
    times and without reading ahead, and is then told with the reason.

    Args:
        worker: has the job at hand.
        tiles: of the job's plan.
        first: which attempt at them comes next; 2 where one was made elsewhere.

    Raises:
        CheckpointError: the model is damaged.
        MappingError: one tile after the other fails, and none goes well.
        StoreError: the disk is full; finished tiles are kept.
    """
    left = list(tiles)
    for attempt in range(first, ATTEMPTS + 1):
        failed: set[str] = set()
        in_a_row = 0
        for outcome in worker.map(left, ahead=attempt == 1):
            in_a_row = 0 if outcome.record else in_a_row + 1
            if in_a_row >= GIVE_UP and attempt == 1:
                raise MappingError(
                    f"{in_a_row} tiles failed one after the other, the last, {outcome.name}, because: "
                    f"{outcome.reason} Finished tiles are kept; run the same command again when that is mended."
                )
            if outcome.record is None and attempt < ATTEMPTS:
                failed.add(outcome.name)
            else:
                yield outcome
        left = [tile for tile in left if tile.name in failed]
        if not left:
            return
