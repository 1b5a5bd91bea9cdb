"""What a store refused to be told is told by the next call, with who made it, when and by which code."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from olmoearth_core.errors import StoreError
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.context import RunContext
from registry.errors import ArtifactError
from registry.registry import open_registry
from registry.reproduce.code_archive import source_sha256
from registry.untold import FOLDER, forget, remember
from registry.workspace import Workspace


def test_a_store_that_was_full_is_told_later(project: Project, results: dict[str, StageResult], tmp_path: Path) -> None:
    made, workspace = replace(results["export"], skipped=False), Workspace.at(tmp_path / "home")
    store = Path(workspace.artifacts) / "objects"
    store.parent.mkdir(parents=True)
    store.write_text("a file where the store should be")
    first = replace(RunContext.here(project, flow_run="1st"), finished=datetime.now(UTC))
    with open_registry(workspace) as registry:
        with pytest.raises((ArtifactError, StoreError)):
            registry.record(project, *remember(project, made, first))
        assert registry.runs() == []
        store.unlink()
        later = RunContext.here(project)
        told, context = remember(project, replace(made, skipped=True), later)
        assert (told.skipped, context) == (False, first)
        run = registry.record(project, told, context)
        assert (run.status, run.flow_run, run.finished) == ("computed", "1st", first.finished)
        assert (run.code_sha256, run.invocation) == (source_sha256(), first.invocation)
        again = registry.record(project, *remember(project, replace(made, skipped=True), later))
        assert (again.id, len(registry.runs())) == (run.id, 1)
        forget(project, made)
        told, context = remember(project, replace(made, skipped=True), later)
        assert (told.skipped, context) == (True, later), "it is on record; nothing is recalled"


def test_code_that_is_not_here_any_more_is_not_named(
    project: Project, results: dict[str, StageResult], tmp_path: Path
) -> None:
    context = replace(RunContext.here(project), code_sha256="0" * 64)
    with open_registry(Workspace.at(tmp_path / "home")) as registry:
        run = registry.record(project, replace(results["export"], skipped=False), context)
    assert (run.status, run.code_sha256) == ("computed", None)


def test_a_note_of_other_outputs_says_nothing(project: Project, results: dict[str, StageResult]) -> None:
    made, context = replace(results["export"], skipped=False), RunContext.here(project)
    remember(project, made, context)
    (note,) = (project.state / FOLDER).iterdir()
    for spoiled in (note.read_text().replace(made.manifest.outputs_digest, "0" * 64), '{"digest": 1}', "half a no"):
        note.write_text(spoiled)
        result, later = replace(made, skipped=True), RunContext.here(project)
        assert remember(project, result, later) == (result, later)
