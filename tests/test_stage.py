"""The skip rule, and what bad luck may do to a stage: kills, damage, a second run, a full disk."""

from __future__ import annotations

import os
import signal
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
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core import verified
from olmoearth_core.errors import BusyError, ProjectError, StoreError
from olmoearth_core.manifest import MANIFEST, SCRATCH, damage, read_manifest, write_manifest
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.stage import StageRun, find_result, project_lock, read_record, resolve_key, run_stage
from olmoearth_core.store import PARTIAL

TOY = Path(toy.__file__)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("TOY_LOG", str(path))
    return path


def ran(project: Project, **options: Any) -> list[str]:
    """The names of the stages that ran, not skipped."""
    return [name for name, result in toy.run_all(project, **options).items() if not result.skipped]


# ---------------------------------------------------------------- the skip rule


def test_a_second_run_skips_everything_and_gives_the_same(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    first = toy.run_all(project)
    second = toy.run_all(project)
    assert [r.skipped for r in first.values()] == [False] * 3
    assert [r.skipped for r in second.values()] == [True] * 3
    assert [replace(r, skipped=True) for r in first.values()] == list(second.values())
    assert (second["report"].folder / "report.txt").read_text() == "toy: 13\n"
    assert second["report"].folder == tmp_path / second["report"].place


@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({"model.window_size": 128}, ["gather", "total", "report"]),
        ({"training.seed": 1}, ["total", "report"]),
        ({"name": "other"}, ["report"]),
        ({"training.epochs": 2}, []),
        ({"task.classes.0.color": "#123456"}, []),
    ],
)
def test_a_changed_setting_reruns_the_stages_that_depend_on_it(
    tmp_path: Path, changes: dict[str, Any], rerun: list[str]
) -> None:
    toy.run_all(toy.write_project(tmp_path))
    assert ran(toy.write_project(tmp_path, changes)) == rerun


def test_a_changed_input_file_reruns_and_the_same_bytes_do_not(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path))
    os.utime(tmp_path / "numbers.txt", (1, 1))
    assert ran(toy.write_project(tmp_path)) == []
    assert ran(toy.write_project(tmp_path, numbers="1 2 3 4 5 9")) == ["gather", "total", "report"]


def test_a_stage_that_makes_the_same_bytes_does_not_wake_those_after_it(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path, numbers="100"))
    # 101 * 64 // 100 is 64, as is 100 * 64 // 100: gather and total run, total's bytes are the same
    assert ran(toy.write_project(tmp_path, numbers="101")) == ["gather", "total"]


def test_going_back_to_former_settings_finds_what_is_kept_by_key(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path))
    toy.run_all(toy.write_project(tmp_path, {"training.seed": 1}))
    assert ran(toy.write_project(tmp_path)) == []


def test_a_new_version_of_a_stage_reruns_it(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.run_all(project)
    # the code changed, its bytes did not: those after it sleep on
    assert ran(project, table=toy.stages(gather_version=2)) == ["gather"]


@settings(max_examples=15)
@given(seeds=st.lists(st.integers(0, 2), min_size=2, max_size=5))
def test_whatever_the_order_of_settings_a_stage_runs_once_for_each(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("project")
    runs = []
    for seed in seeds:
        done = toy.run_all(toy.write_project(folder, {"training.seed": seed}))
        assert (done["total"].folder / "total.txt").read_text() == f"{13 + seed}\n"
        runs += [seed] * (not done["total"].skipped)
    assert sorted(runs) == sorted(set(seeds))


def test_a_stage_whose_upstream_is_missing_names_the_command_to_run(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    table = toy.stages()
    for ask in (run_stage, find_result, resolve_key):
        with pytest.raises(
            ProjectError, match=r"'gather' has no up-to-date outputs in data/gather\. Run `olmoearth gather` first"
        ):
            ask(table["report"], table, project, Silent())
    run_stage(table["gather"], table, project, Silent())
    with pytest.raises(ProjectError, match="`olmoearth total` first"):
        run_stage(table["report"], table, project, Silent())
    changed = toy.write_project(tmp_path, {"model.window_size": 128})
    with pytest.raises(ProjectError, match="`olmoearth gather` first"):
        run_stage(table["total"], table, changed, Silent())


def test_a_missing_input_file_is_named(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    (tmp_path / "numbers.txt").unlink()
    with pytest.raises(
        ProjectError, match=r"project.yaml: names 'numbers', but .*numbers.txt cannot be read \(No such"
    ):
        toy.run_all(project)


def test_the_key_and_the_verified_result_are_known_without_running(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    table = toy.stages()
    key = resolve_key(table["gather"], table, project, Silent())
    assert find_result(table["gather"], table, project, Silent()) is None
    assert not (tmp_path / "data").exists()
    made = run_stage(table["gather"], table, project, Silent())
    assert made.manifest.key == key == resolve_key(table["gather"], table, project, Silent())
    assert find_result(table["gather"], table, project, Silent()) == replace(made, skipped=True)
    (made.folder / "parts" / "0.txt").unlink()
    assert find_result(table["gather"], table, project, Silent()) is None


def test_the_same_project_in_two_folders_has_the_same_manifests(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "else" / "where"
    results = [toy.run_all(toy.write_project(folder)) for folder in (here, there)]
    assert [r.manifest for r in results[0].values()] == [r.manifest for r in results[1].values()]
    for result in results[0].values():
        text = (result.folder / MANIFEST).read_text()
        assert text == (there / result.place / MANIFEST).read_text()
        assert str(tmp_path) not in text


def test_a_summary_reads_the_same_when_it_is_made_and_when_it_is_skipped(tmp_path: Path) -> None:
    def summarise(run: StageRun) -> dict[str, Any]:
        return {"score": float("nan"), "shape": (1, 2)}

    project = toy.write_project(tmp_path)
    stage = replace(toy.stages()["gather"], run=summarise)
    made = run_stage(stage, {"gather": stage}, project, Silent())
    again = run_stage(stage, {"gather": stage}, project, Silent())
    assert made.manifest.summary == again.manifest.summary == {"score": None, "shape": [1, 2]}


# ---------------------------------------------------------------- damage


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def _flip_and_hide(path: Path) -> None:
    """Change a byte; size and time of modification stay as they were."""
    before = path.stat()
    _flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _break(path: Path) -> None:
    path.write_text("{")


@pytest.fixture
def _soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoearth_core.verified.SETTLED_NS", 50_000_000)


def _let_notes_be_made(project: Project) -> None:
    """Verify once when the files have settled, so that the next verification goes by the note."""
    time.sleep(0.06)
    assert ran(project) == []
    assert list((project.state / "verified").iterdir())


@pytest.mark.usefixtures("_soon_settled")
@pytest.mark.parametrize("settled", [False, True], ids=["fresh", "noted"])
@pytest.mark.parametrize("harm", [_flip, _flip_and_hide, Path.unlink])
def test_a_damaged_output_is_noticed_and_made_again(tmp_path: Path, harm: Any, settled: bool) -> None:
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)
    if settled:
        _let_notes_be_made(project)
    harm(before["gather"].folder / "parts" / "3.txt")
    after = toy.run_all(project)
    assert [r.skipped for r in after.values()] == [False, True, True]
    assert after["gather"].manifest == before["gather"].manifest
    assert damage(after["gather"].folder, after["gather"].manifest) == []


@pytest.mark.parametrize("harm", [_break, Path.unlink])
def test_a_damaged_manifest_is_made_again(tmp_path: Path, harm: Any) -> None:
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)
    harm(before["total"].folder / MANIFEST)
    assert ran(project) == ["total"]


def test_a_manifest_of_another_key_does_not_count(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["total"]
    write_manifest(before.folder, before.manifest.model_copy(update={"key": "0" * 64}))
    assert ran(project) == ["total"]


def test_a_stage_does_not_build_on_outputs_that_changed(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    done = toy.run_all(project)
    _flip(done["gather"].folder / "parts" / "0.txt")
    table, changed = toy.stages(), toy.write_project(tmp_path, {"training.seed": 5})
    with pytest.raises(StoreError, match=r"stage 'gather' made has changed.*parts/0.txt.*Run `olmoearth gather`"):
        run_stage(table["total"], table, changed, Silent())
    assert ran(changed) == ["gather", "total", "report"]


def test_files_that_somebody_laid_beside_the_outputs_are_no_damage(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    done = toy.run_all(project)
    (done["report"].folder / "report.txt.aux.xml").write_text("QGIS was here")
    assert ran(project) == []


@pytest.mark.usefixtures("_soon_settled")
def test_a_note_is_worth_nothing_for_other_outputs(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    done = toy.run_all(project)["gather"]
    _let_notes_be_made(project)
    outputs = {n: o.model_copy(update={"sha256": "0" * 64}) for n, o in done.manifest.outputs.items()}
    write_manifest(done.folder, done.manifest.model_copy(update={"outputs": outputs}))
    table = toy.stages()
    assert find_result(table["gather"], table, project, Silent()) is None


@pytest.mark.usefixtures("_soon_settled")
def test_untouched_outputs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = toy.write_project(tmp_path)
    toy.run_all(project)
    _let_notes_be_made(project)
    monkeypatch.setattr("olmoearth_core.verified.damage", lambda *_: pytest.fail("read again"))
    assert ran(project) == []


def test_no_note_is_made_of_files_that_could_still_change_within_a_tick(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.run_all(project)
    assert ran(project) == []
    assert not (project.state / "verified").exists()


# ---------------------------------------------------------------- damaged


@pytest.mark.parametrize("harm", [_flip, Path.unlink])
def test_of_damaged_outputs_what_is_whole_is_kept(tmp_path: Path, log: Path, harm: Any) -> None:
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["gather"]
    harm(before.folder / "parts" / "2.txt")
    (before.folder / "parts" / "2.txt.aux.xml").write_text("QGIS was here")
    log.write_text("")
    assert ran(project) == ["gather"]  # the same bytes again: those after it sleep on
    assert log.read_text().splitlines() == ["part 2"]
    after = find_result(toy.stages()["gather"], toy.stages(), project, Silent())
    assert after is not None
    assert after.manifest == before.manifest
    assert damage(after.folder, after.manifest) == []
    assert after.record["resumed"] is True
    _assert_clean(project)


@pytest.mark.parametrize("stop", ["part:2", "rename:1", "renamed:1", "rename:2"])
def test_killed_while_it_mends_damaged_outputs_the_next_run_mends_them(tmp_path: Path, log: Path, stop: str) -> None:
    """Killed before and after the outputs became the work folder again, in the middle, before publishing."""
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["gather"]
    for part in ("2", "4"):
        _flip(before.folder / "parts" / f"{part}.txt")
    log.write_text("")
    _kill_at(tmp_path, stop)
    assert ran(project)[:1] == ["gather"]
    assert sorted(line for line in log.read_text().splitlines() if "part" in line) == ["part 2", "part 4"]
    after = toy.run_all(project)["gather"]
    assert after.manifest == before.manifest
    assert damage(after.folder, after.manifest) == []
    _assert_clean(project)


@pytest.mark.usefixtures("_soon_settled")
def test_after_a_reader_failed_what_it_read_is_verified_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits that rot below an unchanged state are nothing that a note can see: the stage that reads them can."""
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["gather"]
    _let_notes_be_made(project)
    path = before.folder / "parts" / "2.txt"
    content = path.read_bytes()
    changed = toy.write_project(tmp_path, {"training.seed": 5})
    with monkeypatch.context() as patch:
        patch.setattr("olmoearth_core.verified._state", _state_before_the_rot(before))
        path.write_text("rotten")
        assert run_stage(toy.stages()["gather"], toy.stages(), changed, Silent()).skipped
        with pytest.raises(ValueError, match="rotten"):
            run_stage(toy.stages()["total"], toy.stages(), changed, Silent())
        assert not run_stage(toy.stages()["gather"], toy.stages(), changed, Silent()).skipped
    assert path.read_bytes() == content
    assert ran(changed) == ["total", "report"]


def _state_before_the_rot(result: Any) -> Any:
    state = verified._state(result.folder, result.manifest)
    return lambda _folder, _manifest: state


# ---------------------------------------------------------------- killed


def _start(folder: Path, stop: str, *stages: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TOY_STOP": stop}
    return subprocess.Popen([sys.executable, TOY, folder, *stages], env=env, stdout=subprocess.PIPE, text=True)


def _kill_at(folder: Path, stop: str, *stages: str) -> None:
    """Run the toy program in `folder` and end it with SIGKILL at `stop`."""
    with _start(folder, stop, *stages) as process:
        assert process.stdout is not None
        if not stop.startswith("rename"):  # there it kills itself
            assert process.stdout.readline().strip() == stop
            process.kill()
        assert process.wait(30) == -signal.SIGKILL


def _assert_nothing_half(project: Project) -> None:
    """Whatever stands in place is whole."""
    for folder in [project.root / "data" / "gather", *project.root.glob("totals/*"), *project.root.glob("reports/*")]:
        if folder.exists():
            manifest = read_manifest(folder)
            assert manifest is not None
            assert damage(folder, manifest) == []
    assert not (project.root / "data" / "gather" / SCRATCH).exists()


def _assert_clean(project: Project) -> None:
    """Nothing is left over from the kill."""
    assert list(project.root.rglob(f"*{PARTIAL}")) == []
    assert list(project.root.rglob(SCRATCH)) == []
    assert [p for name in ("work", "trash") for p in (project.state / name).glob("*")] == []


@pytest.mark.parametrize("stop", ["part:0", "part:3", "worked", "rename:1", "rename:2"])
def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path, log: Path, stop: str) -> None:
    """Killed at the start, in the middle, before the manifest, before and between the two renames of publishing."""
    folder = tmp_path / "killed"
    toy.run_all(toy.write_project(folder))  # so that there is something in place to replace
    project = toy.write_project(folder, {"model.window_size": 128})
    log.write_text("")
    _kill_at(folder, stop)
    _assert_nothing_half(project)
    results = toy.run_all(project)
    _assert_clean(project)
    # every part was made once, before the kill or after it
    assert sorted(line for line in log.read_text().splitlines() if "part" in line) == [f"part {i}" for i in range(6)]
    whole = toy.run_all(toy.write_project(tmp_path / "whole", {"model.window_size": 128}))
    assert [r.manifest for r in results.values()] == [r.manifest for r in whole.values()]
    assert ran(project) == []


def test_what_a_resumed_stage_cost_says_that_it_was_resumed(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    _kill_at(tmp_path, "part:3")
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
    _kill_at(tmp_path, "renamed:2")  # gather is published, what stood there before is not yet removed
    assert len(list((project.state / "trash").iterdir())) == 1
    assert ran(project) == ["total", "report"]
    _assert_clean(project)


def test_finished_work_is_published_without_doing_it_again(tmp_path: Path, log: Path) -> None:
    project = toy.write_project(tmp_path)
    _kill_at(tmp_path, "rename:2")  # gather is in place, total is about to be published
    assert ran(project) == ["total", "report"]
    assert log.read_text().splitlines().count("total") == 1


def test_finished_work_that_was_damaged_before_it_was_published_is_made_again(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    _kill_at(tmp_path, "rename:1", "gather")
    (work,) = (project.state / "work").iterdir()
    assert read_manifest(work) is not None
    _flip(work / "parts" / "2.txt")
    done = toy.run_all(project)
    assert damage(done["gather"].folder, done["gather"].manifest) == []
    assert done["gather"].manifest == toy.run_all(toy.write_project(tmp_path / "whole"))["gather"].manifest


def test_abandoned_work_of_other_settings_goes_when_the_stage_succeeds(tmp_path: Path) -> None:
    toy.write_project(tmp_path, {"model.window_size": 128})
    _kill_at(tmp_path, "part:3")
    project = toy.write_project(tmp_path)
    assert len(list((project.state / "work").iterdir())) == 1
    toy.run_all(project)
    _assert_clean(project)


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
    _assert_clean(project)


# ---------------------------------------------------------------- two at once


@contextmanager
def _running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = _start(folder, "part:3")
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
        assert ran(project) == ["gather", "total", "report"]


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
    with subprocess.Popen([sys.executable, TOY, tmp_path]) as other:  # the lock is let go at the end
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
