"""What kills and a second run may do to a stage: nothing half, nothing lost, nothing done twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy

from olmoearth_core.errors import BusyError, StoreError
from olmoearth_core.manifest import SCRATCH, damage, read_manifest
from olmoearth_core.progress import Silent
from olmoearth_core.stage import StageRun, project_lock, read_record, resolve_key, run_stage
from olmoearth_core.store import PARTIAL

# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("stop", ["part:0", "part:3", "worked", "rename:1", "rename:2"])
def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path, log: Path, stop: str) -> None:
    """Killed at the start, in the middle, before the manifest, before and between the two renames of publishing."""
    folder = tmp_path / "killed"
    toy.run_all(toy.write_project(folder))  # so that there is something in place to replace
    project = toy.write_project(folder, {"model.window_size": 128})
    log.write_text("")
    toy.kill_at(folder, stop)
    toy.assert_nothing_half(project)
    results = toy.run_all(project)
    toy.assert_clean(project)
    # every part was made once, before the kill or after it
    assert sorted(line for line in log.read_text().splitlines() if "part" in line) == [f"part {i}" for i in range(6)]
    whole = toy.run_all(toy.write_project(tmp_path / "whole", {"model.window_size": 128}))
    assert [r.manifest for r in results.values()] == [r.manifest for r in whole.values()]
    assert toy.ran(project) == []


def test_what_a_resumed_stage_cost_says_that_it_was_resumed(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.kill_at(tmp_path, "part:3")
    done = toy.run_all(project)
    assert done["gather"].record["resumed"] is True
    assert done["total"].record["resumed"] is False
    assert set(done["total"].record) == {
        "wall_seconds",
        "device",
        "device_seconds",
        "bytes_read",
        "bytes_written",
        "resumed",
    }
    assert done["gather"].record == read_record(project, "gather", done["gather"].manifest.key)


def test_a_run_killed_just_after_publishing_is_complete_and_tidied(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path))
    project = toy.write_project(tmp_path, {"model.window_size": 128})
    toy.kill_at(tmp_path, "renamed:2")  # gather is published, what stood there before is not yet removed
    assert len(list((project.state / "trash").iterdir())) == 1
    assert toy.ran(project) == ["total", "report"]
    toy.assert_clean(project)


def test_finished_work_is_published_without_doing_it_again(tmp_path: Path, log: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.kill_at(tmp_path, "rename:2")  # gather is in place, total is about to be published
    assert toy.ran(project) == ["total", "report"]
    assert log.read_text().splitlines().count("total") == 1


def test_finished_work_that_was_damaged_before_it_was_published_is_made_again(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.kill_at(tmp_path, "rename:1", "gather")
    (work,) = (project.state / "work").iterdir()
    assert read_manifest(work) is not None
    toy.flip(work / "parts" / "2.txt")
    done = toy.run_all(project)
    assert damage(done["gather"].folder, done["gather"].manifest) == []
    assert done["gather"].manifest == toy.run_all(toy.write_project(tmp_path / "whole"))["gather"].manifest


def test_abandoned_work_of_other_settings_goes_when_the_stage_succeeds(tmp_path: Path) -> None:
    toy.write_project(tmp_path, {"model.window_size": 128})
    toy.kill_at(tmp_path, "part:3")
    project = toy.write_project(tmp_path)
    assert len(list((project.state / "work").iterdir())) == 1
    toy.run_all(project)
    toy.assert_clean(project)


def test_a_stage_that_fails_leaves_what_stood_there_and_goes_on_later(tmp_path: Path, log: Path) -> None:
    before = toy.run_all(toy.write_project(tmp_path))["gather"]
    project = toy.write_project(tmp_path, numbers="1 2 three 4")
    with pytest.raises(ValueError, match="three"):
        toy.run_all(project)
    assert damage(before.folder, before.manifest) == []
    assert toy.run_all(toy.write_project(tmp_path))["gather"].skipped


def test_checkpoints_stay_until_the_manifest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = toy.write_project(tmp_path)

    def refuse(_folder: Path, _manifest: Any) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("olmoearth_core.stage.write_manifest", refuse)
        with pytest.raises(StoreError):
            toy.run_all(project)
    (work,) = (project.state / "work").iterdir()
    assert (work / SCRATCH / "journal").read_text() == "5\n"
    toy.run_all(project)
    toy.assert_clean(project)


# ---------------------------------------------------------------- two at once


@contextmanager
def _running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = toy.start(folder, "part:3")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "part:3"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_at_once_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    with _running(tmp_path) as first:
        start = time.perf_counter()
        with pytest.raises(BusyError, match="another run is at work on this project"):
            toy.run_all(project)
        with pytest.raises(BusyError), project_lock(project):
            pass
        assert time.perf_counter() - start < 2
        first.kill()
        first.wait()
        assert toy.ran(project) == ["gather", "total", "report"]


def test_a_forked_worker_that_outlives_the_run_does_not_hold_the_project(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    program = (
        "import os, sys, time; from pathlib import Path\n"
        "from olmoearth_core.project import load_project; from olmoearth_core.stage import project_lock\n"
        "with project_lock(load_project(Path(sys.argv[1]))):\n"
        "    parent = os.getpid()\n"
        "    worker = os.fork()\n"
        "    while worker == 0 and not Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
        "    if worker == 0: os._exit(0)\n"
        "    print(worker, flush=True); time.sleep(60)\n"
    )
    end = tmp_path / "end"
    with subprocess.Popen([sys.executable, "-c", program, tmp_path, end], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            with pytest.raises(BusyError), project_lock(project):
                pass
            parent.kill()
            parent.wait()
            os.kill(worker, 0)  # the worker lives on
            with project_lock(project):
                pass
        finally:
            end.touch()


def test_the_lock_is_reentrant_from_any_thread_of_a_process(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    outcome: list[Any] = []
    with project_lock(project), project_lock(project):
        thread = threading.Thread(target=lambda: outcome.append(toy.run_all(project)))
        thread.start()
        thread.join()
    assert [r.skipped for r in outcome[0].values()] == [False] * 3
    with subprocess.Popen([sys.executable, toy.__file__, tmp_path]) as other:  # the lock is let go at the end
        assert other.wait(30) == 0


def test_two_threads_never_work_on_one_stage(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    inside, go_on = threading.Event(), threading.Event()

    def slow(run: StageRun) -> dict[str, Any]:
        inside.set()
        assert go_on.wait(30)
        return toy.gather(run)

    stage = replace(toy.stages()["gather"], run=slow)
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(run_stage(stage, {}, project, Silent())))
    thread.start()
    assert inside.wait(30)
    with pytest.raises(BusyError):
        run_stage(stage, {}, project, Silent())
    go_on.set()
    thread.join()
    assert not outcome[0].skipped
    assert run_stage(stage, {}, project, Silent()).skipped


def test_many_threads_may_enter_the_lock_together(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    barrier, failures = threading.Barrier(8), []

    def enter() -> None:
        barrier.wait()
        try:
            for _ in range(20):
                with project_lock(project):
                    pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_half_files_of_a_run_that_was_killed_are_gone_when_the_stage_goes_on(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    table = toy.stages()
    stage = table["gather"]
    key = resolve_key(stage, table, project, Silent())
    scratch = project.state / "work" / f"{stage.name}-{key[:12]}" / SCRATCH
    scratch.mkdir(parents=True)
    half = scratch / f"epoch-00002.checkpoint.0a1b{PARTIAL}"
    half.write_text("half")
    (scratch / "whole").write_text("whole")
    found: list[list[str]] = []

    def look(run: StageRun) -> dict[str, Any]:
        found.append([path.name for path in run.scratch.iterdir()])
        return stage.run(run)

    run_stage(replace(stage, run=look), table, project, Silent())
    assert found == [["whole"]]
