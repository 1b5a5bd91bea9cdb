"""The MLflow ties against a real MLflow: what a run shows, versions, aliases, artifacts, kills, faults."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smallrun

from olmoearth_core.digest import sha256_file
from olmoearth_core.models.model_folder import load_model
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.errors import ModelError
from registry.mlflow.models import ModelVersion, find_model, get_model, list_models, model_folder, register_model
from registry.mlflow.run import _leaves
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def client(models_home: Workspace, registered: ModelVersion) -> Any:
    """MLflow's own client, to see what a person would."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=models_home.tracking_uri, registry_uri=models_home.tracking_uri)


KILLED_WHILE_LAYING = """
import sys
from pathlib import Path
from registry.mlflow.models import list_models
from registry.workspace import Workspace
workspace = Workspace.from_environment()
print("laying", flush=True)
list_models(workspace)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.4, 0.9])
def test_killed_while_its_database_is_laid_mlflow_begins_anew(tmp_path: Path, seconds: float) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {"OLMOEARTH_HOME": str(tmp_path / "home")}
    process = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_LAYING], env=environment)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "home").glob("*mlflow.db*partial*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([sys.executable, "-c", KILLED_WHILE_LAYING], env=environment, check=True, timeout=120)
    assert (tmp_path / "home" / "mlflow.db").exists()


def test_names_of_classes_become_metrics_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    names = ["../x", "..", ".", "/x", "water/", "a//b", "n/a", "a,b", "a;b", "Ørsta", "{}", "\N{DECIDUOUS TREE}"]
    found = dict(_leaves({"classes": {name: {"iou": i} for i, name in enumerate(names)}}))
    assert sorted(found.values()) == list(range(len(names)))
    for name in found:
        _validate_metric_name(name)


def test_the_first_version_is_champion(registered: ModelVersion, results: dict[str, StageResult]) -> None:
    manifest = results["finetune"].manifest
    assert (registered.name, registered.version, registered.aliases) == ("small", "1", ("champion",))
    assert registered.digest == manifest.outputs_digest
    assert registered.key == manifest.key
    assert registered.weights_sha256 == manifest.outputs["weights.safetensors"].sha256
    assert registered.dataset_digest == results["preprocess"].manifest.outputs_digest


def test_the_run_shows_params_metrics_and_dataset(
    client: Any, registered: ModelVersion, models_home: Workspace, results: dict[str, StageResult]
) -> None:
    run = client.get_run(registered.run)
    assert run.info.status == "FINISHED"
    assert run.data.params["training/epochs"] == "2"
    assert run.data.params["model/encoder"] == "v1.1-nano"
    assert run.data.metrics["test/miou"] == 0.5
    assert run.data.metrics["test/classes/bare _ built/iou"] == 0.25, "MLflow takes no ampersand"
    assert [(m.step, m.value) for m in client.get_metric_history(registered.run, "epoch/loss")] == [(1, 1.0), (2, 0.5)]
    assert [m.value for m in client.get_metric_history(registered.run, "epoch/validation/miou")] == [0.1, 0.2]
    (given,) = run.inputs.dataset_inputs
    assert results["preprocess"].manifest.outputs_digest.startswith(given.dataset.digest)
    assert len(run.outputs.model_outputs) == 1
    logged = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert {metric.key: metric.value for metric in logged.metrics}["test/miou"] == 0.5
    experiment = client.get_experiment_by_name("small")
    assert experiment.artifact_location == f"{models_home.artifacts}/small"


def test_twice_is_once(
    client: Any, models_home: Workspace, project: Project, results: dict[str, StageResult], registered: ModelVersion
) -> None:
    assert register_model(models_home, project, results["finetune"]) == registered
    assert len(client.search_model_versions("name = 'small'")) == 1
    assert len(client.search_runs([client.get_experiment_by_name("small").experiment_id])) == 1


def test_the_pyfunc_predicts_what_the_model_does(
    models_home: Workspace, registered: ModelVersion, results: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_TRACKING_URI", models_home.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{registered.name}@champion")
    random = np.random.default_rng(0)
    cubes = random.integers(1, 5000, (2, 2, 4, 16, 16)).astype(np.uint16)
    cubes[0, :, :, :4] = 0
    cubes[1, :, 2, 8:] = 0  # one band without a value makes the pixel invalid, as in training
    dates = np.array([["2024-05-16", "2024-06-15"]] * 2, "datetime64[D]")
    found = loaded.predict({"sentinel2_l2a": cubes, "dates": dates.astype(str)})
    valid = {"sentinel2_l2a": (cubes != 0).all(axis=2)}
    expected = load_model(results["finetune"].folder).predict({"sentinel2_l2a": cubes}, dates, valid)
    assert found.shape == (2, 3, 16, 16)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def mlflow_server(models_home: Workspace, tmp_path: Path) -> Iterator[str]:
    """The address of a real MLflow server with an empty registry."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", address.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--no-serve-artifacts"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--default-artifact-root", str(tmp_path / "root")],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.mark.parametrize("where", ["embedded", "server"])
def test_nothing_reaches_the_user(
    where: str, tmp_path: Path, project: Project, results: dict[str, StageResult], request: pytest.FixtureRequest
) -> None:
    """A new MLflow database, a registration and a listing print nothing and warn of nothing."""
    tracking = request.getfixturevalue("mlflow_server") if where == "server" else ""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from olmoearth_core.project import load_project\n"
        "from registry.mlflow.models import list_models, register_model\n"
        "from registry.outputs import find_output\n"
        "from registry.registry import found_result\n"
        "from registry.workspace import Workspace\n"
        "project = load_project(Path(sys.argv[1]))\n"
        "workspace = Workspace.at(Path(sys.argv[2]), tracking_uri=sys.argv[4])\n"
        "result = found_result(project, find_output(project.root, 'finetune', sys.argv[3]))\n"
        "register_model(workspace, project, result)\n"
        "assert [m.version for m in list_models(workspace)] == ['1']\n"
    )
    arguments = [str(project.root), str(tmp_path / "home"), results["finetune"].manifest.outputs_digest, tracking]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *arguments],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "mlflow" in line.lower() or "alembic" in line.lower()]
    assert (done.returncode, done.stdout, said) == (0, "", []), done.stderr
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_second_training_is_a_second_version(
    models_home: Workspace, tmp_path: Path, registered: ModelVersion
) -> None:
    project = smallrun.small_project(tmp_path / "other", seed=1)
    result = smallrun.run(project)["finetune"]
    second = register_model(models_home, project, result)
    assert (second.version, second.aliases) == ("2", ())
    assert get_model(models_home, "small").version == "1"
    assert get_model(models_home, "small", "2") == second
    assert find_model(models_home, "small", result.manifest.outputs_digest) == second
    assert [model.version for model in list_models(models_home, "small")] == ["1", "2"]
    assert list_models(models_home)[0] == registered
    assert list_models(models_home, "nobody") == []
    folder = model_folder(models_home, "small", "2")
    assert {path.name for path in folder.iterdir()} == {path.name for path in result.folder.iterdir()}
    assert sha256_file(folder / "weights.safetensors") == second.weights_sha256


def test_a_version_that_is_not_there(models_home: Workspace, registered: ModelVersion) -> None:
    for name, version in (("small", "99"), ("small", "challenger"), ("nobody", "champion")):
        with pytest.raises(ModelError, match=f"^{name}: no model version or alias '{version}'"):
            get_model(models_home, name, version)


def test_a_killed_registration_starts_over(models_home: Workspace, tmp_path: Path, client: Any) -> None:
    project = smallrun.small_project(tmp_path / "killed", seed=2)
    result = smallrun.run(project)["finetune"]
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mlflow import MlflowClient\n"
        "from olmoearth_core.project import load_project\n"
        "from registry.mlflow.models import register_model\n"
        "from registry.outputs import find_output\n"
        "from registry.registry import found_result\n"
        "from registry.workspace import Workspace\n"
        "MlflowClient.finalize_logged_model = lambda *arguments: os._exit(9)\n"
        "project = load_project(Path(sys.argv[1]))\n"
        "result = found_result(project, find_output(project.root, 'finetune', sys.argv[3]))\n"
        "register_model(Workspace.at(Path(sys.argv[2])), project, result)\n"
    )
    command = [sys.executable, "-c", code, str(project.root), str(models_home.home), result.manifest.outputs_digest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    registered = register_model(models_home, project, result)
    experiment = client.get_experiment_by_name("small").experiment_id
    tagged = client.search_runs([experiment], f"tags.`olmoearth.digest` = '{result.manifest.outputs_digest}'")
    assert [(run.info.run_id, run.info.status) for run in tagged] == [(registered.run, "FINISHED")]


def test_artifacts_that_are_gone(models_home: Workspace, registered: ModelVersion) -> None:
    folder = Path(registered.source)
    hidden = folder.rename(folder.with_name("hidden"))
    try:
        with pytest.raises(ModelError, match=r"small, version 1: its files are not in .*the artifact store lost them"):
            model_folder(models_home, "small")
    finally:
        hidden.rename(folder)


def test_a_server_that_does_not_answer(
    tmp_path: Path, project: Project, results: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    workspace = Workspace.at(tmp_path / "home", tracking_uri="http://me:secret@127.0.0.1:9")
    with pytest.raises(ModelError, match=r"MLflow \(http://\*\*\*@127.0.0.1:9\) says") as caught:
        register_model(workspace, project, results["finetune"])
    assert "secret" not in str(caught.value)


def test_a_model_folder_without_metrics(models_home: Workspace, tmp_path: Path) -> None:
    project = smallrun.small_project(tmp_path / "damaged", seed=3)
    result = smallrun.run(project)["finetune"]
    (result.folder / "metrics.json").unlink()
    with pytest.raises(ModelError, match=r"metrics\.json: cannot be read"):
        register_model(models_home, project, result)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on an S3 server of this machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        time.sleep(0.1)
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="models")
        yield "models"
        server.stop()


def test_artifacts_on_s3(models_home: Workspace, tmp_path: Path, bucket: str) -> None:
    workspace = Workspace.at(
        models_home.home, tracking_uri=models_home.tracking_uri, artifacts=f"s3://{bucket}/artifacts"
    )
    project = smallrun.small_project(tmp_path / "remote", name="remote")
    result = smallrun.run(project)["finetune"]
    registered = register_model(workspace, project, result)
    assert registered.source.startswith(f"s3://{bucket}/artifacts/remote/")
    folder = model_folder(workspace, "remote")
    assert folder.is_relative_to(workspace.home)
    assert sha256_file(folder / "weights.safetensors") == registered.weights_sha256
    assert model_folder(workspace, "remote") == folder
