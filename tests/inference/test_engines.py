"""Every engine makes the same map; workers may be lost at any time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smallmap import checksums, clouds, infer_run, small_project
from zonemap import ZONES, zone_project

from olmoearth_core.errors import CheckpointError, MappingError
from olmoearth_core.inference.engines import LOSSES, Ledger
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.plan import Plan, Tile, batch_sizes, read_plan
from olmoearth_core.inference.processes import Processes
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.inference.worker import Outcome
from olmoearth_core.project import Project

RECORD = TileRecord(key="0", sha256="0", windows_seen=1, area_pixels=1, class_pixels=[1])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds(), tile_size=64)


@pytest.fixture(scope="module")
def alone(project: Project) -> dict[str, str]:
    """The tiles of the engine `local`."""
    infer(infer_run(project, project.root / "alone"))
    return checksums(project.root / "alone")


class Killing:
    """An engine of two processes, of which one is killed as soon as a tile is told."""

    def __init__(self, count: int = 2) -> None:
        self.engine, self.killed = Processes(count), 0

    def __call__(self, job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        for outcome in self.engine(job, tiles):
            yield outcome
            if not self.killed:
                self.killed = children()[0]
                os.kill(self.killed, signal.SIGKILL)


def children() -> list[int]:
    """The engine's processes (and not Python's resource tracker)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            command, parent = path.with_name("cmdline").read_bytes(), int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return sorted(found)


def test_processes_make_the_same_bytes(project: Project, alone: dict[str, str], tmp_path: Path) -> None:
    infer(replace(infer_run(project, tmp_path), engine=Processes(2)))
    assert checksums(tmp_path) == alone
    assert not children()


def test_processes_make_the_same_bytes_in_two_zones(tmp_path: Path) -> None:
    project = zone_project(tmp_path / "project", tile_size=256)
    one, two = tmp_path / "one", tmp_path / "two"
    infer(infer_run(project, one))
    infer(replace(infer_run(project, two), engine=Processes(2)))
    assert read_plan(two).zones == ZONES
    assert checksums(two) == checksums(one)


def test_a_killed_process_loses_only_its_tiles(project: Project, alone: dict[str, str], tmp_path: Path) -> None:
    engine = Killing()
    infer(replace(infer_run(project, tmp_path), engine=engine))
    assert engine.killed
    assert checksums(tmp_path) == alone
    assert not children()


def test_an_error_of_a_process_is_told_as_of_this_one(project: Project, tmp_path: Path) -> None:
    run = infer_run(project, tmp_path)
    weights = project.root / "models" / "small" / "weights.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-8])
        with pytest.raises(CheckpointError):
            infer(replace(run, engine=Processes(2)))
    finally:
        weights.write_bytes(content)
    assert not children()


def test_who_stops_listening_leaves_no_process(project: Project, tmp_path: Path) -> None:
    run = infer_run(project, tmp_path)

    def first_only(job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        for outcome in Processes(2)(job, tiles):
            yield outcome
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(replace(run, engine=first_only))
    assert not children()
    assert len(list(tmp_path.glob("*.json"))) > 2, "the finished tile is kept"


def test_the_plan_is_made_for_the_device_of_the_engine(project: Project, tmp_path: Path) -> None:
    class Elsewhere:
        device = "cuda"
        plans: ClassVar[list[Plan]] = []

        def __call__(self, job: MapJob, tiles: Sequence[Tile]) -> Iterator[Outcome]:
            self.plans.append(job.plan)
            raise MappingError("enough")

    with pytest.raises(MappingError, match="enough"):
        infer(replace(infer_run(project, tmp_path), engine=Elsewhere()))
    [plan] = Elsewhere.plans
    assert plan.device == "cuda"
    assert plan.batch_sizes == batch_sizes(2, 16, 4, "cuda")


def tiles(count: int) -> list[Tile]:
    return [Tile(**{**dict.fromkeys(Tile.model_fields, 0), "name": f"t{k}", "crs": "EPSG:32631"}) for k in range(count)]


STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["take", "tell", "tell", "lose"])), max_size=120)


@settings(deadline=None)
@given(STEPS)
def test_every_tile_is_told_once_whatever_happens(steps: list[tuple[int, str]]) -> None:
    ledger, told = Ledger(tiles(12)), []
    held: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for worker, what in steps:
        if what == "take":
            held[worker] += [tile.name for tile in ledger.take(worker, 2)]
        elif what == "tell" and held[worker]:
            outcome = ledger.tell(worker, Outcome(held[worker].pop(), RECORD))
            assert outcome is not None
            told.append(outcome.name)
        elif what == "lose" and held[worker]:
            try:
                told += [outcome.name for outcome in ledger.lose(worker)]
            except MappingError:
                return
            held[worker] = []
        assert [ledger.holds(worker) for worker in held] == [bool(names) for names in held.values()]
    for worker, names in held.items():
        told += [ledger.tell(worker, Outcome(name, RECORD)).name for name in names]  # type: ignore[union-attr]
    while not ledger.over:
        told += [ledger.tell(9, Outcome(tile.name, RECORD)).name for tile in ledger.take(9, 2)]  # type: ignore[union-attr]
    assert sorted(told) == sorted(tile.name for tile in tiles(12))


def test_a_tile_that_kills_its_workers_is_given_up_and_the_rest_is_made() -> None:
    ledger, told, given_up = Ledger(tiles(6)), [], []
    for worker in range(100):
        if ledger.over:
            break
        taken = ledger.take(worker, 3)
        names = [tile.name for tile in taken]
        if "t1" in names:
            given_up += ledger.lose(worker)
            continue
        told += [ledger.tell(worker, Outcome(name, RECORD)).name for name in names]  # type: ignore[union-attr]
    assert [(outcome.name, outcome.record) for outcome in given_up] == [("t1", None)]
    assert f"{LOSSES} workers were killed" in given_up[0].reason
    assert sorted(told) == ["t0", "t2", "t3", "t4", "t5"]


def test_workers_that_all_die_at_once_end_the_run() -> None:
    ledger = Ledger(tiles(50))

    def go_on() -> None:
        for worker in range(100):
            ledger.take(worker, 1)
            ledger.lose(worker)

    with pytest.raises(MappingError, match="one after the other"):
        go_on()
