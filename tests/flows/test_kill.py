"""kill -9 in the middle of each stage, then the same command: it ends as the uninterrupted run does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from partner import Run, command_environment, make_project

from olmoearth_core.manifest import MANIFEST
from olmoearth_core.stages import STAGES
from olmoearth_core.store import PARTIAL

DEADLINE_SECONDS = 120
GONE_SECONDS = 20
ENOUGH = {"export": 5, "preprocess": 3, "finetune": 1, "infer": 5, "postprocess": 1}
"""Files that a stage has in its work folder when it is killed."""


def whole_files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Finished files below `folder` -> (inode, time of the last change)."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith(PARTIAL):
            stat = path.stat()
            found[path.relative_to(folder)] = (stat.st_ino, stat.st_mtime_ns)
    return found


@contextmanager
def started(home: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command at work; however the test ends, nothing of it is left running.

    What it starts (Prefect's server) is of its process group, and stays so when the command itself is gone.
    """
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "olmoearth"), *arguments],
        env=command_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + GONE_SECONDS
        while left := in_group(process.pid):
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)


def in_group(group: int) -> list[psutil.Process]:
    """The processes of a group that are alive."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_in_the_middle(home: Path, project: Path, stage: str) -> dict[Path, tuple[int, int]]:
    """Start the stage, SIGKILL it when it has done a part; returns the files it had finished."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with started(home, stage, str(project)) as process:
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{stage} ended before it could be killed"
            for work in (project / ".olmoearth" / "work").glob(f"{stage}-*"):
                if len(whole_files(work)) >= ENOUGH[stage]:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    assert not (work / MANIFEST).exists(), "too late: the stage was complete"
                    return whole_files(work)
            time.sleep(0.002)
    raise AssertionError(f"{stage} did nothing for {DEADLINE_SECONDS} s")


def test_each_stage_goes_on_after_a_kill(tmp_path: Path, world: Path, home: Path, olmoearth: Run) -> None:
    killed = make_project(tmp_path / "killed" / "fields", world, training__epochs=2)
    whole = make_project(tmp_path / "whole" / "fields", world, training__epochs=2)
    for stage in STAGES:
        before = kill_in_the_middle(home, killed, stage)
        again = olmoearth(stage, killed, "--json")
        assert again.code == 0, again.err + again.out
        assert again.json["skipped"] is False
        expected = olmoearth(stage, whole, "--json")
        assert expected.code == 0, expected.err + expected.out
        assert again.json["outputs_digest"] == expected.json["outputs_digest"], stage
        after = whole_files(killed / again.json["folder"])
        kept = [path for path in before if path.suffix == ".tif" and path in after]
        if stage == "infer":  # a tile is finished when its record is there too
            kept = [path for path in kept if path.with_suffix(".json") in before]
        assert all(after[path] == before[path] for path in kept), "a finished file was made again"
        if stage in ("export", "infer"):
            assert kept, f"{stage} was killed too early to show that finished files stay"


def test_a_polite_kill_leaves_nothing_running(tmp_path: Path, world: Path, home: Path, olmoearth: Run) -> None:
    """docker stop, systemd and SLURM send SIGTERM; Prefect's server is a child of the command."""
    project = make_project(tmp_path / "polite" / "fields", world, training__epochs=200)
    with started(home, "run", str(project)) as process:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any((project / ".olmoearth").glob("work/finetune-*/.scratch/*.checkpoint")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, "no server was started"
        assert {os.getpgid(child.pid) for child in children} == {process.pid}
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 130
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
    again = olmoearth("preprocess", project, "--json")
    assert again.json["skipped"] is True


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, world: Path, home: Path, olmoearth: Run) -> None:
    project = make_project(tmp_path / "fields", world, training__epochs=200)
    with started(home, "run", str(project)) as first:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any((project / ".olmoearth").glob("work/finetune-*")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = olmoearth("run", project)
        assert second.code == 1
        assert "another run is at work on this project" in second.err
        assert "Traceback" not in second.err
    assert first.returncode == -signal.SIGKILL
    freed = olmoearth("preprocess", project, "--json")
    assert freed.code == 0, freed.err
    assert freed.json["skipped"] is True
