"""The stage preprocess as a program that can be told to die.

    python preprocess_program.py PROJECT_FOLDER

Environment: LOG names a file that gets a line for each window that is composed; STOP says where the process kills
itself with SIGKILL: "group:N" (before the Nth group of neighbours of this process), "shard:N" (in the Nth shard, with
one of its arrays written), "report" (all is made but the report).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from olmoearth_core.dataset import compose, cubes, preprocess
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

STOP, _, NTH = os.environ.get("STOP", "").partition(":")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    cubes.SHARD_BYTES = 16 * 16 * 9 * 16  # sixteen windows
    compose.NEIGHBOURHOOD = 32  # groups of four windows at most
    lock = threading.Lock()
    counts = {"group": 0, "array": 0}
    make, put, report = compose.Composer.__call__, zarr.Array.__setitem__, preprocess.write_report

    def composed(self: compose.Composer, group: Sequence[TrainingWindow]) -> Any:
        with lock:
            counts["group"] += 1
            if STOP == "group" and counts["group"] == int(NTH):
                die()
            with Path(os.environ["LOG"]).open("a") as log:
                log.write("".join(f"{window.name}\n" for window in group))
        return make(self, group)

    def written(self: zarr.Array, rows: Any, values: Any) -> None:
        put(self, rows, values)
        counts["array"] += 1
        if STOP == "shard" and counts["array"] == 4 * (int(NTH) - 1) + 1:
            die()

    def reported(*arguments: Any) -> None:
        if STOP == "report":
            die()
        report(*arguments)

    compose.Composer.__call__ = composed  # type: ignore[method-assign]
    zarr.Array.__setitem__ = written  # type: ignore[method-assign]
    preprocess.write_report = reported
    result = run_stage(STAGES["preprocess"], STAGES, load_project(folder), Silent())
    print(result.manifest.outputs_digest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
