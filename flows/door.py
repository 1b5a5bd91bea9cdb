"""The one door: the command line, Prefect and dvc.yaml all run a stage through `run_stage`.

Core runs or skips the stage; then what it made is told to DVC, MLflow and the registry. They are told after a skip too:
each knows what it has, so that a run killed between making and telling is completed by the same command, with who
made it, when and by which code as it was noted then (registry/untold.py).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flows.champion import as_finetuned, mapping_model, with_model
from flows.engines import make_engine
from olmoearth_core import stage as core
from olmoearth_core.errors import ProjectError
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from olmoearth_core.stages import STAGES, embed_stage, forget_failed_tiles, forget_failures
from registry.workspace import Workspace


def check_stage(name: str) -> None:
    """Refuse a name that is no stage.

    Raises:
        ProjectError: `name` is no stage; the message lists them.
    """
    if name not in STAGES:
        raise ProjectError(f"'{name}' is no stage; the stages are {', '.join(STAGES)}.")


def stage_key(project: Project, stage: str, progress: Progress) -> tuple[str, bool]:
    """(key of the stage for the project as it is now, whether outputs of that key are there and verify).

    Raises:
        ProjectError: a stage before it has to run first.
    """
    project = with_model(project, stage, Workspace.from_environment())
    found = core.find_result(STAGES[stage], STAGES, project, progress)
    if found is not None:
        return found.manifest.key, True
    return core.resolve_key(STAGES[stage], STAGES, project, progress), False


def run_stage(
    project: Project,
    stage: str,
    *,
    progress: Progress,
    flow_run: str | None = None,
    engine: str | None = None,
    processes: int = 1,
) -> StageResult:
    """Run one stage of a project, or skip it when it is up to date, and tell DVC, MLflow and the registry.

    Args:
        project: the project.
        stage: name of the stage.
        progress: who listens.
        flow_run: Prefect's id of the run, where there is one.
        engine: that computes tiles, in the stage infer (flows/engines.py).
        processes: of that engine.

    Raises:
        BusyError: another run is at work on the project.
        CoreError: whatever the stage refuses.
        RegistryError: DVC, MLflow or the database refuses; the outputs are made and stay.
    """
    check_stage(stage)
    workspace = Workspace.from_environment()
    chosen = make_engine(engine, processes, workspace)
    with core.project_lock(project):
        context = _context(project, workspace, flow_run)
        project = with_model(project, stage, workspace)
        result = core.run_stage(STAGES[stage], STAGES, project, progress, chosen)
        if result.skipped and (failed := result.manifest.summary.get("failed_assets")):
            progress.note(f"{result.place} lacks {len(failed)} assets that failed when it was made: try --refresh.")
        _tell(project, workspace, result, context, progress)
    return result


def embed(project: Project, *, tuned: bool, dtype: str, progress: Progress) -> StageResult:
    """Make embeddings of the project's map area, or find them made, and tell the registry.

    Raises:
        BusyError: another run is at work on the project.
        ProjectError: `tuned`, and the model is not trained yet; or no such dtype.
        CoreError: whatever the stage refuses.
    """
    from registry.context import RunContext
    from registry.registry import open_registry
    from registry.untold import forget, remember

    workspace, stage = Workspace.from_environment(), embed_stage(tuned=tuned, dtype=dtype)
    with core.project_lock(project):
        context = RunContext.here(project)
        project = with_model(project, stage.name, workspace)
        result = core.run_stage(stage, STAGES, project, progress)
        told, context = remember(project, result, replace(context, finished=datetime.now(UTC)))
        with open_registry(workspace) as registry:
            registry.record(project, told, context)
        forget(project, result)
    return result


def _context(project: Project, workspace: Workspace, flow_run: str | None) -> Any:
    from registry.context import RunContext
    from registry.versioning.dvc import ensure_pipeline

    ensure_pipeline(project, workspace)
    return RunContext.here(project, flow_run=flow_run)


def _tell(project: Project, workspace: Workspace, result: StageResult, context: Any, progress: Progress) -> None:
    from registry.errors import DatabaseError, VersioningError
    from registry.mlflow.promotions import settle
    from registry.registry import open_registry
    from registry.tables.database import PATIENCE_SECONDS
    from registry.untold import forget, remember
    from registry.versioning import dvc

    told, context = remember(project, result, replace(context, finished=datetime.now(UTC)))
    dvc_hash = dvc.commit(project, workspace, result.stage) if result.stage in dvc.OUTPUTS else None
    if result.stage == "preprocess":
        try:
            dvc.push(project, workspace)
        except VersioningError as error:  # the next run tries again
            progress.note(f"The dataset version is not in the DVC remote yet: {error}")
    if result.stage == "postprocess":
        from olmoearth_core.postprocess.collection import write_collection

        write_collection(project)
    try:
        with open_registry(workspace, patience=PATIENCE_SECONDS) as registry:
            registry.record(project, told, context, dvc_hash=dvc_hash)
            forget(project, result)
            if result.stage == "postprocess":
                registry.anchor(project, result)
            if result.stage == "finetune":
                for left in settle(registry, project.config.name):
                    progress.note(f"{project.config.name}: {left.sentence}.")
    except DatabaseError as error:
        raise DatabaseError(
            f"{error} What {result.stage} made is kept in {result.place}; the same command goes on."
        ) from error


def governed(project: Project) -> StageResult | None:
    """The model that maps as the result of fine-tuning, where retraining decides on models (map.model); else None.

    Raises:
        ModelError: map.model names a version that is not there, its files are lost, or MLflow cannot be reached.
    """
    workspace = Workspace.from_environment()
    model = mapping_model(project, workspace)
    return None if model is None else as_finetuned(project, model, workspace)


def finished_stage(project: Project, stage: str, progress: Progress) -> StageResult:
    """The verified outputs of a stage for the project as it is now; runs nothing.

    Raises:
        ProjectError: the stage, or one before it, has to run first.
    """
    project = with_model(project, stage, Workspace.from_environment())
    found = core.find_result(STAGES[stage], STAGES, project, progress)
    if found is None:
        raise ProjectError(
            f"{project.root}: the stage '{stage}' has no up-to-date outputs. "
            f"Run `olmoearth run {project.root.name} --until {stage}` first."
        )
    return found


def describe(result: StageResult) -> dict[str, Any]:
    """A stage result as plain JSON values; the folder is relative to the project."""
    return {
        "stage": result.stage,
        "key": result.manifest.key,
        "folder": result.place,
        "skipped": result.skipped,
        "outputs_digest": result.manifest.outputs_digest,
        "summary": result.manifest.summary,
        "record": result.record,
    }


def refresh(project: Project, progress: Progress, *, labels: bool = True) -> None:
    """Ask the catalogue again: for scenes of the map, with `labels` of the training windows, and for failed assets.

    The old scene lists stay where it does not answer.

    Raises:
        BusyError: another run is at work on the project.
        CatalogueError: the catalogue is missing, does not answer, or has nothing for the place.
    """
    from olmoearth_core.imagery.search import freeze_label_scenes, freeze_map_scenes

    with core.project_lock(project):  # another run may be reading what is forgotten here
        if labels:
            freeze_label_scenes(project, progress, refresh=True)
        freeze_map_scenes(project, progress, refresh=True)
        for folder in forget_failures(project):
            progress.note(f"{folder} was made without assets that could not be read: it is made again.")


def retry_failed(project: Project, progress: Progress) -> None:
    """Have the next run of infer try the tiles again that could not be computed.

    Raises:
        BusyError: another run is at work on the project.
    """
    with core.project_lock(project):
        names = forget_failed_tiles(project)
    progress.note(f"{len(names)} tiles that failed are tried again." if names else "No tile has failed.")
