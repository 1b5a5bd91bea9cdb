"""What the registry takes down of a stage's result, read from its files before any transaction begins."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.dvc import remote_of
from registry.dvc_store import content_hash
from registry.errors import RegistryError
from registry.fingerprint import pixels_sha256
from registry.kept import keep_run
from registry.mlflow_run import CARD, METRICS, WEIGHTS
from registry.models import ModelVersion, register_model
from registry.outputs import find_output
from registry.workspace import Workspace

SCENES = "scenes.json"


@dataclass(frozen=True)
class Facts:
    """Column values by table; empty where the stage makes no such thing."""

    dvc_hash: str | None = None
    remote: str | None = None
    """Where DVC keeps the dataset version besides the project."""
    kept: dict[str, Any] = field(default_factory=dict)
    """Columns of the run that name what was kept of it."""
    scenes: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    products: list[dict[str, Any]] = field(default_factory=list)
    tiles: list[dict[str, Any]] = field(default_factory=list)


def gather(
    workspace: Workspace, project: Project, result: StageResult, *, dvc_hash: str | None, model: ModelVersion | None
) -> Facts:
    """Read what belongs into the registry, and keep what the stage read in the artifact store.

    Raises:
        RegistryError: a file of the result is missing or damaged.
        ModelError: MLflow refuses to register the model.
        ArtifactError: the artifact store refuses.
    """
    facts = _gather(workspace, project, result, dvc_hash=dvc_hash, model=model)
    return replace(facts, kept=keep_run(workspace, project, result))


def _gather(
    workspace: Workspace, project: Project, result: StageResult, *, dvc_hash: str | None, model: ModelVersion | None
) -> Facts:
    match result.stage:
        case "export":
            return Facts(dvc_hash=dvc_hash or content_hash(result.folder))
        case "preprocess":
            return Facts(
                dvc_hash=dvc_hash or content_hash(result.folder),
                remote=remote_of(project),
                scenes=_scenes(project, project.root / "data/export"),
            )
        case "finetune":
            return Facts(model=_model(result, model or register_model(workspace, project, result)))
        case "postprocess":
            return _map(project, result)
    return Facts()


def _model(result: StageResult, registered: ModelVersion) -> dict[str, Any]:
    card, metrics = _read(result.folder / CARD), _read(result.folder / METRICS)
    return {
        "weights_sha256": result.manifest.outputs[WEIGHTS].sha256,
        "encoder": str(card["encoder"]),
        "base": card["base"],
        "metrics": metrics,
        "mlflow_name": registered.name,
        "mlflow_version": registered.version,
        "mlflow_run": registered.run or None,
        "source": registered.source,
    }


def _map(project: Project, result: StageResult) -> Facts:
    tiles = find_output(project.root, "infer", result.manifest.inputs["infer"])
    if tiles is None:
        raise RegistryError(
            f"{result.folder}: the tiles this map was made of are not in {project.root / 'tiles'} any more; "
            "run `olmoearth infer` and `olmoearth postprocess` again."
        )
    products = [
        {
            "name": name,
            "sha256": output.sha256,
            "bytes": output.bytes,
            "pixels_sha256": pixels_sha256(result.folder / name) if name.endswith(".tif") else None,
        }
        for name, output in result.manifest.outputs.items()
    ]
    return Facts(
        scenes=_scenes(project, tiles.folder),
        products=products,
        tiles=[
            {"name": name, "sha256": output.sha256, "bytes": output.bytes}
            for name, output in tiles.manifest.outputs.items()
            if name.endswith(".tif")
        ],
    )


def _scenes(project: Project, folder: Path) -> list[dict[str, Any]]:
    """The scenes of the list that a stage left among its outputs, by modality and name."""
    listed = read_scenes(folder / SCENES, folder).scenes
    catalogues = {modality: _catalogue(project, modality) for modality in {scene.modality for scene in listed}}
    return [
        {
            "catalogue": catalogues[scene.modality],
            "modality": scene.modality,
            "name": scene.id,
            "acquired": scene.datetime,
            "cloud_cover": scene.cloud_cover,
        }
        for scene in listed
    ]


def _catalogue(project: Project, modality: str) -> str:
    """What tells the catalogue of a modality from others: its URL, a file's absolute path, or a preset's name."""
    where = project.config.imagery.catalogue_for(modality)
    return str(project.path(where).resolve()) if project.path(where).exists() else where


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path}: cannot be read ({error.__class__.__name__}); run the stage again.") from error
