"""A real PostgreSQL that is killed and started again while many processes write: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import writers
from sqlalchemy import event, func, make_url, select, text
from sqlalchemy.exc import OperationalError

from registry.chain.verify_chain import check_events, check_rows, read_chain
from registry.errors import DatabaseError
from registry.tables import database as database_module
from registry.tables import schema
from registry.tables.database import Database, find_or_add

WRITER = Path(writers.__file__)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of the test's own, to be killed; not below pytest's folder, which its next run closes to other users."""
    with tempfile.TemporaryDirectory(prefix="olmoearth-postgres-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        import pgserver

        started = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield started
        started.cleanup()


def url_of(server: Any) -> str:
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg2://")


def kill(server: Any) -> None:
    """The postmaster, with -9; its children notice and end."""
    os.kill(server.get_pid(), signal.SIGKILL)
    until(lambda: not server.get_postmaster_info().is_running())


def start(server: Any) -> None:
    """As somebody who restarts it: until the last child of the killed one let go of its memory."""
    for _ in range(20):
        try:
            server.ensure_postgres_running()
            return
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            time.sleep(0.5)
    raise AssertionError("the server does not start again")


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def make_maps(database: Database, count: int) -> list[int]:
    """Maps without tiles; their ids."""
    now, made = datetime.now(UTC), []
    with database.write("maps") as session:
        project = find_or_add(session, schema.Project, {"name": "p"}, {"created": now})
        key: dict[str, Any] = {"project_id": project.id, "stage": "infer", "key": "k", "invocation": ""}
        shown = {"status": "found", "digest": "d", "stage_version": 1, "settings": {}, "inputs": {}, "summary": {}}
        run = find_or_add(session, schema.Run, key, {**shown, "project_folder": "/p", "folder": "t", "recorded": now})
        for k in range(count):
            values = {"run_id": run.id, "date": date(2026, 1, 1), "created": now}
            row = {"project_id": project.id, "name": f"p-{k}", "digest": str(k)}
            made.append(find_or_add(session, schema.Map, row, values).id)
    return made


def killed_under_writers(
    server: Any, *, runs: int, workers: int, batches: int, size: int, kills: int
) -> dict[str, int]:
    """Kill and start the server while `runs` x `workers` processes write; counts of what is there afterwards."""
    url = url_of(server)
    database = Database(url)
    maps = make_maps(database, runs)
    database.close()
    base = [sys.executable, str(WRITER), url]
    running = [
        subprocess.Popen([*base, *map(str, (made, worker, workers, batches, size))])
        for made in maps
        for worker in range(workers)
    ]
    expected = runs * workers * batches
    for k in range(kills):
        until(lambda k=k: events_of(url) > 1 + expected * (k + 1) // (kills + 2))  # type: ignore[misc]
        kill(server)
        assert any(process.poll() is None for process in running), "they have finished before the server was killed"
        start(server)
    assert [process.wait(120) for process in running] == [0] * len(running)
    database = Database(url)
    with database.read() as session:
        read = read_chain(session)
        checks = [check_events(read), check_rows(session, read)]
        counted = select(schema.Tile.map_id, func.count()).group_by(schema.Tile.map_id)
        tiles = {made: count for made, count in session.execute(counted)}  # noqa: C416
    database.close()
    assert [check.status for check in checks] == ["ok", "ok"], checks
    assert tiles == dict.fromkeys(maps, writers.total(workers, batches, size))
    return {"events": len(read.hashes), "tiles": sum(tiles.values()), "kills": kills}


def events_of(url: str) -> int:
    """How many there are; none while the server is away."""
    try:
        connection = psycopg2.connect(url.replace("+psycopg2", ""), connect_timeout=5)
    except psycopg2.OperationalError:
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM events")
        (count,) = cursor.fetchone() or (0,)
    connection.close()
    return int(count)


def test_a_server_that_is_killed_under_writers(server: Any) -> None:
    found = killed_under_writers(server, runs=2, workers=2, batches=40, size=20, kills=1)
    assert found["tiles"] == 2 * (2 * 40 * 20 + 10)


@pytest.mark.verify
def test_a_server_that_is_killed_under_ten_writers(server: Any, record_property: Callable[[str, object], None]) -> None:
    found = killed_under_writers(server, runs=2, workers=5, batches=200, size=50, kills=3)
    for name, value in found.items():
        record_property(name, value)


def test_a_server_that_stays_away_is_told_in_a_sentence(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write waits, gives up, and can be done once the server is there again; the pool forgot what broke."""
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 1.0)
    database = Database(url_of(server))
    (made,) = make_maps(database, 1)
    kill(server)
    begun = time.monotonic()
    with pytest.raises(DatabaseError, match=r"registry's database says.*Check OLMOEARTH_REGISTRY_URL") as caught:
        database.transact(lambda session: writers_batch(session, made))
    assert 0.5 < time.monotonic() - begun < 20
    assert isinstance(caught.value.__cause__, OperationalError)
    start(server)
    database.transact(lambda session: writers_batch(session, made))
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(schema.Tile)) == 10
        assert check_events(read_chain(session)).status == "ok"
    database.close()


def test_what_waiting_does_not_help_is_told_at_once(server: Any) -> None:
    """A wrong password and a read-only database: one sentence, without the password, and no minute of patience."""
    url = make_url(url_of(server))
    database = Database(url.render_as_string(hide_password=False))
    (made,) = make_maps(database, 1)
    with psycopg2.connect(server.get_uri()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE reader LOGIN PASSWORD 'right'")
        cursor.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    connection.close()
    database.close()
    begun = time.monotonic()
    with pytest.raises(DatabaseError, match="read-only transaction"):
        database.transact(lambda session: writers_batch(session, made))
    database.close()
    asks = Path(server.pgdata) / "pg_hba.conf"
    asks.write_text("local all all scram-sha-256\nhost all all all scram-sha-256\n")
    server.psql("SELECT pg_reload_conf()")
    until(lambda: "FATAL" in _said(url.set(username="reader", password="wrong")), 20)
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        Database(url.set(username="reader", password="hunter2").render_as_string(hide_password=False), patience=60)
    assert "hunter2" not in str(caught.value)
    assert time.monotonic() - begun < 50


def _said(url: Any) -> str:
    try:
        psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)).close()
    except psycopg2.OperationalError as error:
        return str(error)
    return ""


def writers_batch(session: Any, made: int) -> None:
    from registry.recording import write_tiles

    write_tiles(session, made, None, writers.tiles(0, 10))


def test_a_commit_whose_answer_was_lost_is_not_done_twice(database_url: str) -> None:
    """The rows are there, the client does not know, and tells again: the second time adds neither row nor event."""
    database = Database(database_url)
    calls = []

    def lost(session: Any) -> None:
        if len(calls) == 1:
            broken = psycopg2.OperationalError("server closed the connection unexpectedly")
            raise OperationalError("COMMIT", {}, broken, connection_invalidated=True)

    def work(session: Any) -> None:
        calls.append(1)
        event.listen(session, "after_commit", lost)
        find_or_add(session, schema.Project, {"name": "p"}, {"created": datetime.now(UTC)})

    database.transact(work, "project")
    assert len(calls) == 2
    with database.read() as session:
        read = read_chain(session)
        assert (check_events(read).status, check_rows(session, read).status) == ("ok", "ok")
        assert len(read.hashes) == session.scalar(select(func.count()).select_from(schema.Project)) == 1
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM events")) == 1
    database.close()
