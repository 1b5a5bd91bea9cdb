"""Databases on the tests' PostgreSQL server: each test has one of its own."""

from __future__ import annotations

from itertools import count

from sqlalchemy import create_engine, make_url, text

_NUMBER = count()


def new_postgres_database(server: str) -> str:
    """Make a database on the server; its URL."""
    name = f"registry_{next(_NUMBER)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)
