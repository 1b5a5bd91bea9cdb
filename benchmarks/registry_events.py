"""Tile events into PostgreSQL: many processes write batches of tiles, each batch one event of the chain.

    python benchmarks/registry_events.py [TILES OF EACH ROW, by default 20000]

A real server (pgserver's wheel, its defaults: every commit is flushed). Seconds count from the moment at which all
writers stand ready to the end of the last; afterwards every event and every row is verified.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import harness

from registry.chain.verify_chain import check_events, check_rows, read_chain
from registry.recording import write_tiles
from registry.tables import schema
from registry.tables.database import Database, find_or_add

GOAL = 2000
"""Tile events a second, on two cores."""
CASES = ((1, 500), (2, 500), (10, 100), (10, 500), (10, 1000))
"""(writers, tiles of a batch)."""


def main() -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with server() as url:
        rows = [measure(url, writers, batch, tiles) for writers, batch in CASES]
    harness.write("registry", rows, goal=GOAL)
    table = harness.markdown(
        ["writers", "tiles a batch", "tiles", "tiles/s", "goal", "verified, rows/s", "chain"],
        [
            [
                str(row["writers"]),
                str(row["batch"]),
                f"{row['tiles']:,}",
                f"{row['rate']:,.0f}",
                f"{GOAL:,}",
                f"{row['verified']:,.0f}",
                "intact" if row["intact"] else "BROKEN",
            ]
            for row in rows
        ],
    )
    harness.put_section("registry", "Registry: tile events into PostgreSQL", table)


@contextmanager
def server() -> Iterator[str]:
    """A PostgreSQL server of its own; its URL."""
    with tempfile.TemporaryDirectory(prefix="olmoearth-bench-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        import pgserver

        started = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield started.get_uri().replace("postgresql://", "postgresql+psycopg2://")
        started.cleanup()


def measure(url: str, writers: int, batch: int, tiles: int) -> dict[str, Any]:
    """Write about `tiles` tiles by `writers` processes in batches, then verify all that the registry holds."""
    database = Database(url)
    maps = [_make_map(database, f"{writers}-{batch}-{k}") for k in range(writers)]
    batches = max(1, tiles // writers // batch)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(writers + 1)
    running = [context.Process(target=write, args=(url, made, batches, batch, ready)) for made in maps]
    for process in running:
        process.start()
    ready.wait()
    begun = time.perf_counter()
    for process in running:
        process.join()
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    with database.read() as session:
        read = read_chain(session)
        checks = [check_events(read), check_rows(session, read)]
        rows = int(checks[1].detail.split()[0]) if checks[1].status == "ok" else 0
    verifying = time.perf_counter() - begun
    database.close()
    written = writers * batches * batch
    return {
        "writers": writers,
        "batch": batch,
        "tiles": written,
        "seconds": seconds,
        "rate": written / seconds,
        "verified": rows / verifying,
        "intact": all(check.status == "ok" for check in checks) and not any(p.exitcode for p in running),
    }


def write(url: str, made: int, batches: int, batch: int, ready: Any) -> None:
    """One writer."""
    database = Database(url)
    ready.wait()
    for k in range(batches):
        some = tiles_of(made, k * batch, batch)
        database.transact(lambda session, some=some: write_tiles(session, made, None, some), "tiles", map=made)  # type: ignore[misc]
    database.close()


def tiles_of(made: int, first: int, count: int) -> list[dict[str, Any]]:
    """Tiles as a map has them: each with a key and a checksum of its own."""
    return [
        {"name": f"{k:06d}.tif", "key": f"{made:032x}{k:032x}", "sha256": f"{k:032x}{made:032x}", "bytes": 100_000 + k}
        for k in range(first, first + count)
    ]


def _make_map(database: Database, name: str) -> int:
    now = datetime.now(UTC)
    with database.write("map", map=name) as session:
        project = find_or_add(session, schema.Project, {"name": "bench"}, {"created": now})
        key: dict[str, Any] = {"project_id": project.id, "stage": "infer", "key": "k", "invocation": ""}
        shown = {"status": "found", "digest": "d", "stage_version": 1, "settings": {}, "inputs": {}, "summary": {}}
        run = find_or_add(session, schema.Run, key, {**shown, "project_folder": "/p", "folder": "t", "recorded": now})
        values = {"run_id": run.id, "date": date(2026, 1, 1), "created": now}
        return find_or_add(session, schema.Map, {"project_id": project.id, "name": name, "digest": name}, values).id


if __name__ == "__main__":
    main()
