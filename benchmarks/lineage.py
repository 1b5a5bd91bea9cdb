"""Seconds from a map's file alone to its whole lineage, in a registry (PostgreSQL) with more and more maps.

    python benchmarks/lineage.py [--maps 100,1000,10000]

Prints JSON and keeps it. The commands are whole processes on a machine that has nothing but the registry's URL. Ten
thousand maps are a million tiles and a million links to scenes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("benchmarks", "tests", "tests/registry"))
import harness
import manymaps
from manymaps import SCENES, TILES, ManyMaps
from pgdatabase import new_postgres_database

from registry.audit.audit import audit, lineage
from registry.workspace import Workspace

REPEATS = 5


def measure(many: ManyMaps, folder: Path) -> dict[str, Any]:
    """Median seconds of each question, asked in a process that runs, and of the whole commands."""
    path = manymaps.write_map(many, folder / "map.tif")
    workspace = Workspace.at(folder / "home", registry_url=many.url)
    labels, encoder = manymaps.digest(f"label file {many.labels} 1"), manymaps.digest(f"checkpoint {many.encoder}")
    questions: dict[str, Callable[[], Any]] = {
        "lineage of a file": lambda: lineage(workspace, path),
        "audit of a file": lambda: audit(workspace, path),
        "scene to maps": lambda: lineage(workspace, "S2A_77"),
        "labels to maps": lambda: lineage(workspace, labels),
        "base encoder to maps": lambda: lineage(workspace, encoder),
        "olmoearth lineage": lambda: _command(many, "lineage", path, folder),
        "olmoearth audit": lambda: _command(many, "audit", path, folder),
    }
    wall, _ = harness.interleave(questions, repeats=REPEATS)
    return {name: round(statistics.median(seconds), 3) for name, seconds in wall.items()}


def _command(many: ManyMaps, name: str, path: Path, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OLMOEARTH_", "MLFLOW_"))}
    environment |= {"OLMOEARTH_HOME": str(folder / "empty"), "OLMOEARTH_REGISTRY_URL": many.url}
    call = [sys.executable, "-c", "from flows.cli import main; main()", name, str(path), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert json.loads(done.stdout)["verdict"] in ("recorded", "incomplete"), done.stderr


def main() -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", default="100,1000,10000")
    counts = [int(count) for count in parser.parse_args().maps.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_RUNTIME_DIR"] = temporary  # pgserver warns where there is none
        import pgserver

        server = pgserver.get_server(Path(temporary) / "data", cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
        for count in counts:
            start = time.perf_counter()
            many = manymaps.fill(new_postgres_database(url), count)
            filled = round(time.perf_counter() - start, 1)
            folder = Path(temporary) / str(count)
            folder.mkdir()
            rows.append({"maps": count, "seconds to fill": filled, **measure(many, folder)})
            print(json.dumps(rows[-1]), flush=True)
        server.cleanup()
    harness.write("lineage", rows)
    names = [name for name in rows[0] if name not in ("maps", "seconds to fill")]
    cells = [
        [f"{row['maps'] * n:,}" for n in (1, TILES, SCENES)] + [f"{row[name]:.2f}" for name in names] for row in rows
    ]
    table = harness.markdown(["maps", "tiles", "scene links", *names], cells)
    text = (
        "Seconds, median of five. From a map's file and the registry's URL alone (PostgreSQL) to everything that made "
        "it and was made from it. The last two columns are whole commands in a fresh process, most of which is Python "
        f"importing. The goal: under 2 s.\n\n{table}"
    )
    harness.put_section("lineage", "Lineage among many maps", text)


if __name__ == "__main__":
    main()
