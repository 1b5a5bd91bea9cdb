"""Workers that share no folder with the maker of a map: what goes out, what comes home, and when it counts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from smallmap import checksums, clouds, full_disk, infer_run, small_project

from olmoearth_core.errors import CheckpointError, MappingError, StoreError
from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.inference.bench import Batch, Bench
from olmoearth_core.inference.exchange import Order, bring_home, publish, published, receive, send
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.journals import lost_assets
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.objects import open_objects
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds())


@pytest.fixture(scope="module")
def alone(project: Project) -> Path:
    """The tiles of the engine `local`."""
    infer(infer_run(project, project.root / "alone"))
    return project.root / "alone"


@pytest.fixture
def job(project: Project, alone: Path, tmp_path: Path) -> MapJob:
    run = infer_run(project, tmp_path / "home")
    area, scenes = project.path(project.config.map.area), freeze_map_scenes(project, Silent())
    return MapJob(project, read_plan(alone), area, scenes, run.upstream["finetune"].folder, run.out, keys_of(alone))


def keys_of(folder: Path) -> dict[str, str]:
    """As the records of its tiles have them."""
    return {
        tile.name: TileRecord.model_validate_json((folder / f"{tile.name}.json").read_bytes()).key
        for tile in read_plan(folder).tiles
    }


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "bench")
    yield found
    found.close().result()
    assert not (tmp_path / "bench").exists(), "nothing stays on a worker's disk"


def test_tiles_of_a_bench_are_those_of_this_machine(job: MapJob, alone: Path, bench: Bench, tmp_path: Path) -> None:
    order = send(job, str(tmp_path / "exchange"), "run")
    done = bench.compute(Batch(order, tuple(job.plan.tiles), job.keys))
    assert done.computed == len(done.outcomes) == len(job.plan.tiles)
    for outcome in done.outcomes:
        assert outcome.record is not None
        assert bring_home(open_objects(order.exchange), order, outcome.record, outcome.name, job)
    tiles = {name: digest for name, digest in checksums(alone).items() if name not in ("plan.json", "scenes.json")}
    assert checksums(job.out) == tiles
    again = bench.compute(Batch(order, tuple(job.plan.tiles), job.keys))
    assert (again.computed, len(again.outcomes)) == (0, len(job.plan.tiles)), "what lies there is not computed again"


def test_what_decides_no_pixel_is_no_reason_to_compute_again(job: MapJob, tmp_path: Path) -> None:
    exchange = str(tmp_path)
    order = send(job, exchange, "run")
    config = job.project.config
    renamed = replace(job, project=Project(job.project.root, config.model_copy(update={"name": "other"})))
    assert send(renamed, exchange, "run").rule == order.rule
    imagery = config.imagery.model_copy(update={"composite": "first"})
    composed = replace(job, project=Project(job.project.root, config.model_copy(update={"imagery": imagery})))
    assert send(composed, exchange, "run").rule != order.rule
    assert send(replace(job, plan=job.plan.model_copy(update={"threads": 7})), exchange, "run").rule != order.rule


def test_a_place_where_no_folder_can_be_made_is_told(job: MapJob) -> None:
    with pytest.raises(StoreError, match=r"/proc/nope: no folder can be made there\. Check the place"):
        send(job, "/proc/nope", "run")


def test_a_full_disk_at_home_loses_nothing(job: MapJob, bench: Bench, tmp_path: Path) -> None:
    order = send(job, str(tmp_path / "exchange"), "run")
    tile = job.plan.tiles[0]
    [outcome] = bench.compute(Batch(order, (tile,), job.keys)).outcomes
    assert outcome.record is not None
    objects = open_objects(order.exchange)
    with full_disk(1000), pytest.raises(StoreError, match=r"the disk is full\. Finished work is kept"):
        bring_home(objects, order, outcome.record, tile.name, job)
    assert not any(path.is_file() for path in job.out.glob("*"))
    assert bring_home(objects, order, outcome.record, tile.name, job)


def test_a_full_disk_of_a_worker_publishes_nothing_half(job: MapJob, bench: Bench, tmp_path: Path) -> None:
    order = send(job, str(tmp_path / "exchange"), "run")
    batch = Batch(order, tuple(job.plan.tiles), job.keys)
    bench.compute(replace(batch, tiles=()))  # the job and the model are there
    with full_disk(1000), pytest.raises(StoreError, match="the disk is full"):
        bench.compute(batch)
    assert not list((tmp_path / "exchange" / "tiles").rglob("*.*"))
    assert bench.compute(batch).computed == len(job.plan.tiles)


def test_a_tile_counts_only_once_its_record_is_there(job: MapJob, alone: Path, tmp_path: Path) -> None:
    order, name = send(job, str(tmp_path / "exchange"), "run"), job.plan.tiles[0].name
    objects = open_objects(order.exchange)
    shutil.copy(alone / f"{name}.tif", job.out)
    publish(objects, order, job, name)  # as if the worker was killed just then
    assert published(objects, order, name) is None
    shutil.copy(alone / f"{name}.json", job.out)
    publish(objects, order, job, name)
    record = published(objects, order, name)
    assert record is not None

    objects.put(f"tiles/{order.rule}/{name}.tif", b"rotten")
    assert not bring_home(objects, order, record, name, job)
    assert published(objects, order, name) is None, "it is withdrawn, and made anew"
    assert not any(path.is_file() for path in job.out.glob("*"))


def test_assets_that_could_not_be_read_are_told_at_home(project: Project, tmp_path: Path, bench: Bench) -> None:
    ours = small_project(tmp_path / "damaged")
    asset = next((ours.root / "imagery").rglob("*B03*.tif"))
    run = infer_run(ours, tmp_path / "local")
    asset.write_bytes(b"no image")
    summary = infer(run)
    assert len(summary["failed_assets"]) == 1
    home = infer_run(ours, tmp_path / "home")
    model = home.upstream["finetune"].folder
    job = MapJob(
        ours, read_plan(run.out), ours.path("area.geojson"), home.files["scenes"], model, home.out, keys_of(run.out)
    )
    order = send(job, str(tmp_path / "exchange"), "run")
    for outcome in bench.compute(Batch(order, tuple(job.plan.tiles), job.keys)).outcomes:
        assert outcome.record is not None
        assert bring_home(open_objects(order.exchange), order, outcome.record, outcome.name, job)
    assert [failure.asset for failure in lost_assets(job.scratch)] == [summary["failed_assets"][0]["asset"]]


def refused(order: Order, folder: Path) -> str:
    with pytest.raises((MappingError, StoreError, CheckpointError)) as error:
        receive(order, folder)
    return str(error.value)


def test_what_a_worker_refuses(job: MapJob, tmp_path: Path) -> None:
    order = send(job, str(tmp_path / "exchange"), "run")
    assert "Install the same version" in refused(replace(order, version=1), tmp_path / "a")
    assert "set s3://bucket/prefix" in refused(replace(order, exchange=str(tmp_path / "nowhere")), tmp_path / "b")
    assert "Put imagery on S3 or https" in refused(replace(order, root="/no/such/place"), tmp_path / "c")
    file = max((tmp_path / "exchange" / "files").iterdir(), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    assert "is not what was sent" in refused(order, tmp_path / "d")


def test_a_folder_keeps_what_it_is_given(tmp_path: Path) -> None:
    objects = open_objects(str(tmp_path / "x"))
    assert objects.get("a/b") is None
    objects.put("a/b", b"one")
    objects.put("a/b", b"two")
    assert objects.get("a/b") == b"two"
    assert (objects.size("a/b"), objects.size("a/c"), objects.size("a/b/c")) == (3, None, None)
    objects.remove("a/b")
    objects.remove("a/b")
    assert objects.get("a/b") is None


def test_a_folder_takes_and_gives_files(tmp_path: Path) -> None:
    objects = open_objects((tmp_path / "of all").as_uri())
    (tmp_path / "source").write_bytes(b"one")
    objects.put("a/b", tmp_path / "source")
    assert not objects.copy("a/c", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert objects.copy("a/b", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"one" == (tmp_path / "of all" / "a" / "b").read_bytes()


def test_another_kind_of_place_is_refused() -> None:
    with pytest.raises(StoreError, match=r"gs://bucket/x: cannot be used; it must be a folder, or s3://"):
        open_objects("gs://bucket/x")
