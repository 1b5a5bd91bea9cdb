"""A plan of 100,000 tiles through the engine `dask`, and through the files that a map of as many tiles is kept in.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [TILES]

Scheduling: real Prefect tasks on two real Dask workers, with tiles that take no time but claim to take a second, so
that a batch is what it would be: 30 tiles, half a minute. What is measured is all that is not computing: seconds of
wall time a batch and worker, over 30 s; CPU seconds a batch of all processes (ours, Dask's, Prefect's server); memory
of this process after the first tenth of the tiles and at the end.
Files: plan.json, two small files a tile, their checksums, manifest.json.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import harness
import numpy as np
import psutil

from olmoearth_core.inference.engines import Ledger
from olmoearth_core.inference.exchange import Order
from olmoearth_core.inference.infer import map_tiles
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.keys import TileKeys
from olmoearth_core.inference.plan import Plan, PlannedModel, Tile, map_layout, read_plan, write_plan
from olmoearth_core.inference.worker import Outcome
from olmoearth_core.manifest import Manifest, describe_outputs, read_manifest, write_manifest
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.stage import Meter, StageRun
from olmoearth_core.verified import changed_outputs

WORKERS, WORTH = 2, 30.0
ZONE = "EPSG:32633"
GOAL = 0.01
TILE_BYTES = 1024


def main() -> None:
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
        os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
        plan = make_plan(tiles)
        files = measure_files(plan, Path(folder) / "files")
        scheduled = measure_scheduling(plan, Path(folder) / "run")
    harness.write("scale", [scheduled], files=files)
    table = harness.markdown(
        [
            "tiles",
            "tasks",
            "s a task and worker",
            "of half a minute",
            "goal",
            "CPU s a task",
            "MB at 1/10",
            "MB at the end",
        ],
        [
            [
                f"{scheduled['tiles']:,}",
                f"{scheduled['tasks']:,}",
                f"{scheduled['overhead']:.3f}",
                f"{100 * scheduled['overhead'] / WORTH:.2f} %",
                f"{100 * GOAL:.0f} %",
                f"{scheduled['cpu']:.3f}",
                f"{scheduled['mb_tenth']:.0f}",
                f"{scheduled['mb_end']:.0f}",
            ]
        ],
    )
    lines = "\n".join(f"* {name}: {value}" for name, value in files.items())
    harness.put_section("scale", "A plan of many tiles", f"{table}\n{lines}")
    print(table, lines, sep="\n")


def make_plan(count: int) -> Plan:
    """Tiles of 1,024 px in rows of 400, as over a country."""
    tiles = [
        Tile(name=f"32633_{x}_{y}", crs=ZONE, column=1024 * x, row=1024 * y, width=1024, height=1024, windows=484)
        for y, x in (divmod(k, 400) for k in range(count))
    ]
    return Plan(
        zones=[ZONE],
        resolution=10.0,
        anchor=date(2024, 1, 1),
        timesteps=[(date(2024, 1, 1), date(2024, 2, 1))],
        model=PlannedModel(weights_sha256="0" * 64, classes=["a", "b"]),
        layout=map_layout(1024, 64, 8, 0.25),
        batch_sizes=[8],
        precision="fp32",
        windows=484 * count,
        tiles=tiles,
    )


def measure_scheduling(plan: Plan, folder: Path) -> dict[str, Any]:
    """The stage's own loop over the tiles, its engine the real one but for what a tile is."""
    from flows.run import prepare_prefect

    prepare_prefect()  # before anything imports it
    from simulated_tiles import simulated

    from flows.dask_cluster import open_cluster
    from flows.dask_engine import Round

    class Simulated(Round):
        def _bring(self, outcome: Outcome) -> Outcome:
            return outcome  # there is no file

    process, memory, tasks, cpu = psutil.Process(), list[float](), 0, 0.0
    begun = busy = 0.0

    def engine(job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        nonlocal tasks, begun, busy, cpu
        with open_cluster(None, WORKERS, "cpu", simulated) as cluster:
            submit = cluster.submit

            def counted(batch: Any) -> Any:
                nonlocal tasks
                tasks += 1
                return submit(batch)

            cluster.submit = counted
            for k, outcome in enumerate(Simulated(job, order, Ledger(tiles), cluster, WORTH).outcomes()):
                if not begun:  # the workers have imported what they need
                    begun, busy = time.perf_counter(), cpu_seconds()
                if k % (len(tiles) // 10) == 0:
                    memory.append(process.memory_info().rss / 2**20)
                yield outcome
            cpu = cpu_seconds() - busy

    order = Order("run", str(folder), "job", "rule", 0, "", "area")
    folder.mkdir()
    keys = TileKeys({tile.name: "0" * 64 for tile in plan.tiles}, (), np.empty((2, 0), np.intp))
    project = Project(folder, None)  # of which only the folder is asked for: earlier maps
    job = MapJob(project, plan, folder, folder, folder, folder, keys.keys)
    run = StageRun(project, folder, {}, {}, Silent(), Meter(), engine=engine)
    tally = map_tiles(run, job, keys)
    seconds = time.perf_counter() - begun
    assert len(tally.finished) == len(plan.tiles)
    return {
        "tiles": len(tally.finished),
        "tasks": tasks,
        "seconds": seconds,
        "overhead": seconds * WORKERS / tasks,
        "cpu": cpu / tasks,
        "memory_mb": memory,
        "mb_tenth": memory[1],
        "mb_end": process.memory_info().rss / 2**20,
    }


def cpu_seconds() -> float:
    """Of this process and all below it."""
    process = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def measure_files(plan: Plan, folder: Path) -> dict[str, str]:
    """What the files of so many tiles cost beside their bytes."""
    folder.mkdir()
    found = {}

    def timed(what: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        found[what] = f"{time.perf_counter() - begun:.1f} s"
        return result

    timed("plan.json written", lambda: write_plan(plan, folder))
    timed("plan.json read", lambda: read_plan(folder))
    found["plan.json"] = f"{(folder / 'plan.json').stat().st_size / 2**20:.0f} MB"
    timed("bounds of all tiles", lambda: plan.bounds(ZONE))
    for tile in plan.tiles:
        (folder / f"{tile.name}.tif").write_bytes(bytes(TILE_BYTES))
        (folder / f"{tile.name}.json").write_bytes(b"{}")
    outputs = timed("checksums of all files (small ones)", lambda: describe_outputs(folder))
    manifest = Manifest(stage="infer", stage_version=1, key="0", settings={}, inputs={}, outputs=outputs, summary={})
    timed("manifest.json written", lambda: write_manifest(folder, manifest))
    timed("manifest.json read", lambda: read_manifest(folder))
    found["manifest.json"] = f"{(folder / 'manifest.json').stat().st_size / 2**20:.0f} MB"
    time.sleep(2.1)  # younger files are not believed without reading
    changed_outputs(folder, manifest, folder.parent / "note")
    timed("asked whether anything changed", lambda: changed_outputs(folder, manifest, folder.parent / "note"))
    return found


if __name__ == "__main__":
    main()
