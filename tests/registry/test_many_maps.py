"""The lineage from a file alone among very many maps: few queries, each by an index, and an answer at once.

Small here (100 maps, 10,000 tiles, 10,000 scene links), in full where marked `verify`: 10,000 maps, 1,000,000 of each.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import manymaps
import pytest
import rasterio
from manymaps import ManyMaps
from pgdatabase import new_postgres_database
from sqlalchemy import create_engine, event, make_url, text

from registry.audit.audit import audit, lineage
from registry.audit.report import AuditReport
from registry.errors import DatabaseError
from registry.workspace import Workspace

LARGE = ("tiles", "map_scenes", "products", "maps")
MOST_QUERIES = 22
"""Of one lineage, the two that look at the schema's version among them."""
MOST_SECONDS = 2.0


@pytest.fixture(scope="module")
def few(postgres_server: str) -> ManyMaps:
    return manymaps.fill(new_postgres_database(postgres_server), 100)


@pytest.fixture(scope="module")
def many(postgres_server: str) -> ManyMaps:
    return manymaps.fill(new_postgres_database(postgres_server), 10_000)


@contextmanager
def queries() -> Iterator[list[tuple[str, Any]]]:
    """Every query of any engine, with its parameters."""
    from sqlalchemy import Engine

    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def scanned(many: ManyMaps, asked: list[tuple[str, Any]], *, real: bool) -> dict[str, list[str]]:
    """Query -> the large tables that PostgreSQL reads from end to end for it.

    `real` asks for the plans as they are; else for those where a table is read whole only if no index serves, as small
    tables are read whole in any case.
    """
    engine = create_engine(many.url)
    found = {}
    with engine.connect() as connection:
        if not real:
            connection.execute(text("SET enable_seqscan = off"))
        for statement, parameters in asked:
            (plan,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalars()
            whole = [name for name in _whole(plan[0]["Plan"]) if name in LARGE]
            if whole:
                found[statement] = whole
    engine.dispose()
    return found


def _whole(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] in ("Seq Scan", "Parallel Seq Scan"):
        yield plan["Relation Name"]
    for part in plan.get("Plans", []):
        yield from _whole(part)


def stripped(path: Path, copy: Path) -> Path:
    with rasterio.open(path) as source, rasterio.open(copy, "w", **{**source.profile, "compress": "deflate"}) as target:
        target.write(source.read())
    return copy


def piece(path: Path, copy: Path) -> Path:
    """The upper left corner, with the tags of the whole."""
    with rasterio.open(path) as source:
        pixels, tags, profile = source.read()[:, :16, :16], source.tags(), source.profile
    with rasterio.open(copy, "w", **{**profile, "width": 16, "height": 16}) as target:
        target.write(pixels)
        target.update_tags(**tags)
    return copy


def things(many: ManyMaps, folder: Path) -> dict[str, str]:
    """One thing of each kind, and every way of finding a map -> its kind."""
    path = manymaps.write_map(many, folder / "map.tif")
    digest: Callable[[str], str] = manymaps.digest
    return {
        str(path): "map",
        str(stripped(path, folder / "stripped.tif")): "map",
        str(piece(path, folder / "piece.tif")): "map",
        f"map-{many.whole}": "map",
        digest(f"tile {many.whole} 7"): "map",
        f"{many.project}/{many.model}": "model",
        digest(f"weights {many.model}"): "model",
        digest(f"preprocess {many.dataset}")[:16]: "dataset",
        "S2A_77": "scene",
        digest(f"label file {many.labels} 1"): "labels",
        digest(f"checkpoint {many.encoder}"): "encoder",
    }


def look(many: ManyMaps, thing: str, home: Path) -> tuple[AuditReport, list[tuple[str, Any]]]:
    with queries() as asked:
        report = lineage(Workspace.at(home, registry_url=many.url), thing)
    return report, asked


def prove_queries(many: ManyMaps, folder: Path, *, real: bool) -> dict[str, AuditReport]:
    """Every thing is found, by few queries, none of which reads a large table from end to end."""
    reports = {}
    for thing, kind in things(many, folder).items():
        report, asked = look(many, thing, folder / "home")
        assert report.subject is not None, report.sentence
        assert report.subject.kind == kind
        assert report.verdict == "recorded", report.sentence
        assert len(asked) <= MOST_QUERIES, [statement for statement, _ in asked]
        assert scanned(many, asked, real=real) == {}, thing
        reports[kind] = report
    return reports


def test_every_query_is_served_by_an_index(few: ManyMaps, tmp_path: Path) -> None:
    reports = prove_queries(few, tmp_path, real=False)
    made, model = reports["map"], reports["model"]
    assert made.map is not None
    assert made.touched is not None
    assert (made.map.tiles, len(made.map.scenes), len(made.map.products)) == (100, 100, 10)
    assert [run.stage for run in made.runs or []] == ["postprocess", "infer", "finetune", "preprocess", "export"]
    assert made.dataset is not None
    assert len(made.dataset.scenes) == 200
    assert model.touched is not None
    assert [line.model for line in model.touched.maps] == [f"{few.project}/{few.model}"] * 25
    for kind in ("labels", "encoder"):
        touched = reports[kind].touched
        assert touched is not None
        assert len(touched.maps) == 100  # a hundred maps have one of each


def test_more_maps_ask_no_more_queries(few: ManyMaps, tmp_path: Path, postgres_server: str) -> None:
    fewer = manymaps.fill(new_postgres_database(postgres_server), 50)
    counts = [len(look(one, "S2A_77", tmp_path)[1]) for one in (fewer, few)]
    counts += [len(look(one, f"map-{one.whole}", tmp_path)[1]) for one in (fewer, few)]
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]


def command(many: ManyMaps, name: str, thing: Path, home: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds, seconds of a core, and answer of a whole command where nothing is but the registry's URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OLMOEARTH_", "MLFLOW_"))}
    environment |= {"OLMOEARTH_HOME": str(home), "OLMOEARTH_REGISTRY_URL": many.url}
    call = [sys.executable, "-c", "from flows.cli import main; main()", name, str(thing), "--json"]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment, cwd=home)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == (0 if name == "lineage" else 1), done.stderr + done.stdout
    return seconds, core, json.loads(done.stdout)


def prove_alone(many: ManyMaps, folder: Path) -> dict[str, tuple[float, float]]:
    """From a file alone: the whole lineage, and what could not be verified; seconds, and of a core, by command."""
    path = manymaps.write_map(many, folder / "published.tif")
    home = folder / "empty"
    home.mkdir()
    seconds = {}
    for name, verdict in (("lineage", "recorded"), ("audit", "incomplete")):
        tries = [command(many, name, path, home) for _ in range(3)]
        seconds[name] = min(wall for wall, _, _ in tries), min(core for _, core, _ in tries)
        answer = tries[0][2]
        assert answer["verdict"] == verdict
        assert len(answer["map"]["scenes"]) == 100
        assert [run["stage"] for run in answer["runs"]][-1] == "export"
    missing = {check["what"] for check in answer["checks"] if check["status"] == "missing"}
    assert missing == {"products", "tiles", "model files", "dataset", "export", "model version (MLflow)"}
    assert list(home.iterdir()) == []
    return seconds


def test_a_file_alone_tells_its_lineage(few: ManyMaps, tmp_path: Path) -> None:
    prove_alone(few, tmp_path)


def test_who_may_only_read_may_audit(few: ManyMaps, tmp_path: Path) -> None:
    """And whoever may not even read gets a sentence, never a verdict."""
    path = manymaps.write_map(few, tmp_path / "map.tif")
    engine = create_engine(few.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "CREATE ROLE reader LOGIN PASSWORD 'r'",
            "CREATE ROLE stranger LOGIN PASSWORD 's'",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        ):
            connection.execute(text(statement))
    engine.dispose()
    urls = [make_url(few.url).set(username=name, password="x") for name in ("reader", "stranger")]
    reader, stranger = (url.render_as_string(hide_password=False) for url in urls)
    assert audit(Workspace.at(tmp_path / "home", registry_url=reader), path).verdict == "incomplete"
    with pytest.raises(DatabaseError, match=r"permission denied"):
        audit(Workspace.at(tmp_path / "home", registry_url=stranger), path)


@pytest.mark.verify
def test_lineage_among_a_million_tiles(
    many: ManyMaps, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """10,000 maps, 1,000,000 tiles, 1,000,000 scene links: at once, and with the plans that PostgreSQL really takes."""
    engine = create_engine(many.url)
    with engine.connect() as connection:
        counts = {name: connection.scalar(text(f"SELECT count(*) FROM {name}")) for name in LARGE}
    engine.dispose()
    assert counts == {"maps": 10_000, "tiles": 1_000_000, "map_scenes": 1_000_000, "products": 100_000}
    prove_queries(many, tmp_path, real=True)
    seconds = prove_alone(many, tmp_path)
    start = time.perf_counter()
    report = audit(Workspace.at(tmp_path / "home", registry_url=many.url), tmp_path / "published.tif")
    record_property("seconds in a process that runs", round(time.perf_counter() - start, 3))
    assert report.verdict == "incomplete"
    for name, (wall, core) in seconds.items():
        record_property(f"seconds of the whole command {name}", round(wall, 2))
        record_property(f"seconds of a core of the whole command {name}", round(core, 2))
    start = time.perf_counter()
    withdrawn = lineage(Workspace.at(tmp_path / "home", registry_url=many.url), "S2A_77")
    record_property("seconds from a scene to its maps", round(time.perf_counter() - start, 3))
    assert withdrawn.touched is not None
    record_property("maps touched by the scene", len(withdrawn.touched.maps))
    shown = "SELECT count(*) FROM map_scenes WHERE scene_id = (SELECT id FROM scenes WHERE name = 'S2A_77')"
    engine = create_engine(many.url)
    with engine.connect() as connection:
        assert sum(line.through == "imagery" for line in withdrawn.touched.maps) == connection.scalar(text(shown))
    engine.dispose()
    assert max(wall for wall, _ in seconds.values()) < MOST_SECONDS
