"""The engine `dask`: real workers, a real S3 server, a worker killed in the middle, and the map of the engine `local`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daskcluster import DaskCluster, dask_cluster
from distributed import Client
from objectstore import KEY, PRIVATE, SECRET, client, object_store
from smallmap import checksums, clouds, full_disk, infer_run, small_project, square

from flows import dask_cluster as clusters
from flows.dask_engine import DaskEngine
from flows.errors import EngineError
from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.plan import Tile
from olmoearth_core.inference.worker import Outcome
from olmoearth_core.project import Project


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield patch


@pytest.fixture(scope="module")
def store(settings: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("store")) as endpoint:
        settings.setenv("AWS_ENDPOINT_URL", endpoint)
        yield endpoint


@pytest.fixture(scope="module")
def cluster(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds(), area=square(-90, -90, 300, 300))


@pytest.fixture(scope="module")
def alone(project: Project) -> dict[str, str]:
    """The tiles of the engine `local`."""
    infer(infer_run(project, project.root / "alone"))
    return checksums(project.root / "alone")


class Watching:
    """An engine whose outcomes are kept; `then` is called after each."""

    def __init__(self, engine: DaskEngine, then: Any = lambda _told: None) -> None:
        self.engine, self.then, self.told = engine, then, list[Outcome]()

    def __call__(self, job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        for outcome in self.engine(job, tiles):
            self.told.append(outcome)
            yield outcome
            self.then(self.told)


class Lister(threading.Thread):
    """Looks into the bucket all the while: whenever a tile's record is there, its file must be, whole."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self._s3, self._prefix = client(endpoint), prefix
        self.over, self.seen, self.half = threading.Event(), set[str](), list[str]()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.look()

    def look(self) -> None:
        listed = self._s3.list_objects_v2(Bucket=PRIVATE, Prefix=f"{self._prefix}/tiles/").get("Contents", [])
        for key in (entry["Key"] for entry in listed):
            if key.endswith(".json") and "/lost/" not in key and key not in self.seen:
                record = json.loads(self._read(key))
                if hashlib.sha256(self._read(key.replace(".json", ".tif"))).hexdigest() != record["sha256"]:
                    self.half.append(key)
                self.seen.add(key)

    def _read(self, key: str) -> bytes:
        content: bytes = self._s3.get_object(Bucket=PRIVATE, Key=key)["Body"].read()
        return content


def test_a_killed_worker_loses_only_its_tiles_and_nobody_sees_a_half_one(
    project: Project, alone: dict[str, str], cluster: DaskCluster, store: str, tmp_path: Path
) -> None:
    """Inside a task of a flow, as `olmoearth run` has it."""
    from stageflow import Stage, flow_of_a_stage  # only now: Prefect reads its settings when it is imported

    cluster.add_worker()
    victims = cluster.workers[:1]
    lister = Lister(store, "killed")
    lister.start()

    with Client(cluster.address, set_as_default=False) as watcher:
        watcher.wait_for_workers(3, timeout=60)

        pids = watcher.run(os.getpid)
        [victim] = [address for address, pid in pids.items() if pid == victims[0].pid]

        def stop_and_kill(_told: list[Outcome]) -> None:
            if victims:
                os.kill(victims[0].pid, signal.SIGSTOP)
                if watcher.processing([victim])[victim]:
                    cluster.kill(0)
                    victims.clear()
                else:
                    os.kill(victims[0].pid, signal.SIGCONT)

        engine = Watching(DaskEngine(f"s3://{PRIVATE}/killed", cluster.address, worth=0.01), stop_and_kill)

        Stage.call = lambda: infer(replace(infer_run(project, tmp_path), engine=engine))
        flow_of_a_stage()
    lister.over.set()
    lister.join(30)
    lister.look()
    assert not victims, "a worker was killed while it held tiles"
    assert checksums(tmp_path) == alone
    assert len(lister.seen) == len(engine.told) > 8
    assert not lister.half
