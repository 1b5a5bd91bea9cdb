"""An empty folder, the registry's URL and the S3 store, nothing else: the map comes out bit for bit.

PostgreSQL and SeaweedFS are real ones. Project folder, workspace and MLflow are gone when the map is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from conftest import new_postgres_database
from madeagain import mapped_project, record_all
from mlflow.store.artifact import s3_artifact_repo
from objectstore import KEY, PRIVATE, SECRET, client, object_store, upload
from sqlalchemy import make_url

from flows.reproduce import reproduce
from olmoearth_core.errors import StoreError
from olmoearth_core.machine import packages
from olmoearth_core.progress import Silent
from registry.errors import ArtifactError, RegistryError
from registry.objects import fetch, keep
from registry.reproduce.lay_out import Wish
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


@pytest.fixture
def gone(
    endpoint: str, postgres_server: str, models_home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, str]]:
    """A map that was made and recorded, and then everything but registry and store went: its id, and a shell."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # boto3 and MLflow remember who another test was
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    registry = new_postgres_database(postgres_server)
    workspace = Workspace.at(
        tmp_path / "home",
        registry_url=registry,
        tracking_uri=models_home.tracking_uri,
        artifacts=f"s3://{PRIVATE}/artifacts",
        dvc_remote=f"s3://{PRIVATE}/datasets",
    )
    name = f"beyond-{make_url(registry).database}"  # an experiment of its own in MLflow
    project = mapped_project(tmp_path / name, name=name, catalogue=f"s3://{PRIVATE}/world/catalog.json")
    upload(endpoint, PRIVATE, project.root / "imagery", "world")
    results = record_all(project, workspace)
    shutil.rmtree(project.root)
    shutil.rmtree(tmp_path / "home")
    shell = environment(endpoint, OLMOEARTH_REGISTRY_URL=registry, OLMOEARTH_HOME=str(tmp_path / "nowhere"))
    monkeypatch.setenv("OLMOEARTH_REGISTRY_URL", registry)
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path / "nowhere"))
    return results["postprocess"].folder.name, shell


def test_the_registry_s_url_and_the_store_are_enough(
    gone: tuple[str, dict[str, str]], endpoint: str, tmp_path: Path
) -> None:
    map_id, shell = gone
    empty = tmp_path / "empty"
    empty.mkdir()
    found = olmoearth(shell, empty, "reproduce", map_id, "--all", "--dataset", "--to", "again")
    assert (found["verdict"], found["reasons"], len(found["tiles"])) == ("equal", [], 6)
    assert {one["outcome"] for one in (*found["tiles"], *found["products"])} == {"equal"}
    assert "map.tif" in {one["name"] for one in found["products"]}
    assert (empty / "again" / "dataset" / "manifest.json").is_file()
    assert not (tmp_path / "nowhere" / "mlflow.db").exists(), "MLflow was not needed"

    s3 = client(endpoint)
    [weights] = [
        entry["Key"]
        for entry in s3.list_objects_v2(Bucket=PRIVATE, Prefix="artifacts/beyond")["Contents"]
        if entry["Key"].endswith("weights.safetensors")
    ]
    body = s3.get_object(Bucket=PRIVATE, Key=weights)["Body"].read()
    s3.put_object(Bucket=PRIVATE, Key=weights, Body=body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(RegistryError, match=r"weights\.safetensors: content differs"):
        reproduce(map_id, empty / "swapped", Wish(tiles=1), "current", Silent())


def test_a_store_that_refuses_or_has_other_bytes_is_named(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    store, target = f"s3://{PRIVATE}/kept/objects", tmp_path / "target"
    digest = keep(store, b"what a run read")
    assert keep(store, b"what a run read") == digest
    assert fetch([str(tmp_path / "no-store"), store], digest, target)
    assert target.read_bytes() == b"what a run read"
    assert not fetch([store], "0" * 64, target)
    client(endpoint).put_object(Bucket=PRIVATE, Key=f"kept/objects/{digest[:2]}/{digest[2:]}", Body=b"something else!")
    with pytest.raises(ArtifactError, match=f"{store}: what is kept there as {digest} has other bytes"):
        fetch([store], digest, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"s3://imagery/kept/objects/.*: these credentials may not use it"):
        keep(store, b"another")
    with pytest.raises(ArtifactError, match=r"s3://imagery/kept/objects/.*: these credentials may not use it"):
        fetch([store], digest, tmp_path / "other")


@pytest.mark.verify
def test_so_are_the_code_and_the_libraries_of_that_time(
    gone: tuple[str, dict[str, str]], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The recorded code, in an environment made of the recorded list of packages: takes minutes and a package index."""
    map_id, shell = gone
    empty = tmp_path / "empty"
    empty.mkdir()
    start = time.perf_counter()
    found = olmoearth(
        shell, empty, "reproduce", map_id, "--all", "--environment", "recorded",
        "--to", "then", seconds=3600,
    )  # fmt: skip
    assert (found["verdict"], found["reasons"], found["environment"]) == ("equal", [], "recorded")
    assert {one["outcome"] for one in (*found["tiles"], *found["products"])} == {"equal"}
    python = empty / "then" / "environment" / "bin" / "python"
    listed = subprocess.run(
        [python, "-c", "import olmoearth_core, json; from olmoearth_core.machine import packages; "
         "print(json.dumps([olmoearth_core.__file__, packages()]))"],
        cwd=empty, env={"PYTHONPATH": str(empty / "then" / "code")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, installed = json.loads(listed.stdout)
    assert where.startswith(str(empty / "then" / "code"))
    assert [line for line in packages() if not line.startswith("olmoearth-platform==")] == installed
    record_property("packages", len(installed))
    record_property("seconds", round(time.perf_counter() - start))
