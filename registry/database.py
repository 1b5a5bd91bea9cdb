"""The registry's database: opening it, bringing its schema up to date, transactions, inserts that do nothing twice.

SQLite and PostgreSQL by the same code. SQLite runs in WAL mode with foreign keys on; a writing transaction takes the
write lock when it begins, so that two processes queue instead of failing half-way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, Select, create_engine, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from registry.errors import DatabaseError
from registry.schema import Base

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "olmoearth_schema"
"""Alembic's own table; MLflow calls its one alembic_version."""
MIGRATION_LOCK = 0x6F6C6D6F
"""PostgreSQL's advisory lock that one process holds while it migrates."""
SQLITE_WAIT_SECONDS = 60
SQLITE_URI = "file:"
"""How a file name that is a URI begins: sqlite:///file:/path?mode=ro&uri=true."""
ROWS_PER_INSERT = 500
"""SQLite takes 32,766 parameters a statement."""

Row = TypeVar("Row", bound=Base)


class Database:
    """One registry database with an up-to-date schema."""

    def __init__(self, url: str) -> None:
        """Connect and migrate.

        Args:
            url: SQLAlchemy URL; the folder of a SQLite file is made where it is missing.

        Raises:
            DatabaseError: unreachable, refused, read-only, no database of ours, or of a newer schema than this code.
        """
        self.url = make_url(url)
        self.engine = _engine(self.url)
        self._writing = self.engine.execution_options(immediate=True)
        try:
            with self._told():
                self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for queries.

        Raises:
            DatabaseError: whatever the database refuses.
        """
        with self._told(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session whose changes are committed together at the end, or not at all.

        Raises:
            DatabaseError: whatever the database refuses.
        """
        with self._told(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    def _migrate(self) -> None:
        config = migration_config()
        scripts = ScriptDirectory.from_config(config)
        head = scripts.get_current_head()
        with self.engine.connect() as connection:
            if _revision(connection) == head:
                return
        with self._migration_lock() as connection:
            current = _revision(connection)
            if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
                raise DatabaseError(
                    f"{self}: its schema '{current}' is newer than this version of the platform knows. "
                    "Update the platform, or name another registry in OLMOEARTH_REGISTRY_URL."
                )
            if current != head:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    @contextmanager
    def _migration_lock(self) -> Iterator[Connection]:
        """A connection in a transaction that no other process migrates in at the same time."""
        if self.url.get_backend_name() == "postgresql":
            with self.engine.begin() as connection:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                yield connection
            return
        # SQLite does not wait for others while it switches to WAL, so a lock of our own stands before it
        file = self.url.database or ""
        file = urlsplit(file).path if file.startswith(SQLITE_URI) else file
        with FileLock(f"{file}.lock", timeout=SQLITE_WAIT_SECONDS):
            raw = self.engine.raw_connection()
            raw.cursor().execute("PRAGMA journal_mode = WAL")
            raw.close()
            with self._writing.connect() as connection:
                # SQLite changes a column by making its table anew: dropping the old one must not empty its children
                connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
                try:
                    with connection.begin():
                        yield connection
                finally:
                    connection.connection.cursor().execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the driver's faults into one sentence without the password and the SQL."""
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            said = " ".join(str(cause).split()) or cause.__class__.__name__
            raise DatabaseError(
                f"{self}: the registry's database says: {said}. "
                "Check OLMOEARTH_REGISTRY_URL, the server and its rights."
            ) from error
        except (Timeout, PermissionError) as error:
            raise DatabaseError(f"{self}: cannot be locked to bring its schema up to date ({error}).") from error

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def migration_config() -> Config:
    """Alembic's settings, without a file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    if url.database and url.database != ":memory:" and not url.database.startswith(SQLITE_URI):
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"{url.database}: its folder cannot be made ({error.strerror}). Check OLMOEARTH_HOME."
            ) from error
    engine = create_engine(url, connect_args={"timeout": SQLITE_WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def add_missing(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows`, leaving out those whose natural key is there already."""
    name = session.get_bind().dialect.name
    for start in range(0, len(rows), ROWS_PER_INSERT):
        values = [dict(row) for row in rows[start : start + ROWS_PER_INSERT]]
        if name == "postgresql":
            session.execute(postgresql.insert(table).values(values).on_conflict_do_nothing())
        else:
            session.execute(sqlite.insert(table).values(values).on_conflict_do_nothing())


def find_or_add(session: Session, table: type[Row], key: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
    """The row with the natural key `key`; made with `values` where there is none yet."""
    wanted: Select[tuple[Row]] = select(table).filter_by(**key)
    found = session.scalars(wanted).one_or_none()
    if found is None:
        add_missing(session, table, [{**key, **values}])
        found = session.scalars(wanted).one()
    return found
