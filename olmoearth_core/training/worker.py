"""One of several processes that train a model together; torchrun starts them, the stage finetune waits for them.

    torchrun --nproc-per-node 4 -m olmoearth_core.training.worker job.json

They leave checkpoints in the scratch folder of the stage, as a run in one process does: the stage then finds a
finished training there. What they have to tell goes to standard output as JSON lines, which the stage passes on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olmoearth_core.errors import CoreError, TrainingError
from olmoearth_core.progress import Silent
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
    if not asked.isdecimal() or int(asked) < 1:
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
            "start": run.project.start and str(run.project.start),
            "dataset": str(run.upstream["preprocess"].folder),
            "scratch": str(run.scratch),
            "run_key": run.key,
        },
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "olmoearth_core.training.worker", str(job)]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    log = run.scratch / "workers.log"
    heard = _Heard(run)
    with (
        log.open("w") as errors,  # a pipe that nobody empties would block them
        subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=errors) as workers,
        run.progress.bar("training", None) as advance,
    ):
        assert workers.stdout is not None
        try:
            for line in workers.stdout:
                heard(line, advance)
        except BaseException:
            workers.terminate()
            raise
    if workers.returncode:
        told = _killed(log.read_text(errors="replace"), count) or heard.error
        raise TrainingError(told or f"The {count} training processes failed; {log} tells how.")


class _Heard:
    """What the workers said: notes and steps are passed on, each note once; errors are kept."""

    def __init__(self, run: StageRun) -> None:
        self.run = run
        self.notes: set[str] = set()
        self.errors: list[dict[str, Any]] = []

    def __call__(self, line: str, advance: Callable[[int], None]) -> None:
        try:
            told = json.loads(line)
        except ValueError:  # of a library, not of ours
            return
        if "steps" in told:
            advance(told["steps"])
        if "note" in told and told["note"] not in self.notes:
            self.notes.add(told["note"])
            self.run.progress.note(told["note"])
        if "error" in told:
            self.errors.append(told)

    @property
    def error(self) -> str:
        """What went wrong first; that the others then lost sight of that process is no news."""
        first = sorted(self.errors, key=lambda told: told["unexpected"])[:1]
        return str(first[0]["error"]) if first else ""


def _killed(log: str, count: int) -> str:
    """Which process was killed from outside before any other failed, by torchrun's own account of it."""
    first = re.search(r"Root Cause.*?\brank\s*:\s*(\d+).*?\bexitcode\s*:\s*(-?\d+)", log, re.DOTALL)
    if first is None or int(first[2]) >= 0:
        return ""
    number = -int(first[2])
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    why = ": most often the machine's memory was full; start fewer processes, or see training.at_once" * (number == 9)
    return f"{_which(int(first[1]), count)} was killed by signal {name}{why}."


def _which(rank: int, count: int) -> str:
    return f"Training process {rank + 1} of {count} (rank {rank})"


class Relay:
    """A listener in a worker: what it hears goes to the stage; steps, which all take alike, from the leader alone."""

    def __init__(self, *, leads: bool) -> None:
        self.leads = leads

    def note(self, message: str) -> None:
        """Pass a remark on."""
        _say({"note": message})

    @contextmanager
    def bar(self, what: str, _total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Pass the steps of training on."""
        heard = self.leads and what == "training"
        yield lambda steps: _say({"steps": steps}) if heard else None


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")  # at once, so that lines of several processes do not mix
    sys.stdout.flush()


def main(path: str) -> None:
    """Train as the process that torchrun made us."""
    from olmoearth_core.manifest import read_manifest
    from olmoearth_core.training.loop import fit
    from olmoearth_core.training.parallel import torchrun_group
    from olmoearth_core.training.setup import make_job, prepare

    job = json.loads(Path(path).read_text())
    start = Path(job["start"]) if job["start"] else None
    project = Project(Path(job["root"]), ProjectConfig.model_validate(job["config"]), start=start)
    folder, scratch = Path(job["dataset"]), Path(job["scratch"])
    manifest = read_manifest(folder)
    assert manifest is not None
    with torchrun_group() as group:
        of_one = ""  # what goes wrong before the training does so in every process alike
        try:
            setup = prepare(
                project, folder, manifest, scratch=scratch, device=_device(), progress=Silent(), meter=Meter()
            )
            relay = Relay(leads=group.leads)
            training = make_job(setup, run_key=job["run_key"], scratch=scratch, progress=relay, meter=Meter())
            of_one = f"{_which(group.rank, group.size)}: "
            fit(training, relay, Meter(), group)
        except CoreError as error:
            _say({"error": f"{of_one}{error}", "unexpected": False})
            raise SystemExit(1) from error
        except Exception as error:
            told = f"{_which(group.rank, group.size)} failed: {error.__class__.__name__}: {error}"
            _say({"error": told, "unexpected": True})
            raise


def _device() -> str:
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main(sys.argv[1])
