"""What a Dask worker does for us: one Prefect task, a batch of tiles, at a bench that it keeps between batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker
from prefect import task

from olmoearth_core.inference.bench import Batch, Bench, Done

PLACE = "_olmoearth_bench"
"""Attribute of the Dask worker."""


@task(name="tiles", task_run_name="{batch.name}", persist_result=False)
def compute_tiles(batch: Batch) -> Done:
    """Compute a batch of tiles and hand each over as it is finished."""
    worker: Any = get_worker()
    if not hasattr(worker, PLACE):
        setattr(worker, PLACE, Bench(Path(worker.local_directory) / "olmoearth"))
    bench: Bench = getattr(worker, PLACE)
    return bench.compute(batch)


def clear_up(run: str, dask_worker: Any) -> None:
    """Have a worker forget the job and the model of a call of the engine, when it is done with its batch."""
    if hasattr(dask_worker, PLACE):
        getattr(dask_worker, PLACE).close(run)


class OneDevice(WorkerPlugin):
    """Gives each worker of a temporary cluster a GPU of its own: the one with the worker's number."""

    def setup(self, worker: Any) -> None:
        """Before anything asks CUDA which devices there are."""
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(worker.name))
