"""The MLflow ties: one run and one registered model version for each fine-tuned model.

An MLflow experiment and a registered model bear the project's name. A model version is found again by the digest of its
files, so that registering twice gives the same version. Nothing here touches MLflow's global state.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.errors import ModelError
from registry.workspace import Workspace

CHAMPION = "champion"
CARD, METRICS, HISTORY, WEIGHTS = "card.json", "metrics.json", "history.json", "weights.safetensors"
DIGEST_TAG, KEY_TAG, WEIGHTS_TAG, DATASET_TAG = (
    "olmoearth.digest",
    "olmoearth.stage_key",
    "olmoearth.weights_sha256",
    "olmoearth.dataset_digest",
)
CODE = Path(__file__).with_name("pyfunc_model.py")
FOLDER = "model"
"""Name of the artifact in the pyfunc, as `pyfunc_model` reads it."""
REQUIREMENTS = ("olmoearth-platform", "torch", "numpy", "safetensors", "pydantic")
LOCK_SECONDS = 300


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered MLflow model."""

    name: str
    """The project's name."""
    version: str
    aliases: tuple[str, ...]
    created: datetime
    run: str
    """MLflow's run."""
    source: str
    """Where its files lie: a folder or URL."""
    key: str
    """Stage key of the fine-tuning."""
    digest: str
    """Digest of the fine-tuning's outputs."""
    weights_sha256: str
    dataset_digest: str

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"models:/{self.name}/{self.version}"


def register_model(workspace: Workspace, project: Project, result: StageResult) -> ModelVersion:
    """Log a fine-tuning to MLflow and register its model; the version that is there already, where there is one.

    The first version of a project gets the alias `champion`.

    Args:
        workspace: names MLflow and the artifacts.
        project: the project; its name is the experiment's and the registered model's.
        result: of the stage finetune.

    Raises:
        ModelError: MLflow cannot be reached or refuses, or the model folder lacks a file.
    """
    name, digest = project.config.name, result.manifest.outputs_digest
    with _one_at_a_time(workspace), _client(workspace) as client:
        found = _find(client, name, digest)
        if found is None:
            found = _register(client, workspace, project, result)
        if str(found.version) == "1" and CHAMPION not in client.get_registered_model(name).aliases:
            client.set_registered_model_alias(name, CHAMPION, found.version)
        return _describe(client.get_model_version(name, found.version))


def find_model(workspace: Workspace, project_name: str, digest: str) -> ModelVersion | None:
    """The version of the project's model whose files have this digest.

    Raises:
        ModelError: MLflow cannot be reached.
    """
    with _client(workspace) as client:
        found = _find(client, project_name, digest)
        return None if found is None else _describe(client.get_model_version(project_name, found.version))


def get_model(workspace: Workspace, project_name: str, version_or_alias: str = CHAMPION) -> ModelVersion:
    """One version of a project's model, by its number or alias.

    Raises:
        ModelError: no such version, or MLflow cannot be reached.
    """
    with _client(workspace) as client:
        return _describe(_get(client, project_name, version_or_alias))


def list_models(workspace: Workspace, project_name: str | None = None) -> list[ModelVersion]:
    """All model versions, or those of one project, by name and version.

    Raises:
        ModelError: MLflow cannot be reached.
    """
    chosen = f"name = '{project_name}'" if project_name else None
    with _client(workspace) as client:
        versions, token = [], None
        while True:
            page = client.search_model_versions(chosen, max_results=1000, page_token=token)
            versions += page
            if not (token := page.token):
                break
        aliases = {name: client.get_registered_model(name).aliases for name in {v.name for v in versions}}
    found = [
        _describe(v, [alias for alias, n in aliases[v.name].items() if str(n) == str(v.version)]) for v in versions
    ]
    return sorted(found, key=lambda model: (model.name, int(model.version)))


def model_folder(workspace: Workspace, project_name: str, version_or_alias: str = CHAMPION) -> Path:
    """The model folder (weights.safetensors, card.json, ...) of a version.

    In place where the artifacts lie on this machine, else a copy in the workspace, downloaded once.

    Raises:
        ModelError: no such version, its files are gone, or MLflow cannot be reached.
    """
    found = get_model(workspace, project_name, version_or_alias)
    copy = workspace.home / "cache" / "models" / (found.digest or found.run)
    if copy.is_dir():
        return copy
    with artifact_folder(workspace, found) as folder:
        if _local(found.source) is not None:
            return folder
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as temporary:
            shutil.copytree(folder, Path(temporary) / "model").replace(copy)
    return copy


@contextmanager
def artifact_folder(workspace: Workspace, model: ModelVersion) -> Iterator[Path]:
    """The model folder as the artifact store has it now: in place, or a fresh copy that goes away afterwards.

    Raises:
        ModelError: its files are gone, or the store cannot be reached.
    """
    folder = _local(model.source)
    if folder is not None:
        yield _inner(folder / "artifacts", model)
        return
    with tempfile.TemporaryDirectory(prefix="olmoearth-model-") as temporary:
        with _quiet(model.source):
            from mlflow.artifacts import download_artifacts

            copy = download_artifacts(
                artifact_uri=model.source, dst_path=temporary, tracking_uri=workspace.tracking_uri
            )
        yield _inner(Path(copy) / "artifacts", model)


def _local(source: str) -> Path | None:
    return Path(source.removeprefix("file://")) if urlsplit(source).scheme in ("", "file") else None


def _inner(folder: Path, model: ModelVersion) -> Path:
    """MLflow puts an artifact folder below `artifacts` under its own name."""
    found = [path for path in folder.glob("*") if path.is_dir()] if folder.is_dir() else []
    if len(found) != 1:
        raise ModelError(
            f"{model.name}, version {model.version}: its files are not in {folder}; the artifact store lost them."
        )
    return found[0]


def _register(client: Any, workspace: Workspace, project: Project, result: StageResult) -> Any:
    """A new MLflow run, logged model, and model version; an unfinished one that a kill left goes away first."""
    name, manifest = project.config.name, result.manifest
    card, metrics = _read(result.folder / CARD), _read(result.folder / METRICS)
    history = _read(result.folder / HISTORY)
    tags = {
        DIGEST_TAG: manifest.outputs_digest,
        KEY_TAG: manifest.key,
        WEIGHTS_TAG: manifest.outputs[WEIGHTS].sha256,
        DATASET_TAG: manifest.inputs["preprocess"],
    }
    experiment = _experiment(client, workspace, name)
    for left in client.search_runs([experiment], f"tags.`{DIGEST_TAG}` = '{manifest.outputs_digest}'"):
        client.delete_run(left.info.run_id)
    run = client.create_run(experiment, run_name=result.folder.name, tags=tags).info.run_id
    try:
        _log_params(client, run, manifest.settings)
        _log_dataset(client, run, result, metrics)
        _log_history(client, run, history)
        model = client.create_logged_model(experiment, name=FOLDER, source_run_id=run, tags=tags, model_type="pyfunc")
        _log_batch(client, run, _numbers(metrics), model_id=model.model_id)
        _log_figures(client, run, result.folder)
        _log_files(client, model.model_id, run, result.folder)
        client.finalize_logged_model(model.model_id, "READY")
        client.set_terminated(run)
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    _make_registered_model(client, name)
    description = f"{card.get('encoder', 'encoder')} fine-tuned for {name}"
    return client.create_model_version(
        name, source=model.artifact_location, run_id=run, tags=tags, description=description, model_id=model.model_id
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read ({error.__class__.__name__}); run `olmoearth finetune` again."
        ) from error


def _experiment(client: Any, workspace: Workspace, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=f"{workspace.artifacts}/{name}"))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # somebody else was faster
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        raise ModelError(
            f"MLflow's experiment '{name}' was deleted. Restore it (`mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`), or give the project another name."
        )
    return str(found.experiment_id)


def _make_registered_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_params(client: Any, run: str, settings: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    client.log_batch(run, params=[Param(name, str(value)[:6000]) for name, value in _leaves(settings)])


def _log_dataset(client: Any, run: str, result: StageResult, metrics: Any) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = result.manifest.inputs["preprocess"]
    source = json.dumps({"stage": "preprocess", "outputs_digest": digest})
    dataset = Dataset("dataset", digest[:32], "olmoearth", source)  # MLflow's column takes 36 characters
    client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _log_history(client: Any, run: str, history: Any) -> None:
    epochs = history if isinstance(history, list) else history.get("epochs", [])
    for step, epoch in enumerate(epochs, start=1):
        values = {name: value for name, value in _numbers(epoch).items() if name != "epoch"}
        _log_batch(client, run, {f"epoch/{name}": value for name, value in values.items()}, step=step)


def _log_batch(
    client: Any, run: str, values: Mapping[str, float], *, step: int = 0, model_id: str | None = None
) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run, metrics=[Metric(n, v, now, step, model_id=model_id, run_id=run) for n, v in values.items()])


def _log_figures(client: Any, run: str, folder: Path) -> None:
    for figure in sorted(folder.rglob("*.png")):
        client.log_artifact(run, str(figure), "figures")


def _log_files(client: Any, model_id: str, run: str, folder: Path) -> None:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    with tempfile.TemporaryDirectory(prefix="olmoearth-pyfunc-") as temporary:
        saved = Path(temporary) / "pyfunc"
        save_model(
            path=str(saved),
            python_model=str(CODE),
            artifacts={FOLDER: str(folder)},
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
            mlflow_model=Model(run_id=run, model_id=model_id),
        )
        client.log_model_artifacts(model_id, str(saved))
    client.log_outputs(run, [LoggedModelOutput(model_id, 0)])


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with its path, in characters that MLflow takes."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            part = re.sub(r"[^\w\-. :/]", "_", str(name))
            yield from _leaves(inner, f"{path}/{part}" if path else part)
    else:
        yield path, value


def _numbers(value: Any) -> dict[str, float]:
    return {
        name: float(leaf)
        for name, leaf in _leaves(value)
        if isinstance(leaf, int | float) and not isinstance(leaf, bool) and math.isfinite(leaf)
    }


def _find(client: Any, name: str, digest: str) -> Any | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
    return min(found, key=lambda v: int(v.version)) if found else None


def _get(client: Any, name: str, version_or_alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        if version_or_alias.isdigit():
            return client.get_model_version(name, version_or_alias)
        return client.get_model_version_by_alias(name, version_or_alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        have = ", ".join(sorted(str(v.version) for v in client.search_model_versions(f"name = '{name}'"))) or "none"
        raise ModelError(
            f"{name}: no model version or alias '{version_or_alias}'; versions: {have}. "
            "See `olmoearth models`, or make one with `olmoearth finetune`."
        ) from None


def _describe(found: Any, aliases: list[str] | None = None) -> ModelVersion:
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        aliases=tuple(sorted(found.aliases if aliases is None else aliases)),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        run=found.run_id or "",
        source=found.source,
        key=found.tags.get(KEY_TAG, ""),
        digest=found.tags.get(DIGEST_TAG, ""),
        weights_sha256=found.tags.get(WEIGHTS_TAG, ""),
        dataset_digest=found.tags.get(DATASET_TAG, ""),
    )


@contextmanager
def _one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """Two processes that register the same model would both find it missing."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    path = workspace.home / "mlflow.lock"
    try:
        with FileLock(str(path), timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise ModelError(f"{path}: another process has been registering a model for {LOCK_SECONDS} s.") from None


@contextmanager
def _client(workspace: Workspace) -> Iterator[Any]:
    """An MLflow client; whatever MLflow refuses becomes one sentence."""
    where = _hidden(workspace.tracking_uri)
    if workspace.tracking_uri.startswith("sqlite"):
        workspace.home.mkdir(parents=True, exist_ok=True)
    with _quiet(where):
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=workspace.tracking_uri, registry_uri=workspace.tracking_uri)


@contextmanager
def _quiet(where: str) -> Iterator[None]:
    """MLflow without telemetry, progress bars, notices and warnings; what it refuses becomes a ModelError."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read once, when mlflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        for logger in loggers:  # after the import, which sets levels of its own
            logger.setLevel(logging.ERROR)
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            said = _hidden(" ".join(str(getattr(error, "orig", None) or error).split()))[:300]
            raise ModelError(f"MLflow ({where}) says: {said}. Check MLFLOW_TRACKING_URI and the server.") from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _hidden(text: str) -> str:
    """Addresses without their passwords."""
    return re.sub(r"(//[^/@:\s]*):[^/@\s]+@", r"\1:***@", text)
