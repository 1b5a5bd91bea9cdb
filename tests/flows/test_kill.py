"""kill -9 in the middle of each stage, then the same command: it ends as the uninterrupted run does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from partner import Run, command_environment, make_project

from olmoearth_core.manifest import MANIFEST
from olmoearth_core.stages import STAGES
from olmoearth_core.store import PARTIAL

DEADLINE_SECONDS = 120
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


def start(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "olmoearth"), *arguments],
        env=command_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_in_the_middle(home: Path, project: Path, stage: str) -> dict[Path, tuple[int, int]]:
    """Start the stage, SIGKILL it when it has done a part; returns the files it had finished."""
    process = start(home, stage, str(project))
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{stage} ended before it could be killed"
            for work in (project / ".olmoearth" / "work").glob(f"{stage}-*"):
                if len(whole_files(work)) >= ENOUGH[stage]:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    assert not (work / MANIFEST).exists(), "too late: the stage was complete"
                    return whole_files(work)
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
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
    process = start(home, "run", str(project))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any((project / ".olmoearth").glob("work/finetune-*/.scratch/*.checkpoint")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "no server was started"
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_SECONDS) == 130
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    again = olmoearth("preprocess", project, "--json")
    assert again.json["skipped"] is True


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, world: Path, home: Path, olmoearth: Run) -> None:
    project = make_project(tmp_path / "fields", world, training__epochs=200)
    first = start(home, "run", str(project))
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any((project / ".olmoearth").glob("work/finetune-*")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = olmoearth("run", project)
        assert second.code == 1
        assert "another run is at work on this project" in second.err
        assert "Traceback" not in second.err
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    freed = olmoearth("preprocess", project, "--json")
    assert freed.code == 0, freed.err
    assert freed.json["skipped"] is True
