"""One worker at its tiles: imagery is read and composed ahead, the device computes, one thread blends and writes.

    threads: compose strips of this tile and the next ones  ->  here: batches, forward  ->  a thread: blend, write

All three go on at the same time, also within a tile. Memory holds the imagery of a tile, some strips, and the sums of
two tiles.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

import rasterio
import torch

from olmoearth_core.errors import CoreError, StoreError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.read import KEPT_BYTES, AssetReader, Failure
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.batching import assemble
from olmoearth_core.inference.imagery import Imagery, strips
from olmoearth_core.inference.journals import note_lost
from olmoearth_core.inference.pipeline import Behind, prefetched
from olmoearth_core.inference.plan import Plan, Tile, tile_windows
from olmoearth_core.inference.product import TileRecord, write_tile
from olmoearth_core.inference.tile import TileWork
from olmoearth_core.models.model_folder import load_model
from olmoearth_core.stage import Meter

if TYPE_CHECKING:
    from olmoearth_core.inference.job import MapJob

READERS = 4
"""Threads that read assets for a strip; more hide more of a network's latency, and none changes a pixel."""
WAITING = 16
"""Batches that may wait to be blended."""
GDAL_CACHE = 8 * 2**20
"""Bytes of blocks of local files that GDAL may keep: left alone it takes a share of the machine's memory. What one
strip reads of all scenes is far more than any cache of bounded size, so the next strip finds nothing of it."""
LOCAL = 32 * 2**20
"""Bytes of decoded blocks that are remembered where imagery lies on this machine, and is soon read again."""
BLOCK = 512
"""Edge of the blocks of most imagery in pixels."""
MOST_KEPT = 2**30


@dataclass(frozen=True)
class Outcome:
    """What became of one tile, and what it cost.

    Attributes:
        name: of the tile.
        record: of the finished tile; None where it failed.
        reason: why it failed, one sentence.
        device_seconds: that the device worked since the worker's outcome before this one.
        bytes_read: likewise.
    """

    name: str
    record: TileRecord | None
    reason: str = ""
    device_seconds: float = 0.0
    bytes_read: int = 0


Part = tuple[TileWork, PixelBox]
"""A tile and one of its strips."""


class Worker(ExitStack):
    """Has the model, the area and the scenes of a job at hand; a context manager.

    Raises:
        CheckpointError: the model is damaged, or the plan's device is not here.
        MappingError, CatalogueError: the area or the scene list cannot be read.
    """

    def __init__(self, job: MapJob) -> None:
        super().__init__()
        self._job, plan = job, job.plan
        self._settings = job.project.config.imagery
        self._model = load_model(job.model, device=plan.device, precision=plan.precision)
        self._bands = self._model.card.bands
        self._scenes = read_scenes(job.scenes, job.project.root)
        where = job.project.config.map.area
        areas = load_areas(job.area, where, crs=self._settings.crs, resolution=plan.resolution)
        self._areas = {area.grid.crs: area for area in areas}
        self._steps = [Timestep(start, end) for start, end in plan.timesteps]
        self._meter, self._told = Meter(), Meter()
        self._lost: set[Failure] = set()
        bands = sum(map(len, self._bands.values()))
        keep = kept_bytes(plan, bands) if self._scenes.remote else LOCAL
        self._reader = self.enter_context(
            AssetReader(self._meter, workers=READERS, keep_bytes=keep, access=access_of(job.project))
        )
        self.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE))
        self.enter_context(_threads(plan.threads))

    def map(self, tiles: Iterable[Tile], *, ahead: bool = True) -> Iterator[Outcome]:
        """Compute `tiles`, each written whole or not at all before it is told; one that fails is told as well.

        Args:
            tiles: of the plan; taken one by one as there is room to read them.
            ahead: read ahead; without it least memory is taken.

        Raises:
            StoreError: the disk is full; nothing more can be finished.
        """
        threads = composers(self._job.plan.device) if ahead else 1
        finishing: deque[Future[Outcome]] = deque()
        with Behind(WAITING) as behind:
            parts = prefetched(self._parts(tiles), self._compose, threads=threads, ahead=threads if ahead else 0)
            for (work, strip), _ in parts:
                self._forward(work, strip, behind)
                if work.is_last(strip):
                    work.imagery.forget_data()
                    finishing.append(behind.do(self._finish, work))
                del work
                while finishing and finishing[0].done():
                    yield finishing.popleft().result()
            while finishing:
                yield finishing.popleft().result()

    def _parts(self, tiles: Iterable[Tile]) -> Iterator[Part]:
        plan = self._job.plan
        for tile in tiles:
            windows = tile_windows(self._areas[tile.crs], plan.box(tile), plan.layout)
            around = reduce(PixelBox.union, windows)
            work = TileWork(tile, plan, windows, Imagery(around, self._steps, self._bands))
            for strip in strips(around, plan.layout.window_size):
                yield work, strip

    def _compose(self, part: Part) -> None:
        work, strip = part

        def step() -> None:
            for modality, bands in self._bands.items():
                work.imagery.fill(
                    compose(
                        self._scenes,
                        strip,
                        self._steps,
                        modality=modality,
                        bands=bands,
                        composite=self._settings.composite,
                        cloud_mask=self._settings.cloud_mask,
                        reader=self._reader,
                    )
                )

        _try(work, step)

    def _forward(self, work: TileWork, strip: PixelBox, behind: Behind) -> None:
        def step() -> None:
            for batch in work.batches(strip):
                given = assemble(batch, work.imagery)
                with self._meter.on_device():
                    predicted = self._model.predict(*given, whole_timesteps=batch.masked)
                behind.do(_try, work, partial(work.blend, batch, predicted))

        _try(work, step)

    def _finish(self, work: TileWork) -> Outcome:
        name = work.tile.name
        records: list[TileRecord] = []

        def step() -> None:
            mapped = work.mapped(self._areas[work.tile.crs].mask(work.box))
            lost = [failure for failure in self._reader.failures if failure not in self._lost]
            note_lost(self._job.scratch, name, lost)  # before the tile counts as finished
            self._lost.update(lost)
            records.append(write_tile(self._job.out, name, mapped, self._job.plan.model, self._job.keys[name]))

        _try(work, step)
        seconds, read = self._meter.device_seconds, self._meter.bytes_read
        spent = seconds - self._told.device_seconds, read - self._told.bytes_read
        self._told.device_seconds, self._told.bytes_read = seconds, read
        if work.failed is not None:
            return Outcome(name, None, reason(work.failed), *spent)
        return Outcome(name, records[0], "", *spent)


def _try(work: TileWork, step: Callable[[], None]) -> None:
    """Take a step with a tile that has not failed; let it fail over what may go well elsewhere, or another time."""
    if work.failed is None:
        try:
            step()
        except Exception as error:
            if not is_of_a_tile(error):
                raise
            work.failed = error


def is_of_a_tile(error: Exception) -> bool:
    """Whether another tile may go well after `error`: not with a full disk, nor with a defect of ours."""
    if isinstance(error, RuntimeError) and not isinstance(error, CoreError):
        return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
    return isinstance(error, CoreError | OSError | MemoryError) and not isinstance(error, StoreError)


def reason(error: Exception) -> str:
    """Why a tile failed, for people."""
    if isinstance(error, CoreError):
        return str(error)
    if isinstance(error, MemoryError | RuntimeError):
        return "out of memory; a smaller map.tile_size takes less"
    return f"{type(error).__name__}: {error}"


def composers(device: str) -> int:
    """Threads that compose strips: a CPU that also computes has little left for more."""
    return 2 if device == "cpu" else max(2, min(8, len(os.sched_getaffinity(0)) // 2))


def kept_bytes(plan: Plan, bands: int) -> int:
    """Bytes of decoded blocks to remember: a row of blocks across a tile, of all bands and timesteps, is read once
    though strips share it."""
    across = (plan.layout.tile_size + 2 * plan.layout.window_size + 2 * BLOCK) * BLOCK * 2
    return max(KEPT_BYTES, min(MOST_KEPT, across * bands * len(plan.timesteps)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
