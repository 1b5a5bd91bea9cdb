"""An empty folder, the registry's URL and the S3 store, nothing else: the map comes out bit for bit.

PostgreSQL and SeaweedFS are real ones. Project folder, workspace and MLflow are gone when the map is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import new_postgres_database
from madeagain import mapped_project, record_all
from objectstore import KEY, PRIVATE, SECRET, client, object_store, upload

from flows.reproduce import reproduce
from olmoearth_core.progress import Silent
from registry.errors import RegistryError
from registry.lay_out import Wish
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server."""
    with object_store(tmp_path_factory.mktemp("objects")) as address:
        yield address


def environment(endpoint: str, **settings: str) -> dict[str, str]:
    """A shell that knows how to reach the S3 server, and these settings of ours."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("OLMOEARTH_", "MLFLOW_", "PREFECT_", "AWS_"))}
    access = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return {**kept, **access, "AWS_DEFAULT_REGION": "us-east-1", "OMP_NUM_THREADS": "1", **settings}


def olmoearth(shell: dict[str, str], folder: Path, *arguments: str, seconds: int = 300) -> Any:
    """What the command says with --json."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, env=shell, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_registry_s_url_and_the_store_are_enough(
    endpoint: str, postgres_server: str, models_home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    registry = new_postgres_database(postgres_server)
    workspace = Workspace.at(
        tmp_path / "home",
        registry_url=registry,
        tracking_uri=models_home.tracking_uri,
        artifacts=f"s3://{PRIVATE}/artifacts",
        dvc_remote=f"s3://{PRIVATE}/datasets",
    )
    project = mapped_project(tmp_path / "beyond", name="beyond", catalogue=f"s3://{PRIVATE}/world/catalog.json")
    upload(endpoint, PRIVATE, project.root / "imagery", "world")
    results = record_all(project, workspace)
    map_id = results["postprocess"].folder.name
    shutil.rmtree(project.root)
    shutil.rmtree(tmp_path / "home")

    empty = tmp_path / "empty"
    empty.mkdir()
    shell = environment(endpoint, OLMOEARTH_REGISTRY_URL=registry, OLMOEARTH_HOME=str(tmp_path / "nowhere"))
    found = olmoearth(shell, empty, "reproduce", map_id, "--all", "--dataset", "--into", "again")
    assert (found["verdict"], found["reasons"], len(found["tiles"])) == ("equal", [], 6)
    assert {one["outcome"] for one in (*found["tiles"], *found["products"])} == {"equal"}
    assert "map.tif" in {one["name"] for one in found["products"]}
    assert (empty / "again" / "dataset" / "manifest.json").is_file()
    assert not (tmp_path / "nowhere" / "mlflow.db").exists(), "MLflow was not needed"

    s3 = client(endpoint)
    [weights] = [
        entry["Key"]
        for entry in s3.list_objects_v2(Bucket=PRIVATE, Prefix="artifacts/beyond/")["Contents"]
        if entry["Key"].endswith("weights.safetensors")
    ]
    body = s3.get_object(Bucket=PRIVATE, Key=weights)["Body"].read()
    s3.put_object(Bucket=PRIVATE, Key=weights, Body=body[:-1] + bytes([body[-1] ^ 1]))
    monkeypatch.setenv("OLMOEARTH_REGISTRY_URL", registry)
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(RegistryError, match=r"weights\.safetensors: content differs"):
        reproduce(map_id, empty / "swapped", Wish(tiles=1), "current", Silent())
