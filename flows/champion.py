"""Which model maps: the latest that was trained, or the one that MLflow calls champion (map.model in project.yaml)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult, pinned_outputs, read_record
from olmoearth_core.stages import EMBED_TUNED

if TYPE_CHECKING:
    from registry.mlflow.models import ModelVersion
    from registry.workspace import Workspace

LATEST = "latest"
MAPPING = ("infer", "postprocess", EMBED_TUNED)
"""Stages that a model maps in."""


def with_model(project: Project, stage: str, workspace: Workspace) -> Project:
    """The project as `stage` sees it: with the model pinned that is to map, where that is not simply the latest.

    Raises:
        ModelError: map.model names a version that is not there, its files are lost, or MLflow cannot be reached.
    """
    if stage not in MAPPING or "finetune" in project.pinned:
        return project
    model = mapping_model(project, workspace)
    return project if model is None else pin(project, model, workspace)


def pin(project: Project, model: ModelVersion, workspace: Workspace) -> Project:
    """The project with a model version pinned, whichever model it would map with.

    Raises:
        ModelError: its files are lost, or MLflow cannot be reached.
    """
    return replace(project, pinned={**project.pinned, "finetune": folder_of(project, model, workspace)})


def mapping_model(project: Project, workspace: Workspace) -> ModelVersion | None:
    """The version that maps, where it is not the latest trained; None too where there is no champion yet.

    Raises:
        ModelError: map.model names a version that is not there, or MLflow cannot be reached.
    """
    from registry.mlflow.models import CHAMPION, alias_of, get_model

    wanted, name = project.config.maps_with, project.config.name
    if wanted == LATEST:
        return None
    return alias_of(workspace, name, CHAMPION) if wanted == CHAMPION else get_model(workspace, name, wanted)


def folder_of(project: Project, model: ModelVersion, workspace: Workspace) -> Path:
    """The model folder of a version: the one in the project, else as MLflow keeps it.

    Raises:
        ModelError: its files are lost, or MLflow cannot be reached.
    """
    from registry.mlflow.models import model_folder
    from registry.outputs import find_output

    here = find_output(project.root, "finetune", model.digest)
    return here.folder if here is not None else model_folder(workspace, model.name, model.version)


def as_finetuned(project: Project, model: ModelVersion, workspace: Workspace) -> StageResult:
    """A model version as the result of a fine-tuning that did not have to run.

    Raises:
        ModelError: its files are lost, or MLflow cannot be reached.
        StoreError: they are no outputs of a stage.
    """
    found = pinned_outputs(folder_of(project, model, workspace))
    inside = found.folder.is_relative_to(project.root)
    place = found.folder.relative_to(project.root).as_posix() if inside else str(found.folder)
    record = read_record(project, "finetune", found.manifest.key)
    return StageResult("finetune", found.folder, place, found.manifest, True, record)
