"""The registry's database: opening it, bringing its schema up to date, transactions, inserts that do nothing twice.

SQLite and PostgreSQL by the same code. SQLite runs in WAL mode with foreign keys on; a writing transaction takes the
write lock when it begins, so that two processes queue instead of failing half-way. Whatever a transaction writes, an
event vouches for (ledger.py). A transaction that a lost connection broke is tried again: every write is idempotent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, Select, Table, create_engine, event, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from registry.chain.ledger import Ledger, begin
from registry.errors import DatabaseError
from registry.tables.schema import Base

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "olmoearth_schema"
"""Alembic's own table; MLflow calls its one alembic_version."""
MIGRATION_LOCK = 0x6F6C6D6F
"""PostgreSQL's advisory lock that one process holds while it migrates."""
SQLITE_WAIT_SECONDS = 60
SQLITE_URI = "file:"
"""How a file name that is a URI begins: sqlite:///file:/path?mode=ro&uri=true."""
PATIENCE_SECONDS = 60.0
"""How long a write is tried again while the server is away; it restarts in less."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
CONNECTIONS, MORE_CONNECTIONS = 5, 5
"""Of a process to PostgreSQL: kept, and more at once where threads ask for them."""
PASSING = ("57P01", "57P02", "57P03", "40P01", "40001", "53300")
"""PostgreSQL's codes of what passes: it shuts down, crashed, starts; a deadlock, a conflict; too many connections."""
LEDGER = "ledger"

Row = TypeVar("Row", bound=Base)
T = TypeVar("T")


class Database:
    """One registry database with an up-to-date schema."""

    def __init__(self, url: str, *, patience: float = 0.0) -> None:
        """Connect and migrate.

        Args:
            url: SQLAlchemy URL; the folder of a SQLite file is made where it is missing.
            patience: seconds in which a server that does not answer is asked again.

        Raises:
            DatabaseError: unreachable, refused, read-only, no database of ours, or of a newer schema than this code.
        """
        self.url = make_url(url)
        self.engine = _engine(self.url)
        self._writing = self.engine.execution_options(immediate=True)
        try:
            with self._told():
                _patiently(self._migrate, patience)
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
    def write(self, kind: str = "write", **about: Any) -> Iterator[Session]:
        """Open a session whose changes are committed together at the end, or not at all, with the event that vouches.

        Rows are written by `add_missing`, `find_or_add` and `change`.

        Args:
            kind: of the event, in a word or two.
            about: what a person would want to know of the event; JSON values.

        Raises:
            DatabaseError: whatever the database refuses.
        """
        with self._told(), self._session(kind, about) as session:
            yield session

    def transact(self, work: Callable[[Session], T], kind: str = "write", **about: Any) -> T:
        """As `write`, for `work(session)`, and again from the start when the connection is lost or the server restarts.

        `work` has to be idempotent: it may be that only the answer to its commit was lost.

        Raises:
            DatabaseError: whatever the database refuses; it did not come back in time.
        """

        def once() -> T:
            with self._session(kind, about) as session:
                return work(session)

        with self._told():
            return _patiently(once, PATIENCE_SECONDS)

    @contextmanager
    def _session(self, kind: str, about: Mapping[str, Any]) -> Iterator[Session]:
        ledger = Ledger(kind, about)
        with Session(self._writing, expire_on_commit=False, info={LEDGER: ledger}) as session, session.begin():
            event.listen(session, "before_flush", _refuse_uncovered)
            yield session
            ledger.close(session)

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
                with Session(connection) as session:
                    begin(session)
                    session.flush()

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
                f"{self}: the registry's database says: {said.rstrip('.?')}. "
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


def is_missing(url: str) -> bool:
    """Whether the file of a SQLite registry is not there: to open it would make an empty one."""
    parsed = make_url(url)
    file = parsed.database or ""
    plain = parsed.get_backend_name() == "sqlite" and file not in ("", ":memory:") and not file.startswith(SQLITE_URI)
    return plain and not Path(file).exists()


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url,
            pool_pre_ping=True,  # a connection that a restart of the server broke is replaced before it is used
            pool_size=CONNECTIONS,
            max_overflow=MORE_CONNECTIONS,
            pool_recycle=1800,  # firewalls forget connections that say nothing
            connect_args={"connect_timeout": 10, "application_name": "olmoearth", "keepalives_idle": 30},
        )
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


def _patiently(work: Callable[[], T], seconds: float) -> T:
    """Call `work`, and again while the server is away, for as long as `seconds`."""
    end, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except DBAPIError as error:
            if not _passes(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _passes(error: DBAPIError) -> bool:
    """Whether trying again may help: the connection was lost or never made, or the server said so."""
    code = getattr(error.orig, "pgcode", None)
    if code is not None:
        return code in PASSING
    said = str(error.orig)
    refused = "password" in said or "does not exist" in said or "no pg_hba.conf" in said
    lost = type(error.orig).__module__.startswith("psycopg2") and isinstance(error, OperationalError | InterfaceError)
    return error.connection_invalidated or (lost and not refused)


def _refuse_uncovered(session: Session, *_rest: Any) -> None:
    """No event would vouch for rows that the session itself writes."""
    if session.new or session.deleted or any(session.is_modified(row) for row in session.dirty):
        raise RuntimeError(
            "rows of the registry are written by add_missing, find_or_add and change, not by the session"
        )


def add_missing(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows`, leaving out those whose natural key is there already.

    Args:
        session: of `Database.write` or `transact`.
        table: of the rows.
        rows: column values, all of the same columns.
    """
    if not rows:
        return
    ledger: Ledger = session.info[LEDGER]
    into = cast(Table, table.__table__)
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(into).on_conflict_do_nothing().returning(*into.columns)
    added = session.connection().execute(statement, [{**row, "event": ledger.event} for row in rows])
    ledger.wrote(into, added.mappings())


def find_or_add(session: Session, table: type[Row], key: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
    """The row with the natural key `key`; made with `values` where there is none yet."""
    wanted: Select[tuple[Row]] = select(table).filter_by(**key)
    found = session.scalars(wanted).one_or_none()
    if found is None:
        add_missing(session, table, [{**key, **values}])
        found = session.scalars(wanted).one()
    return found


def change(session: Session, row: Base, **values: Any) -> None:
    """Give columns of `row` other values, where they differ; the event says which row it replaces."""
    if all(getattr(row, name) == value for name, value in values.items()):
        return
    ledger: Ledger = session.info[LEDGER]
    table = cast(Table, row.__table__)
    this = [column == getattr(row, column.name) for column in table.primary_key.columns]
    connection = session.connection()
    before = connection.execute(select(table).where(*this).with_for_update()).mappings().one()
    ledger.replaced(table, before)
    statement = update(table).where(*this).values(**values, event=ledger.event).returning(*table.columns)
    ledger.wrote(table, connection.execute(statement).mappings())
    session.refresh(row)
