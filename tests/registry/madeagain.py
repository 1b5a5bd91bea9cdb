"""A small project whose map is a real one: `smallrun`'s quick stages, then the platform's own infer and postprocess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import smallrun
from smallmap import square, write_area

from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult, run_stage
from olmoearth_core.stages import STAGES
from registry.context import RunContext
from registry.registry import open_registry
from registry.versioning import dvc
from registry.workspace import Workspace

MIXED = {**smallrun.SMALL, "infer": STAGES["infer"], "postprocess": STAGES["postprocess"]}


def mapped_project(folder: Path, *, name: str = "small", catalogue: str | None = None) -> Project:
    """The project, its area cut into six tiles; its imagery may lie elsewhere."""
    project = smallrun.small_project(folder, name=name)
    write_area(folder / "area.geojson", square(10, 10, 100, 80))
    if catalogue is not None:
        settings = folder / "project.yaml"
        settings.write_text(settings.read_text().replace("imagery/catalog.json", catalogue))
    return load_project(project.root)


def record_all(project: Project, workspace: Workspace) -> dict[str, StageResult]:
    """Run every stage and tell DVC, MLflow and the registry, as the door does."""
    dvc.ensure_pipeline(project, workspace)
    context, results = RunContext.here(project), {}
    with open_registry(workspace) as registry:
        for name in MIXED:
            result = replace(run_stage(MIXED[name], MIXED, project, Silent()), skipped=False)
            dvc_hash = dvc.commit(project, workspace, name) if name in dvc.OUTPUTS else None
            if name == "preprocess":
                dvc.push(project, workspace)
            registry.record(project, result, context, dvc_hash=dvc_hash)
            results[name] = result
    return results
