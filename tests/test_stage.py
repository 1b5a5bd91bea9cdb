"""The skip rule, and what damage does to the outputs of a stage."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core import verified
from olmoearth_core.errors import ProjectError, StoreError
from olmoearth_core.manifest import MANIFEST, damage, write_manifest
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.stage import StageRun, find_result, resolve_key, run_stage

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
    assert toy.ran(toy.write_project(tmp_path, changes)) == rerun


def test_a_changed_input_file_reruns_and_the_same_bytes_do_not(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path))
    os.utime(tmp_path / "numbers.txt", (1, 1))
    assert toy.ran(toy.write_project(tmp_path)) == []
    assert toy.ran(toy.write_project(tmp_path, numbers="1 2 3 4 5 9")) == ["gather", "total", "report"]


def test_a_stage_that_makes_the_same_bytes_does_not_wake_those_after_it(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path, numbers="100"))
    # 101 * 64 // 100 is 64, as is 100 * 64 // 100: gather and total run, total's bytes are the same
    assert toy.ran(toy.write_project(tmp_path, numbers="101")) == ["gather", "total"]


def test_going_back_to_former_settings_finds_what_is_kept_by_key(tmp_path: Path) -> None:
    toy.run_all(toy.write_project(tmp_path))
    toy.run_all(toy.write_project(tmp_path, {"training.seed": 1}))
    assert toy.ran(toy.write_project(tmp_path)) == []


def test_a_new_version_of_a_stage_reruns_it(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.run_all(project)
    # the code changed, its bytes did not: those after it sleep on
    assert toy.ran(project, table=toy.stages(gather_version=2)) == ["gather"]


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


def _flip_and_hide(path: Path) -> None:
    """Change a byte; size and time of modification stay as they were."""
    before = path.stat()
    toy.flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _break(path: Path) -> None:
    path.write_text("{")


@pytest.fixture
def _soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoearth_core.verified.SETTLED_NS", 50_000_000)


def _let_notes_be_made(project: Project) -> None:
    """Verify once when the files have settled, so that the next verification goes by the note."""
    time.sleep(0.06)
    assert toy.ran(project) == []
    assert list((project.state / "verified").iterdir())


@pytest.mark.usefixtures("_soon_settled")
@pytest.mark.parametrize("settled", [False, True], ids=["fresh", "noted"])
@pytest.mark.parametrize("harm", [toy.flip, _flip_and_hide, Path.unlink])
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
    assert toy.ran(project) == ["total"]


def test_a_manifest_of_another_key_does_not_count(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["total"]
    write_manifest(before.folder, before.manifest.model_copy(update={"key": "0" * 64}))
    assert toy.ran(project) == ["total"]


def test_a_stage_does_not_build_on_outputs_that_changed(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    done = toy.run_all(project)
    toy.flip(done["gather"].folder / "parts" / "0.txt")
    table, changed = toy.stages(), toy.write_project(tmp_path, {"training.seed": 5})
    with pytest.raises(StoreError, match=r"stage 'gather' made has changed.*parts/0.txt.*Run `olmoearth gather`"):
        run_stage(table["total"], table, changed, Silent())
    assert toy.ran(changed) == ["gather", "total", "report"]


def test_files_that_somebody_laid_beside_the_outputs_are_no_damage(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    done = toy.run_all(project)
    (done["report"].folder / "report.txt.aux.xml").write_text("QGIS was here")
    assert toy.ran(project) == []


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
    assert toy.ran(project) == []


def test_no_note_is_made_of_files_that_could_still_change_within_a_tick(tmp_path: Path) -> None:
    project = toy.write_project(tmp_path)
    toy.run_all(project)
    assert toy.ran(project) == []
    assert not (project.state / "verified").exists()


# ---------------------------------------------------------------- damaged


@pytest.mark.parametrize("harm", [toy.flip, Path.unlink])
def test_of_damaged_outputs_what_is_whole_is_kept(tmp_path: Path, log: Path, harm: Any) -> None:
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["gather"]
    harm(before.folder / "parts" / "2.txt")
    (before.folder / "parts" / "2.txt.aux.xml").write_text("QGIS was here")
    log.write_text("")
    assert toy.ran(project) == ["gather"]  # the same bytes again: those after it sleep on
    assert log.read_text().splitlines() == ["part 2"]
    after = find_result(toy.stages()["gather"], toy.stages(), project, Silent())
    assert after is not None
    assert after.manifest == before.manifest
    assert damage(after.folder, after.manifest) == []
    assert after.record["resumed"] is True
    toy.assert_clean(project)


@pytest.mark.parametrize("stop", ["part:2", "rename:1", "renamed:1", "rename:2"])
def test_killed_while_it_mends_damaged_outputs_the_next_run_mends_them(tmp_path: Path, log: Path, stop: str) -> None:
    """Killed before and after the outputs became the work folder again, in the middle, before publishing."""
    project = toy.write_project(tmp_path)
    before = toy.run_all(project)["gather"]
    for part in ("2", "4"):
        toy.flip(before.folder / "parts" / f"{part}.txt")
    log.write_text("")
    toy.kill_at(tmp_path, stop)
    assert toy.ran(project)[:1] == ["gather"]
    assert sorted(line for line in log.read_text().splitlines() if "part" in line) == ["part 2", "part 4"]
    after = toy.run_all(project)["gather"]
    assert after.manifest == before.manifest
    assert damage(after.folder, after.manifest) == []
    toy.assert_clean(project)


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
    assert toy.ran(changed) == ["total", "report"]


def _state_before_the_rot(result: Any) -> Any:
    state = verified._state(result.folder, result.manifest)
    return lambda _folder, _manifest: state
