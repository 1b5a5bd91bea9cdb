"""Tile events a second into PostgreSQL (benchmarks/registry_events.py): small here, at its goal under `verify`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pgdatabase import new_postgres_database


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark; its writers are processes that import it, too."""
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    monkeypatch.setenv("PYTHONPATH", folder, prepend=":")
    monkeypatch.syspath_prepend(folder)
    import registry_events

    yield registry_events
    del sys.modules["registry_events"]


def test_batches_of_several_writers_are_one_chain(benchmark: Any, postgres_server: str) -> None:
    found = benchmark.measure(new_postgres_database(postgres_server), writers=2, batch=100, tiles=1000)
    assert (found["tiles"], found["intact"]) == (1000, True)
    assert found["rate"] > 0


@pytest.mark.verify
def test_two_thousand_tile_events_a_second(
    benchmark: Any, postgres_server: str, record_property: Callable[[str, object], None]
) -> None:
    found = benchmark.measure(new_postgres_database(postgres_server), writers=10, batch=500, tiles=50_000)
    for name, value in found.items():
        record_property(name, value)
    assert found["intact"]
    assert found["rate"] >= benchmark.GOAL
