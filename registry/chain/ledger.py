"""The chain's writing side: each transaction that writes rows ends with one event that vouches for them.

An event holds, for each table, how many rows were written and the Merkle root over their digests, and the hash of the
event before it. Its id is drawn first and stands in every row; its place in the chain is given last, under the lock of
the chain's head, which is held for one insert and the commit: ten writers write their rows at the same time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.orm import Session

from olmoearth_core.digest import canonical_json
from registry.chain.merkle import leaf, root
from registry.tables.schema import Base, Chain, Event, Replacement

NAMED = 1000
"""Rows of one table that an event names one by one, so that a changed one can be pointed at."""
NAME_DIGITS = 12
"""Hex digits of a row's digest that stand beside its name; the root is over whole digests."""
ADOPTED = 5000
"""Rows of one event when rows from before the chain are taken into it."""
COVERED: tuple[Table, ...] = tuple(table for table in Base.metadata.sorted_tables if "event" in table.columns)
"""The tables whose rows events vouch for: all but the chain's own."""


def row_leaf(table: Table, row: Mapping[Any, Any]) -> bytes:
    """The digest (32 bytes) of a row as the database gives it.

    Columns without a value do not count, so that a later schema may add some.
    """
    values = {name: plain(value) for name, value in row.items() if value is not None}
    return leaf(canonical_json([table.name, values]).encode())


def row_key(table: Table, row: Mapping[Any, Any]) -> str:
    """A row's primary key as text."""
    return "/".join(str(row[column.name]) for column in table.primary_key.columns)


def plain(value: Any) -> Any:
    """JSON values that do not depend on the database: PostgreSQL's JSONB writes 1e2 as 100."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


@dataclass
class Ledger:
    """What one transaction wrote.

    Attributes:
        kind: of the event, in a word or two.
        about: what a person would want to know of it; JSON values.
        event: id of the event to come.
    """

    kind: str
    about: Mapping[str, Any]
    event: int = field(default_factory=lambda: secrets.randbits(63))
    _written: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _replaced: list[dict[str, Any]] = field(default_factory=list)

    def wrote(self, table: Table, rows: Iterable[Mapping[Any, Any]]) -> None:
        """Take down rows as they stand in the database now; they carry the event's id."""
        for row in rows:
            self._written.setdefault(table.name, {})[row_key(table, row)] = row_leaf(table, row)

    def replaced(self, table: Table, row: Mapping[Any, Any]) -> None:
        """Take down how a row was that is written anew; unless it was written in this transaction."""
        if row["event"] != self.event:
            self._replaced.append(
                {
                    "table": table.name,
                    "key": row_key(table, row),
                    "event": row["event"],
                    "leaf": row_leaf(table, row).hex(),
                }
            )

    def close(self, session: Session) -> None:
        """Append the event to the chain, where any row was written. To be done last: others wait from here on."""
        if not self._written:
            return
        chain = session.execute(
            select(Chain.name, Chain.position, Chain.hash).where(Chain.id == 1).with_for_update()
        ).one()
        now = datetime.now(UTC)
        body = canonical_json(
            {
                "chain": chain.name,
                "position": chain.position + 1,
                "previous": chain.hash,
                "id": self.event,
                "time": plain(now),
                "kind": self.kind,
                "about": plain(self.about),
                "rows": {name: _summary(leaves) for name, leaves in self._written.items()},
                **({"replaces": self._replaced} if self._replaced else {}),
            }
        )
        digest = event_hash(body)
        place = {"position": chain.position + 1, "hash": digest}
        written = {**place, "id": self.event, "previous": chain.hash, "body": body, "recorded": now}
        session.execute(insert(Event).values(**written))
        for earlier in {row["event"] for row in self._replaced}:
            session.execute(insert(Replacement).values(earlier=earlier, position=chain.position + 1))
        session.execute(update(Chain).where(Chain.id == 1).values(**place))


def _summary(leaves: Mapping[str, bytes]) -> dict[str, Any]:
    named = {key: found.hex()[:NAME_DIGITS] for key, found in leaves.items()} if len(leaves) <= NAMED else None
    return {"count": len(leaves), "root": root(leaves.values()), **({"names": named} if named is not None else {})}


def event_hash(body: str) -> str:
    """The hash (64 hex digits) that the next event, and every anchor, holds."""
    return hashlib.sha256(body.encode()).hexdigest()


def begin(session: Session) -> None:
    """Begin the chain where there is none, and take the rows into it that were there before.

    Called once, when the schema gets its chain, while nobody else writes.
    """
    if session.execute(select(Chain.id)).first() is not None:
        return
    name = secrets.token_hex(16)
    session.execute(insert(Chain).values(id=1, name=name, position=0, hash=event_hash(name)))
    for table in COVERED:
        while _adopt(session, table):
            pass


def _adopt(session: Session, table: Table) -> bool:
    """Take some rows without an event into the chain; whether there were any."""
    keys = list(table.primary_key.columns)
    rows = session.execute(select(table).where(table.c.event.is_(None)).order_by(*keys).limit(ADOPTED)).mappings().all()
    if not rows:
        return False
    ledger = Ledger("adopted", {"table": table.name, "why": "written before the registry had a chain"})
    one = update(table).where(*(key == bindparam(f"at_{key.name}") for key in keys)).values(event=ledger.event)
    session.connection().execute(one, [{f"at_{key.name}": row[key.name] for key in keys} for row in rows])
    ledger.wrote(table, [{**row, "event": ledger.event} for row in rows])
    ledger.close(session)
    return True
