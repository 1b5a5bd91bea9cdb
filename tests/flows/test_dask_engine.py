"""The engine `dask`: real workers, a real S3 server, a worker killed in the middle, and the map of `local`."""

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
from smallmap import checksums, clouds, infer_run, small_project, square

from flows import dask_cluster as clusters
from flows import dask_engine as engines
from flows.dask_engine import DaskEngine, Pace
from flows.errors import EngineError
from flows.run import prepare_prefect
from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.bench import Done
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
        patch.setenv("DASK_LOGGING__DISTRIBUTED", "critical")
        prepare_prefect()
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
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds(), area=square(-30, -30, 180, 180))


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

    victims = cluster.workers[:1]
    lister = Lister(store, "killed")
    lister.start()

    with Client(cluster.address, set_as_default=False) as watcher:
        watcher.wait_for_workers(2, timeout=60)

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
    assert {"Completed"} <= states_of_tasks() <= {"Completed", "Crashed"}, "no lost batch seems to run for ever"


def states_of_tasks() -> set[str]:
    from prefect import get_client

    with get_client(sync_client=True) as api:
        runs = api.read_task_runs(limit=200)
    return {str(run.state_name) for run in runs if "_" in run.name and not run.name.startswith("task_of")}


def test_a_run_that_was_stopped_goes_on_with_what_lies_in_the_bucket(
    project: Project, alone: dict[str, str], cluster: DaskCluster, store: str, tmp_path: Path
) -> None:
    def stop(told: list[Outcome]) -> None:
        if len(told) >= 3 and any(outcome.device_seconds for outcome in told):
            raise KeyboardInterrupt

    engine = DaskEngine(f"s3://{PRIVATE}/stopped", cluster.address, worth=0.01)
    stopped = Watching(engine, stop)
    with pytest.raises(KeyboardInterrupt):
        infer(replace(infer_run(project, tmp_path), engine=stopped))
    s3, found = client(store), [outcome.name for outcome in stopped.told]
    rotten = next(outcome.name for outcome in stopped.told if outcome.device_seconds)
    [key] = [key for key in keys(s3, "stopped/tiles/") if key.endswith(f"{rotten}.tif")]
    s3.put_object(Bucket=PRIVATE, Key=key, Body=b"rotten")
    for name in found:  # as if it was killed before they came home
        (tmp_path / f"{name}.json").unlink()

    again = Watching(engine)
    infer(replace(infer_run(project, tmp_path), engine=again))
    assert checksums(tmp_path) == alone
    spent = {outcome.name: outcome.device_seconds for outcome in again.told}
    assert [name for name in found if spent[name]] == [rotten], "only the rotten one is made anew"


def keys(s3: Any, prefix: str) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=PRIVATE, Prefix=prefix).get("Contents", [])]


def test_what_a_worker_refuses_is_told_as_of_this_machine(
    project: Project, cluster: DaskCluster, tmp_path: Path
) -> None:
    def unseen(job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        """As a machine that does not have the folder."""
        (project.root / "imagery").rename(project.root / "elsewhere")
        try:
            yield from DaskEngine(f"s3://{PRIVATE}/refused", cluster.address)(job, tiles)
        finally:
            (project.root / "elsewhere").rename(project.root / "imagery")

    with pytest.raises(MappingError, match=r"imagery/catalog\.json: the catalogue is a file that a Dask worker"):
        infer(replace(infer_run(project, tmp_path), engine=unseen))


@pytest.mark.parametrize(
    ("exchange", "secret", "said"),
    [
        (f"s3://{PRIVATE}/x", "wrong", "the credentials are wrong"),
        ("s3://nowhere/x", SECRET, "there is no such bucket"),
        (f"s3://{PRIVATE}/x", "", "no credentials for S3 were found"),
    ],
)
def test_an_exchange_that_refuses(
    project: Project, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: str, secret: str, said: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    if not secret:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(StoreError, match=said) as refused:
        infer(replace(infer_run(project, tmp_path), engine=DaskEngine(exchange)))
    assert "Check this address in the OLMOEARTH_* settings" in str(refused.value)


def test_a_scheduler_that_does_not_answer(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "CONNECT", 0.5)
    with pytest.raises(EngineError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        infer(replace(infer_run(project, tmp_path), engine=DaskEngine(str(tmp_path), "tcp://127.0.0.1:9")))


def test_a_map_for_gpus_waits_for_workers_that_offer_one(cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "FIRST", 0.5)
    assert clusters.device_of_cluster(cluster.address) == "cpu"
    with pytest.raises(EngineError, match="offers GPU"), clusters.open_cluster(cluster.address, 1, "cuda"):
        pass
    cluster.add_worker("--resources", "GPU=1")
    deadline = time.monotonic() + 60
    while clusters.device_of_cluster(cluster.address) == "cpu":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    with clusters.open_cluster(cluster.address, 1, "cuda") as found:
        assert found.workers == 1, "those without a GPU do not count"


def test_a_scheduler_elsewhere_wants_a_prefect_server(settings: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(EngineError, match="Set PREFECT_API_URL"),
        clusters.open_cluster("tcp://dask.example:8786", 1, "cpu"),
    ):
        pass


def test_a_batch_is_worth_a_minute_and_a_fair_share_at_the_end() -> None:
    pace = Pace(60.0)
    assert pace.tiles(100_000, 4) == 1, "nobody knows yet how long a tile takes"
    pace.learn(Done((), 12.0, 4))
    assert pace.tiles(100_000, 4) == 20
    pace.learn(Done((), 0.001, 0))
    assert pace.tiles(100_000, 4) == 20, "tiles that lay there already say nothing"
    assert pace.tiles(40, 4) == 5
    assert pace.tiles(1, 4) == 1
    assert Pace(60.0, 0.0).tiles(100_000, 1) == 1000


def test_a_scheduler_that_is_gone_ends_the_run_and_finished_tiles_stay(
    project: Project, cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one: there is no cluster after it."""
    for name, seconds in (("TICK", 0.5), ("GONE", 2.0)):
        monkeypatch.setattr(engines, name, seconds)
    monkeypatch.setattr(clusters, "COUNTED", 0.1)
    monkeypatch.setattr(clusters, "CONNECT", 3.0)
    engine = Watching(DaskEngine(f"s3://{PRIVATE}/gone", cluster.address, worth=0.01), lambda _told: cluster.end())
    with pytest.raises(EngineError, match="Finished tiles are kept"):
        infer(replace(infer_run(project, tmp_path), engine=engine))
    assert len(list(tmp_path.glob("*.tif"))) == len(engine.told) > 0
