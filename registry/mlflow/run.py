"""One fine-tuning as MLflow shows it: a run with params, metrics and dataset, and a logged model."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.errors import ModelError
from registry.workspace import Workspace

CARD, METRICS, HISTORY, WEIGHTS = "card.json", "metrics.json", "history.json", "weights.safetensors"
DIGEST_TAG, KEY_TAG, WEIGHTS_TAG, DATASET_TAG = (
    "olmoearth.digest",
    "olmoearth.stage_key",
    "olmoearth.weights_sha256",
    "olmoearth.dataset_digest",
)
CODE = Path(__file__).with_name("pyfunc_model.py")
DATASET_FOLDER, REPORT = "data/dataset", "expectations.html"
"""Where preprocessing leaves the report of the training set, below the project."""
FOLDER = "model"
"""Name of the artifact in the pyfunc, as `pyfunc_model` reads it."""
MOST_AT_ONCE = 1000
"""Metrics that MLflow takes in one call."""
REQUIREMENTS = ("olmoearth-platform", "torch", "numpy", "safetensors", "pydantic")


def log_and_register(client: Any, workspace: Workspace, project: Project, result: StageResult) -> Any:
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
    experiment = experiment_of(client, workspace, name)
    for left in client.search_runs([experiment], f"tags.`{DIGEST_TAG}` = '{manifest.outputs_digest}'"):
        client.delete_run(left.info.run_id)
    run = client.create_run(experiment, run_name=result.folder.name, tags=tags).info.run_id
    try:
        log_params(client, run, {**manifest.settings, "resolved": card.get("training", {})})
        _log_dataset(client, run, project, result)
        _log_history(client, run, history)
        model = client.create_logged_model(experiment, name=FOLDER, source_run_id=run, tags=tags, model_type="pyfunc")
        log_batch(client, run, numbers(metrics), model_id=model.model_id)
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


def experiment_of(client: Any, workspace: Workspace, name: str) -> str:
    """Id of the experiment of that name, which is made where there is none.

    Raises:
        ModelError: somebody deleted it.
    """
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


def log_params(client: Any, run: str, settings: Mapping[str, Any]) -> None:
    """Every leaf of `settings` as a parameter of the run."""
    from mlflow.entities import Param

    client.log_batch(run, params=[Param(name, str(value)[:6000]) for name, value in _leaves(settings)])


def _log_dataset(client: Any, run: str, project: Project, result: StageResult) -> None:
    """The training set as an input of the run, and its report where it still is the one that was trained on."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from olmoearth_core.manifest import read_manifest

    digest = result.manifest.inputs["preprocess"]
    source = json.dumps({"stage": "preprocess", "outputs_digest": digest})
    dataset = Dataset("dataset", digest[:32], "olmoearth", source)  # MLflow's column takes 36 characters
    client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    folder = project.root / DATASET_FOLDER
    manifest = read_manifest(folder)
    if manifest is not None and manifest.outputs_digest == digest and (folder / REPORT).exists():
        client.log_artifact(run, str(folder / REPORT), "dataset")


def _log_history(client: Any, run: str, history: Any) -> None:
    epochs = history if isinstance(history, list) else history.get("epochs", [])
    for step, epoch in enumerate(epochs, start=1):
        values = {name: value for name, value in numbers(epoch).items() if name != "epoch"}
        log_batch(client, run, {f"epoch/{name}": value for name, value in values.items()}, step=step)


def log_batch(
    client: Any, run: str, values: Mapping[str, float], *, step: int = 0, model_id: str | None = None
) -> None:
    """Metrics of a run at a step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(n, v, now, step, model_id=model_id, run_id=run) for n, v in values.items()]
    for first in range(0, len(metrics), MOST_AT_ONCE):
        client.log_batch(run, metrics=metrics[first : first + MOST_AT_ONCE])


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
        used: set[str] = set()
        for name, inner in value.items():
            part = re.sub(r"[^\w\-. :]|^\.+$", "_", str(name))
            while part in used:  # 'a,b' and 'a;b' are two classes
                part += "_"
            used.add(part)
            yield from _leaves(inner, f"{path}/{part}" if path else part)
    else:
        yield path, value


def numbers(value: Any) -> dict[str, float]:
    """The finite numbers among the leaves of nested mappings, by their paths."""
    return {
        name: float(leaf)
        for name, leaf in _leaves(value)
        if isinstance(leaf, int | float) and not isinstance(leaf, bool) and math.isfinite(leaf)
    }
