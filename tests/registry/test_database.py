"""The database: schema by migration on SQLite and PostgreSQL, clear faults, no doubled rows."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.engine import make_url

from registry.errors import DatabaseError
from registry.tables import schema
from registry.tables.database import VERSION_TABLE, Database, add_missing, find_or_add, migration_config


def test_migrated_schema_is_that_of_the_models(database_url: str) -> None:
    database = Database(database_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, schema.Base.metadata) == []
    database.close()


def test_opening_again_keeps_the_rows(database_url: str) -> None:
    for _ in range(2):
        database = Database(database_url)
        with database.write() as session:
            find_or_add(session, schema.Project, {"name": "p"}, {"created": datetime.now(UTC)})
        database.close()
    database = Database(database_url)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(schema.Project)) == 1
    database.close()


def test_foreign_keys_hold(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"), database.write() as session:
        add_missing(session, schema.Tile, [{"map_id": 7, "name": "a.tif", "sha256": "0", "bytes": 1}])
    database.close()


def test_a_failed_transaction_leaves_nothing(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(ZeroDivisionError), database.write() as session:
        _ = find_or_add(session, schema.Project, {"name": "p"}, {"created": datetime.now(UTC)}).id // 0
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(schema.Project)) == 0
    database.close()


def test_moments_keep_their_time_zone(database_url: str) -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=5)))
    database = Database(database_url)
    with database.write() as session:
        find_or_add(session, schema.Project, {"name": "p"}, {"created": moment})
    with database.read() as session:
        found = session.scalars(select(schema.Project)).one()
    assert found.created == moment
    assert found.created.tzinfo == UTC
    database.close()


def test_sqlite_runs_in_wal_mode(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'registry.db'}")
    with database.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    database.close()


def test_a_newer_schema_is_refused(database_url: str) -> None:
    database = Database(database_url)
    with database.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.close()
    with pytest.raises(DatabaseError, match=r"schema '9999' is newer.*Update the platform"):
        Database(database_url)


def test_the_makers_of_found_runs_are_forgotten_and_the_rows_stay(database_url: str) -> None:
    """From the first schema to this one: the table of runs is made anew on SQLite, with rows that refer to it."""
    engine = create_engine(database_url)
    config = migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO projects VALUES (1, 'p', '2024-01-01')"))
        columns = "project_id, stage, key, digest, stage_version, settings, inputs, summary, project_folder, folder, "
        columns += "platform_version, environment_sha256, who, host, code_commit, recorded, id, invocation, status"
        values = "1, 'preprocess', 'k', 'd', 1, '{}', '{}', '{}', '/p', 'f', '1', 'e', 'me', 'here', 'c', '2024-01-01'"
        for end in ("1, '', 'found'", "2, 'call', 'computed'"):
            connection.execute(text(f"INSERT INTO runs ({columns}) VALUES ({values}, {end})"))
        dataset = "(id, project_id, run_id, digest, created) VALUES (1, 1, 1, 'd', '2024-01-01')"
        connection.execute(text(f"INSERT INTO dataset_versions {dataset}"))
    engine.dispose()
    database = Database(database_url)
    with database.read() as session:
        found, computed = session.scalars(select(schema.Run).order_by(schema.Run.id))
        assert (found.who, found.host, found.code_commit, found.platform_version) == (None,) * 4
        assert (computed.who, computed.host, computed.code_commit) == ("me", "here", "c")
        assert session.scalars(select(schema.DatasetVersion)).one().run.id == 1
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"), database.write() as session:
        add_missing(session, schema.Tile, [{"map_id": 7, "name": "a.tif", "sha256": "0", "bytes": 1}])
    database.close()


def test_a_killed_migration_starts_over(database_url: str) -> None:
    """What a process leaves that dies between the statements of a migration is nothing: they are one transaction."""
    code = (
        "import os, sys\n"
        "from sqlalchemy import event\n"
        "from sqlalchemy.engine import Engine\n"
        "from registry.tables.database import Database\n"
        "@event.listens_for(Engine, 'before_cursor_execute')\n"
        "def die(connection, cursor, statement, *rest):\n"
        "    if 'CREATE TABLE maps' in statement: os._exit(9)\n"
        "Database(sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", code, database_url], check=False).returncode == 9
    database = Database(database_url)
    with database.engine.connect() as connection:
        assert set(schema.Base.metadata.tables) < set(inspect(connection).get_table_names())
    database.close()


def test_many_processes_open_an_empty_registry_and_write_the_same_rows(database_url: str) -> None:
    code = (
        "import sys\n"
        "from datetime import UTC, datetime\n"
        "from registry.tables import schema\n"
        "from registry.tables.database import Database, find_or_add\n"
        "database = Database(sys.argv[1])\n"
        "for k in range(50):\n"
        "    with database.write() as session:\n"
        "        find_or_add(session, schema.Project, {'name': f'p{k}'}, {'created': datetime.now(UTC)})\n"
        "database.close()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, database_url]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    database = Database(database_url)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(schema.Project)) == 50
    database.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(DatabaseError, match=r"registry\.db: .*not a database"):
        Database(f"sqlite:///{path}")


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    connection.close()
    with pytest.raises(DatabaseError, match=r"registry\.db: .*runs already exists"):
        Database(f"sqlite:///{path}")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(DatabaseError, match=r"folder cannot be made"):
        Database(f"sqlite:///{tmp_path / 'home' / 'registry.db'}")


def test_a_file_name_that_is_a_uri_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reads the URI; a folder `file:` where the process stands would be a misreading of it."""
    monkeypatch.chdir(tmp_path)
    Database(f"sqlite:///file:{tmp_path / 'registry.db'}?uri=true").close()
    assert not (tmp_path / "file:").exists()
    assert (tmp_path / "registry.db").is_file()


def test_a_read_only_database_can_be_read_and_says_so_when_written(tmp_path: Path) -> None:
    """Opened read-only by SQLite itself: the permissions of a file do not stop root."""
    path = tmp_path / "registry.db"
    Database(f"sqlite:///{path}").close()
    database = Database(f"sqlite:///file:{path}?mode=ro&uri=true")
    with database.read() as session:
        assert list(session.scalars(select(schema.Project))) == []
    with pytest.raises(DatabaseError, match="readonly database"), database.write() as session:
        find_or_add(session, schema.Project, {"name": "p"}, {"created": datetime.now(UTC)})
    database.close()


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(DatabaseError, match=r"refused") as caught:
        Database("postgresql+psycopg2://me:secret@127.0.0.1:9/registry")
    assert "secret" not in str(caught.value)
    assert "me:***@127.0.0.1" in str(caught.value)


def test_a_wrong_password(postgres_server: str) -> None:
    """A test server asks nobody on its own socket for a password; a user that is not there it refuses as well."""
    url = make_url(postgres_server).set(username="nobody", password="hunter2")
    with pytest.raises(DatabaseError, match="nobody") as caught:
        Database(url.render_as_string(hide_password=False))
    assert "hunter2" not in str(caught.value)
