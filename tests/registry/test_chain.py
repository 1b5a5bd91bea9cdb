"""The chain: every row that is written has an event; whatever is changed past the platform is found and named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from pgdatabase import new_postgres_database
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.orm import Session

from registry.audit.audit import audit
from registry.audit.report import Check
from registry.chain import merkle
from registry.chain.ledger import COVERED, event_hash, plain
from registry.chain.verify import verify_workspace
from registry.chain.verify_chain import check_events, check_rows, check_rows_of, read_chain
from registry.tables import schema
from registry.tables.database import Database, add_missing, change, find_or_add, migration_config
from registry.workspace import Workspace

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A registry with a project, two models and a map of 1,500 tiles, more than an event names; stays as it is."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'registry.db'}"
    else:
        url = new_postgres_database(request.getfixturevalue("postgres_server"))
    database = Database(url)
    fill(database)
    yield database
    database.close()


def fill(database: Database) -> None:
    """A few rows in every kind of event."""
    with database.write("project", project="p") as session:
        project = find_or_add(session, schema.Project, {"name": "p"}, {"created": NOW})
        run = find_or_add(session, schema.Run, {"project_id": project.id, "stage": "infer", **RUN}, {})
    with database.write("finetune", project="p") as session:
        for k in range(2):
            find_or_add(session, schema.ModelVersion, {"project_id": project.id, "digest": str(k)}, model(run.id))
    with database.write("postprocess", map="p-1") as session:
        key = {"project_id": project.id, "name": "p-1", "digest": "d"}
        made = find_or_add(session, schema.Map, key, {"run_id": run.id, "date": NOW.date(), "created": NOW})
        add_missing(session, schema.Tile, tiles(made.id, 1500))
        product = {"map_id": made.id, "name": "map.tif", "sha256": "5", "bytes": 2**40, "pixels_sha256": None}
        add_missing(session, schema.Product, [product])


RUN: dict[str, Any] = {
    "key": "k",
    "invocation": "i",
    "status": "computed",
    "digest": "d",
    "stage_version": 1,
    "settings": {"lr": 1e-5, "big": 1e20, "zero": -0.0, "text": "é\U0001f30d", "deep": [1.0, None, {"a": True}]},
    "inputs": {},
    "summary": {},
    "project_folder": "/p",
    "folder": "tiles/k",
    "recorded": NOW,
    "wall_seconds": 2.0,
}


def model(run: int) -> dict[str, Any]:
    """Columns of a model version."""
    named = {"encoder": "e", "base": {}, "metrics": {"miou": 0.1 + 0.2}, "mlflow_name": "p", "mlflow_version": "1"}
    return {"run_id": run, "weights_sha256": "w", **named, "created": NOW}


def tiles(made: int, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of tiles."""
    return [
        {"map_id": made, "name": f"{k:05d}.tif", "key": None, "run_id": None, "sha256": f"{k:064x}", "bytes": k}
        for k in range(first, first + count)
    ]


def checks(database: Database) -> tuple[Check, Check]:
    """Events and rows."""
    with database.read() as session:
        read = read_chain(session)
        return check_events(read), check_rows(session, read)


def problems(session: Session) -> list[str]:
    """All that differs."""
    read = read_chain(session)
    return [problem for check in (check_events(read), check_rows(session, read)) for problem in check.problems]


@contextmanager
def tampered(database: Database, *statements: str) -> Iterator[Session]:
    """What is seen after somebody changed rows past the platform; then they are as before."""
    with database.engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        yield Session(connection)
        connection.rollback()


def test_untouched_rows_are_vouched_for(filled: Database) -> None:
    events, rows = checks(filled)
    assert (events.status, rows.status) == ("ok", "ok"), (events, rows)
    assert events.detail == "3 events follow from each other, to the head of the chain"
    assert rows.detail == "1506 rows are as 3 events wrote them"
    fill(filled)
    assert checks(filled)[0] == events, "writing nothing new adds no event"


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE projects SET name = 'q'", "projects 1: the row is not as event 1 (project of p) wrote it"),
        ("UPDATE runs SET wall_seconds = 3", "runs 1: the row is not as event 1 (project of p) wrote it"),
        ("UPDATE runs SET who = 'me'", "runs 1: the row is not as event 1 (project of p) wrote it"),
        (
            "DELETE FROM model_versions WHERE id = 2",
            "model_versions 2: the row is gone; event 2 (finetune of p) wrote it",
        ),
        ("UPDATE model_versions SET event = NULL WHERE id = 1", "model_versions 1: no event wrote this row"),
        ("UPDATE model_versions SET event = 7 WHERE id = 1", "model_versions 1: no event wrote this row"),
        (
            "UPDATE products SET bytes = 3",
            "products 1/map.tif: the row is not as event 3 (postprocess of p-1) wrote it",
        ),
        ("DELETE FROM products", "products 1/map.tif: the row is gone; event 3 (postprocess of p-1) wrote it"),
        (
            "UPDATE tiles SET sha256 = 'x' WHERE name = '00007.tif'",
            "tiles: some of the 1500 rows that event 3 (postprocess of p-1) wrote are not as it wrote them",
        ),
        (
            "DELETE FROM tiles WHERE name = '00007.tif'",
            "tiles: event 3 (postprocess of p-1) wrote 1500 rows, 1499 are there",
        ),
        (
            "INSERT INTO tiles (map_id, name, sha256, bytes, event) SELECT 1, 'new.tif', 'x', 1, event FROM maps",
            "tiles: event 3 (postprocess of p-1) wrote 1500 rows, 1501 are there",
        ),
        (
            "INSERT INTO scenes (catalogue, modality, name, acquired, event) "
            "SELECT 'c', 'm', 'n', '2026-01-01', event FROM maps",
            "scenes 1: the row says that event 3 (postprocess of p-1) wrote it; it did not",
        ),
        (
            "INSERT INTO projects (name, created, event) SELECT 'q', '2026-01-01', event FROM projects",
            "projects 2: the row says that event 1 (project of p) wrote it; it did not",
        ),
    ],
)
def test_a_row_that_was_touched_past_the_platform_is_named(filled: Database, statement: str, named: str) -> None:
    with tampered(filled, statement) as session:
        assert named in problems(session)
        everything: list[schema.Base] = [
            row
            for table in (schema.Project, schema.Run, schema.ModelVersion, schema.Map, schema.Scene)
            for row in session.scalars(select(table))
        ]
        assert named in check_rows_of(session, everything).problems, "found without reading all of the registry"


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["DELETE FROM events WHERE position = 2"], "event 2 was removed"),
        (["DELETE FROM events WHERE position = 3"], "event 3 was removed; the head of the chain says 3"),
        (["DELETE FROM events"], "events 1 to 3 were removed; the head of the chain says 3"),
        (["UPDATE events SET body = replace(body, 'finetune', 'nothing')"], "event 2 is not as it was written"),
        (["UPDATE events SET previous = 'x' WHERE position = 2"], "event 2 is not as it was written"),
        (["UPDATE chains SET hash = 'x'"], "the head of the chain is not its last event, 3"),
        (["UPDATE chains SET position = 2"], "the head of the chain is not its last event, 3"),
        (["DELETE FROM chains"], "the chain has no head: the row of the table chains is gone"),
        (
            ["DELETE FROM events WHERE position = 1", "UPDATE events SET position = position - 1"],
            "event 1 is not as it was written",
        ),
    ],
)
def test_an_event_that_was_touched_is_named(filled: Database, statements: list[str], named: str) -> None:
    with tampered(filled, *statements) as session:
        assert named in problems(session)


def test_an_event_that_was_exchanged_with_its_hash(filled: Database) -> None:
    """Whoever makes an event's hash anew breaks the one after it."""
    with tampered(filled) as session:
        body = session.scalars(select(schema.Event.body).where(schema.Event.position == 2)).one()
        forged = body.replace("finetune", "forgery!")
        values = {"body": forged, "hash": event_hash(forged)}
        session.connection().execute(update(schema.Event).where(schema.Event.position == 2).values(**values))
        assert "event 3 does not follow event 2: one of them was exchanged" in problems(session)


def test_an_empty_registry_is_not_called_verified_and_a_missing_one_not_made(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    for _ in ("missing", "empty"):
        (check,), head = verify_workspace(workspace)
        assert (check.status, head.position) == ("missing", 0)
        assert "nothing is recorded here" in check.detail
        assert audit(workspace, "shore-2024").verdict == "unknown"
        if not list(tmp_path.iterdir()):
            Database(workspace.registry_url).close()
    assert list(tmp_path.iterdir()), "the second time round there was an empty one"


def test_a_row_changed_by_the_platform(database_url: str) -> None:
    database = Database(database_url)
    fill(database)
    with database.write("model", project="p") as session:
        row = session.scalars(select(schema.ModelVersion).order_by(schema.ModelVersion.id).limit(1)).one()
        change(session, row, mlflow_version="7")
        change(session, row, mlflow_version="8")
        assert row.mlflow_version == "8"
    with database.write() as session:
        change(session, row, mlflow_version="8")
    events, rows = checks(database)
    assert (events.status, rows.status) == ("ok", "ok"), rows
    assert events.detail.startswith("4 events")
    with database.read() as session:
        assert check_rows_of(session, session.scalars(select(schema.ModelVersion))).status == "ok"
    with tampered(database, "UPDATE model_versions SET mlflow_version = '7' WHERE id = 1") as session:
        assert problems(session) == ["model_versions 1: the row is not as event 4 (model of p) wrote it"]
    database.close()


def test_rows_that_the_session_writes_are_refused(filled: Database) -> None:
    with pytest.raises(RuntimeError, match="add_missing"), filled.write() as session:
        session.add(schema.Project(name="q", created=NOW))
    with pytest.raises(RuntimeError, match="change"), filled.write() as session:
        session.scalars(select(schema.Project)).one().name = "q"
    with pytest.raises(RuntimeError, match="change"), filled.write() as session:
        session.delete(session.scalars(select(schema.Product)).one())
    assert checks(filled)[1].status == "ok"


def test_rows_of_an_old_database_are_taken_into_the_chain(database_url: str) -> None:
    """Of every table that the second schema had, with data, also more than one event takes in."""
    engine = create_engine(database_url)
    config = migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in OLD:
            connection.execute(text(statement))
        many = "INSERT INTO tiles VALUES (1, :name, 'a', 1)"
        connection.execute(text(many), [{"name": f"{k}.tif"} for k in range(6000)])
    engine.dispose()
    database = Database(database_url)
    events, rows = checks(database)
    assert (events.status, rows.status) == ("ok", "ok"), (events, rows)
    assert rows.detail.startswith("6010 rows")
    with database.read() as session:
        made = session.scalars(select(schema.Map)).one()
        assert made.model is not None
        assert (made.model.dataset.digest if made.model.dataset else None, made.model.base_encoder) == ("d", None)
        assert len(made.tiles) == 6000
        assert made.tiles[0].key is None
    database.close()
    again = Database(database_url)
    assert checks(again)[0].detail == events.detail
    with tampered(again, "UPDATE maps SET name = 'n'") as session:
        assert problems(session) == ["maps 1: the row is not as event 7 (adopted of maps) wrote it"]
    again.close()


OLD = (
    "INSERT INTO projects VALUES (1, 'p', '2024-01-01')",
    "INSERT INTO runs (project_id, stage, key, digest, stage_version, settings, inputs, summary, project_folder, "
    "folder, recorded, id, invocation, status) "
    "VALUES (1, 'preprocess', 'k', 'd', 1, '{\"a\": 1.50}', '{}', '{}', '/p', 'f', '2024-01-01', 1, '', 'found')",
    "INSERT INTO dataset_versions (id, project_id, run_id, digest, created) VALUES (1, 1, 1, 'd', '2024-01-01')",
    "INSERT INTO model_versions (id, project_id, run_id, dataset_id, digest, weights_sha256, encoder, base, metrics, "
    "mlflow_name, mlflow_version, created) VALUES (1, 1, 1, 1, 'm', 'w', 'e', '{}', '{}', 'p', '1', '2024-01-01')",
    "INSERT INTO maps (id, project_id, run_id, model_id, name, digest, date, created) "
    "VALUES (1, 1, 1, 1, 'p-1', 'd', '2024-01-01', '2024-01-01')",
    "INSERT INTO products VALUES (1, 'map.tif', 'a', 1, NULL)",
    "INSERT INTO scenes VALUES (1, 'c', 'm', 's', '2024-01-01', 7.0)",
    "INSERT INTO map_scenes VALUES (1, 1)",
    "INSERT INTO dataset_scenes VALUES (1, 1)",
    "INSERT INTO scenes VALUES (2, 'c', 'm', 't', '2024-01-01', NULL)",
)


def test_every_table_is_covered_but_the_chain_itself() -> None:
    left_out = set(schema.Base.metadata.tables) - {table.name for table in COVERED}
    assert left_out == {"chains", "events", "replacements"}


def test_the_root_of_a_tree_is_that_of_rfc_6962() -> None:
    """By hand for three leaves; the order of rows does not matter, their number and content do."""
    import hashlib

    a, b, c = sorted(merkle.leaf(name) for name in (b"a", b"b", b"c"))
    pair = hashlib.sha256(b"\x01" + a + b).digest()
    assert merkle.root([c, a, b]) == hashlib.sha256(b"\x01" + pair + c).hexdigest()
    assert merkle.root([a]) == a.hex()
    assert merkle.root([]) == hashlib.sha256(b"").hexdigest()
    roots = {merkle.root(merkle.leaf(bytes([k])) for k in range(n)) for n in range(20)}
    assert len(roots) == 20


def test_numbers_are_told_alike_however_a_database_keeps_them() -> None:
    assert plain({"a": [1.0, 1e20, -0.0, 0.5, True]}) == {"a": [1, 10**20, 0, 0.5, True]}
    assert isinstance(plain(2.0), int)
