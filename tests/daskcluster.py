"""A Dask cluster on this machine as an operator would start it: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DASK = Path(sys.executable).with_name("dask")
QUIET = ("--no-dashboard",)


class DaskCluster:
    """Where the scheduler listens, and the processes of the workers."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self._environment, self._left = folder, environment, ExitStack()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.file = folder / "scheduler.json"

    @property
    def address(self) -> str:
        found: str = json.loads(self.file.read_text())["address"]
        return found

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._left.enter_context((self.folder / f"{arguments[0]}-{len(self.workers)}.log").open("wb"))
        process = subprocess.Popen(
            [DASK, *arguments, *QUIET, "--scheduler-file", self.file],
            stdout=log,
            stderr=log,
            env=self._environment,
            cwd=self.folder,
        )
        self._left.callback(process.wait, 30)
        self._left.callback(process.kill)
        return process

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        folder = self.folder / f"worker-{len(self.workers)}"
        self.workers.append(
            self.start("worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder), *options)
        )
        return self.workers[-1]

    def kill(self, worker: int) -> None:
        self.workers[worker].send_signal(signal.SIGKILL)
        self.workers[worker].wait(30)

    def end(self) -> None:
        self._left.close()


@contextmanager
def dask_cluster(folder: Path, workers: int, **environment: str) -> Iterator[DaskCluster]:
    """Yields a cluster whose scheduler answers; workers may still be on their way."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), kept.get("PYTHONPATH", "")]
        ),  # finds the tests' flow
        **environment,
    }
    cluster = DaskCluster(folder, kept | settings)
    try:
        cluster.start("scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(workers):
            cluster.add_worker()
        deadline = time.monotonic() + 60
        while not cluster.file.is_file():
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.end()
