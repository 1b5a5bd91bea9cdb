"""The MLflow ties: one run and one registered model version for each fine-tuned model.

An MLflow experiment and a registered model bear the project's name. A model version is found again by the digest of its
files, so that registering twice gives the same version. Nothing here touches MLflow's global state.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.errors import ModelError
from registry.mlflow.client import open_client, quiet
from registry.mlflow.run import DATASET_TAG, DIGEST_TAG, KEY_TAG, WEIGHTS_TAG, log_and_register
from registry.workspace import Workspace

CHAMPION = "champion"
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
    with one_at_a_time(workspace), open_client(workspace) as client:
        found = _find(client, name, digest)
        if found is None:
            found = log_and_register(client, workspace, project, result)
        if str(found.version) == "1" and CHAMPION not in client.get_registered_model(name).aliases:
            client.set_registered_model_alias(name, CHAMPION, found.version)
        return _describe(client.get_model_version(name, found.version))


def find_model(workspace: Workspace, project_name: str, digest: str) -> ModelVersion | None:
    """The version of the project's model whose files have this digest.

    Raises:
        ModelError: MLflow cannot be reached.
    """
    with open_client(workspace) as client:
        found = _find(client, project_name, digest)
        return None if found is None else _describe(client.get_model_version(project_name, found.version))


def get_model(workspace: Workspace, project_name: str, version_or_alias: str = CHAMPION) -> ModelVersion:
    """One version of a project's model, by its number or alias.

    Raises:
        ModelError: no such version, or MLflow cannot be reached.
    """
    with open_client(workspace) as client:
        return _describe(_get(client, project_name, version_or_alias))


def alias_of(workspace: Workspace, project_name: str, alias: str) -> ModelVersion | None:
    """The version of a project's model that bears an alias; None where none does, or there is no model yet.

    Raises:
        ModelError: MLflow cannot be reached.
    """
    with open_client(workspace) as client:
        found = _look(client, project_name, alias)
        return None if found is None else _describe(found)


def move_alias(workspace: Workspace, project_name: str, alias: str, version: str | None) -> None:
    """Give a version of a project's model an alias that another may have had; None: nobody has it any more.

    Raises:
        ModelError: no such version, or MLflow refuses.
    """
    with open_client(workspace) as client:
        if version is not None:
            client.set_registered_model_alias(project_name, alias, version)
        elif alias in client.get_registered_model(project_name).aliases:
            client.delete_registered_model_alias(project_name, alias)


def list_models(workspace: Workspace, project_name: str | None = None) -> list[ModelVersion]:
    """All model versions, or those of one project, by name and version.

    Raises:
        ModelError: MLflow cannot be reached.
    """
    chosen = f"name = '{project_name}'" if project_name else None
    with open_client(workspace) as client:
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
        with quiet(model.source):
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


def _find(client: Any, name: str, digest: str) -> Any | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
    return min(found, key=lambda v: int(v.version)) if found else None


def _look(client: Any, name: str, version_or_alias: str) -> Any | None:
    """What MLflow has under a number or alias; None where it has no such version, alias or model."""
    from mlflow.exceptions import MlflowException

    try:
        if version_or_alias.isdigit():
            return client.get_model_version(name, version_or_alias)
        return client.get_model_version_by_alias(name, version_or_alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _get(client: Any, name: str, version_or_alias: str) -> Any:
    found = _look(client, name, version_or_alias)
    if found is None:
        have = ", ".join(sorted(str(v.version) for v in client.search_model_versions(f"name = '{name}'"))) or "none"
        raise ModelError(
            f"{name}: no model version or alias '{version_or_alias}'; versions: {have}. "
            "See `olmoearth models`, or make one with `olmoearth finetune`."
        )
    return found


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
def one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """Hold MLflow's model registry: two processes that register the same model would both find it missing.

    Re-entrant within a process.

    Raises:
        ModelError: another process holds it for too long.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    path = workspace.home / "mlflow.lock"
    try:
        with FileLock(str(path), timeout=LOCK_SECONDS, is_singleton=True):
            yield
    except Timeout:
        raise ModelError(f"{path}: another process has been registering a model for {LOCK_SECONDS} s.") from None
