"""One of several processes that train a model together; torchrun starts them, the stage finetune waits for them.

    torchrun --nproc-per-node 4 -m olmoearth_core.training.worker job.json

They leave checkpoints in the scratch folder of the stage, as a run in one process does: the stage then finds a
finished training there. What they have to tell goes to standard output as JSON lines, which the stage passes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olmoearth_core.errors import CoreError, TrainingError
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.project import Project, ProjectConfig
from olmoearth_core.stage import Meter, StageRun
from olmoearth_core.store import write_json

PROCESSES = "OLMOEARTH_TRAINING_PROCESSES"
"""Environment variable: how many processes train one model; by default one on each GPU."""


def processes() -> int:
    """How many processes train one model here.

    Raises:
        TrainingError: the environment variable is no number from 1 on.
    """
    import torch

    asked = os.environ.get(PROCESSES, "")
    if not asked:
        return max(1, torch.cuda.device_count())
    if not asked.isdigit() or int(asked) < 1:
        raise TrainingError(f"{PROCESSES} is '{asked}'; expected a number of processes, 1 or more.")
    return int(asked)


def run_workers(run: StageRun, count: int) -> None:
    """Train in `count` processes; returns when they are done.

    Raises:
        TrainingError: one of them failed, with what it said.
    """
    job = run.scratch / "job.json"
    write_json(
        job,
        {
            "root": str(run.project.root),
            "config": run.project.config.model_dump(mode="json"),
            "dataset": str(run.upstream["preprocess"].folder),
            "scratch": str(run.scratch),
            "run_key": run.key,
        },
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "olmoearth_core.training.worker", str(job)]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    errors = run.scratch / "workers.log"
    said = ""
    with (
        errors.open("w") as log,  # a pipe that nobody empties would block them
        subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=log) as workers,
        run.progress.bar("training", None) as advance,
    ):
        assert workers.stdout is not None
        try:
            for line in workers.stdout:
                said = said or _pass_on(line, run, advance)
        except BaseException:
            workers.terminate()
            raise
    if workers.returncode:
        raise TrainingError(said or f"The {count} training processes failed; {errors} tells how.")


def _pass_on(line: str, run: StageRun, advance: Any) -> str:
    """Tell what a worker said; its error, if that is one."""
    try:
        told = json.loads(line)
    except ValueError:
        return ""
    if "steps" in told:
        advance(told["steps"])
    if "note" in told:
        run.progress.note(told["note"])
    if "device_seconds" in told:
        run.meter.device_seconds += told["device_seconds"]
        run.meter.waiting_seconds += told["waiting_seconds"]
    return str(told.get("error", ""))


class Relay:
    """A listener of the leading process: what it hears goes to the stage."""

    def note(self, message: str) -> None:
        """Pass a remark on."""
        _say({"note": message})

    @contextmanager
    def bar(self, _what: str, _total: int | None = None) -> Iterator[Any]:
        """Pass the steps of training on."""
        yield lambda steps: _say({"steps": steps}) if _what == "training" else None


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main(path: str) -> None:
    """Train as the process that torchrun made us."""
    from olmoearth_core.manifest import read_manifest
    from olmoearth_core.training.loop import fit
    from olmoearth_core.training.parallel import torchrun_group
    from olmoearth_core.training.setup import make_job, prepare

    job = json.loads(Path(path).read_text())
    project = Project(Path(job["root"]), ProjectConfig.model_validate(job["config"]))
    folder, scratch = Path(job["dataset"]), Path(job["scratch"])
    manifest = read_manifest(folder)
    assert manifest is not None
    with torchrun_group() as group:
        progress: Progress = Relay() if group.leads else Silent()
        try:
            device = _device()
            setup = prepare(project, folder, manifest, scratch=scratch, device=device, progress=Silent(), meter=Meter())
            job_here = make_job(setup, run_key=job["run_key"], scratch=scratch, progress=progress, meter=Meter())
            meter = Meter()
            fit(job_here, progress, meter, group)
            if group.leads:
                _say({"device_seconds": meter.device_seconds, "waiting_seconds": meter.waiting_seconds})
        except CoreError as error:
            _say({"error": str(error)})
            raise SystemExit(1) from error
        except Exception as error:
            _say({"error": f"A training process failed: {error.__class__.__name__}: {error}"})
            raise


def _device() -> str:
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main(sys.argv[1])
