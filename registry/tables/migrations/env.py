"""Alembic's entry: migrates on the connection that `registry.tables.database` hands over."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import JSON

from registry.tables.database import VERSION_TABLE
from registry.tables.schema import Base, UtcDateTime


def render(kind: str, item: Any, _autogenerate: Any) -> str | Literal[False]:
    """How a new migration writes our own column types: free of our code, which changes while migrations stay."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, JSON):
        return "JSON"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=render,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
