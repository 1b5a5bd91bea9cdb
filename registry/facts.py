"""What the registry takes down of a stage's result, read from its files before any transaction begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from olmoearth_core.digest import sha256_file, sha256_json
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.manifest import read_manifest
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.assets import AssetFact, assets_of
from registry.errors import RegistryError
from registry.fingerprint import pixels_sha256
from registry.mlflow.models import ModelVersion, register_model
from registry.mlflow.run import CARD, METRICS, WEIGHTS
from registry.outputs import find_output
from registry.reproduce.kept import keep_run
from registry.versioning.dvc import remote_of
from registry.versioning.dvc_store import content_hash
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
    labels: list[dict[str, Any]] = field(default_factory=list)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    assets: list[AssetFact] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    products: list[dict[str, Any]] = field(default_factory=list)
    tiles: list[dict[str, Any]] = field(default_factory=list)


def gather(
    workspace: Workspace,
    project: Project,
    result: StageResult,
    *,
    code: str | None,
    dvc_hash: str | None,
    model: ModelVersion | None,
) -> Facts:
    """Read what belongs into the registry, and keep what the stage read, and the code `code`, in the artifact store.

    Raises:
        RegistryError: a file of the result is missing or damaged.
        ModelError: MLflow refuses to register the model.
        StoreError: the artifact store refuses, or cannot be reached.
    """
    facts = _gather(workspace, project, result, dvc_hash=dvc_hash, model=model)
    return replace(facts, kept=keep_run(workspace, project, result, code))


def _gather(
    workspace: Workspace, project: Project, result: StageResult, *, dvc_hash: str | None, model: ModelVersion | None
) -> Facts:
    match result.stage:
        case "export":
            return Facts(dvc_hash=dvc_hash or content_hash(result.folder))
        case "preprocess":
            export = project.root / "data/export"
            return Facts(
                dvc_hash=dvc_hash or content_hash(result.folder),
                remote=remote_of(project),
                labels=_labels(project, result),
                scenes=_scenes(project, export),
                assets=_sources(project, export),
            )
        case "finetune":
            return _trained(result, model or register_model(workspace, project, result))
        case "postprocess":
            return _map(project, result)
    return Facts()


def label_files(inputs: Mapping[str, str]) -> dict[str, str]:
    """The label files among the inputs of preprocess: name -> sha256."""
    return {name: sha256 for name, sha256 in inputs.items() if name != "export" and not name.startswith("splits/")}


def _labels(project: Project, result: StageResult) -> list[dict[str, Any]]:
    return [
        {"name": name, "sha256": sha256, "dvc_hash": _dvc_hash(project.path(name))}
        for name, sha256 in sorted(label_files(result.manifest.inputs).items())
    ]


def _dvc_hash(path: Path) -> str | None:
    """What a .dvc file beside `path` calls its content; None where DVC does not track it by itself."""
    try:
        (output, *_) = yaml.safe_load(path.with_name(f"{path.name}.dvc").read_text(encoding="utf-8"))["outs"]
        return str(output["md5"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def _trained(result: StageResult, registered: ModelVersion) -> Facts:
    card, metrics = _read(result.folder / CARD), _read(result.folder / METRICS)
    model = {
        "weights_sha256": result.manifest.outputs[WEIGHTS].sha256,
        "encoder": str(card["encoder"]),
        "base": card["base"],
        "metrics": metrics,
        "mlflow_name": registered.name,
        "mlflow_version": registered.version,
        "mlflow_run": registered.run or None,
        "source": registered.source,
    }
    origin = {name: card["base"].get(name) for name in ("source", "revision", "sha256", "licence", "seed")}
    return Facts(model=model, base={"encoder": model["encoder"], **origin}, evaluations=_evaluations(metrics))


def _evaluations(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores and intervals of each split and task, as metrics.json tells them."""
    found = []
    for task, judged in {"main": metrics, **metrics.get("auxiliary", {})}.items():
        for split in ("validation", "test"):
            if not isinstance(judged.get(split), dict):
                continue
            scores = {name: value for name, value in judged[split].items() if name != "intervals"}
            told = {"scores": scores, "intervals": judged[split].get("intervals")}
            found.append({"split": split, "task": task, "digest": sha256_json(told), **told})
    return found


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
        assets=assets_of(read_scenes(tiles.folder / SCENES, project.root), access_of(project)),
        products=products,
        tiles=[
            {"name": name, "key": _tile_key(tiles.folder / name), "sha256": output.sha256, "bytes": output.bytes}
            for name, output in tiles.manifest.outputs.items()
            if name.endswith(".tif")
        ],
    )


def _tile_key(path: Path) -> str | None:
    """What decides the bytes of a tile, as its record says; None of a record that does not."""
    try:
        key = json.loads(path.with_suffix(".json").read_bytes()).get("key")
    except (OSError, ValueError, AttributeError):
        return None
    return str(key) if key else None


def _sources(project: Project, export: Path) -> list[AssetFact]:
    """The files that an export was cut out of: its own list names its cuttings, the frozen one of the project these."""
    manifest = read_manifest(export)
    wanted = manifest.inputs.get("scenes") if manifest is not None else None
    for path in sorted((project.root / "scenes").glob("*.json")):
        if sha256_file(path) == wanted:
            return assets_of(read_scenes(path, project.root), access_of(project))
    return []


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
        for scene in sorted(listed, key=lambda scene: (scene.modality, scene.id))  # one order: no deadlocks
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
