"""The chain's reading side: are the events those that were written, and the rows those that the events vouch for?

`check_events` reads every event, `check_rows` every row of the registry; `check_rows_of` only what some rows' events
vouch for, by indexes. Each names what differs: an event by its position, a row by its table and key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from registry.audit.report import Check
from registry.chain.ledger import COVERED, NAME_DIGITS, event_hash, row_key, row_leaf
from registry.chain.merkle import root
from registry.tables.schema import Base, Chain, Event, Replacement

EVENTS, ROWS = "chain of events", "rows against their events"
AT_ONCE = 1000
"""Rows or events that are held while the rest streams by."""


@dataclass
class Vouched:
    """What one event says of the rows it wrote, and what was found of them.

    Attributes:
        position: of the event.
        kind: of the event.
        about: what it is about.
        rows: table -> count, root and, of few rows, their names.
        found: table -> digests of the rows that carry the event's id, and of those that later events replaced.
    """

    position: int
    kind: str
    about: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]
    found: dict[str, list[bytes]] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    """Table -> row -> first digits of its digest, of tables whose rows the event names."""

    def take(self, table: str, key: str, digest: bytes) -> None:
        """One row that this event is said to have written."""
        self.found.setdefault(table, []).append(digest)
        if "names" in self._told(table):
            self.keys.setdefault(table, {})[key] = digest.hex()[:NAME_DIGITS]

    def problems(self) -> Iterator[str]:
        """One sentence for each row, or table, that is not as it was written."""
        for table in sorted({*self.rows, *self.found}):
            told, found = self._told(table), self.found.get(table, [])
            if len(found) == told["count"] and root(found) == told["root"]:
                continue
            named = list(self._named(table, told["names"])) if "names" in told else []
            if named:
                yield from named
            elif len(found) != told["count"]:
                yield f"{table}: {self} wrote {told['count']} rows, {len(found)} are there"
            else:
                yield f"{table}: some of the {told['count']} rows that {self} wrote are not as it wrote them"

    def _told(self, table: str) -> Mapping[str, Any]:
        return self.rows.get(table, {"count": 0, "root": root([]), "names": {}})

    def _named(self, table: str, names: Mapping[str, str]) -> Iterator[str]:
        there = self.keys.get(table, {})
        for key in sorted({*names, *there}):
            if key not in there:
                yield f"{table} {key}: the row is gone; {self} wrote it"
            elif key not in names:
                yield f"{table} {key}: the row says that {self} wrote it; it did not"
            elif names[key] != there[key]:
                yield f"{table} {key}: the row is not as {self} wrote it"

    def __str__(self) -> str:
        what = self.about.get("map") or self.about.get("project") or self.about.get("table") or ""
        return f"event {self.position} ({self.kind}{f' of {what}' if what else ''})"


@dataclass
class Read:
    """The chain as it was read.

    Attributes:
        name: of the chain.
        hashes: position -> hash of the event there, recomputed.
        events: id -> what it vouches for.
        problems: one sentence for each event that is not as it was written, or gone.
    """

    name: str
    hashes: dict[int, str]
    events: dict[int, Vouched]
    problems: list[str]


def read_chain(session: Session) -> Read:
    """Read every event and follow the chain from its beginning to its head."""
    chain = session.execute(select(Chain.name, Chain.position, Chain.hash).where(Chain.id == 1)).first()
    if chain is None:
        return Read("", {}, {}, ["the chain has no head: the row of the table chains is gone"])
    read = Read(chain.name, {}, {}, [])
    before, position = event_hash(chain.name), 0
    replaced: list[Mapping[str, Any]] = []
    columns = (Event.position, Event.id, Event.previous, Event.hash, Event.body)
    for row in session.execute(select(*columns).order_by(Event.position).execution_options(yield_per=AT_ONCE)):
        if row.position != position + 1:
            read.problems.append(_gap(position + 1, row.position - 1))
        digest = event_hash(row.body)
        body = _body(row.body)
        told = {"chain": chain.name, "position": row.position, "previous": row.previous, "id": row.id}
        if digest != row.hash or body is None or any(body.get(name) != value for name, value in told.items()):
            read.problems.append(f"event {row.position} is not as it was written")
        elif row.position == position + 1 and row.previous != before:
            read.problems.append(f"event {row.position} does not follow event {position}: one of them was exchanged")
        if body is not None:
            read.events[row.id] = _vouched(row.position, body)
            replaced += body.get("replaces", [])
        read.hashes[row.position] = digest
        before, position = row.hash, row.position
    if chain.position > position:
        read.problems.append(_gap(position + 1, chain.position) + f"; the head of the chain says {chain.position}")
    elif (chain.position, chain.hash) != (position, before):
        read.problems.append(f"the head of the chain is not its last event, {position}")
    _put_back(read.events, replaced)
    return read


def check_events(read: Read) -> Check:
    """Whether every event is there, and as it was written."""
    if read.problems:
        return Check(EVENTS, "differs", f"{len(read.problems)} faults in the chain of events", read.problems)
    return Check(EVENTS, "ok", f"{len(read.hashes)} events follow from each other, to the head of the chain")


def check_rows(session: Session, read: Read) -> Check:
    """Whether every row of the registry is as its event vouches, and every row that was written is there."""
    count, problems = 0, []
    for table in COVERED:
        for row in session.execute(select(table).execution_options(yield_per=AT_ONCE)).mappings():
            count += 1
            problems += _take(table, row, read.events)
    problems += [problem for event in read.events.values() for problem in event.problems()]
    return _judged(problems, count, len(read.events))


def check_rows_of(session: Session, rows: Iterable[Base]) -> Check:
    """As `check_rows`, for the events that vouch for `rows`, and all that these wrote."""
    problems: list[str] = []
    by_event: dict[int | None, list[tuple[str, str]]] = {}
    for row in rows:
        by_event.setdefault(getattr(row, "event", None), []).append((row.__tablename__, _key(row)))
    events = _some_events(session, [number for number in by_event if number is not None], problems)
    for number, given in by_event.items():
        if number is None or number not in events:
            problems += [f"{table} {key}: no event wrote this row" for table, key in given]
        else:
            others = [(table, key) for table, key in given if table not in events[number].rows]
            problems += [
                f"{table} {key}: the row says that {events[number]} wrote it; it did not" for table, key in others
            ]
    count = 0
    for table in COVERED:
        wrote = [number for number, event in events.items() if table.name in event.rows]
        for some in _parts(wrote):
            for found in session.execute(select(table).where(table.c.event.in_(some))).mappings():
                count += 1
                problems += _take(table, found, events)
    problems += [problem for event in events.values() for problem in event.problems()]
    return _judged(problems, count, len(events))


def _judged(problems: list[str], rows: int, events: int) -> Check:
    if problems:
        return Check(ROWS, "differs", f"{len(problems)} faults in {rows} rows", problems)
    return Check(ROWS, "ok", f"{rows} rows are as {events} events wrote them")


def _some_events(session: Session, ids: Sequence[int], problems: list[str]) -> dict[int, Vouched]:
    """The events with these ids; their faults go to `problems`. Whether they hang together is for the whole chain."""
    events: dict[int, Vouched] = {}
    replaced: list[Mapping[str, Any]] = []
    for some in _parts(ids):
        later = select(Replacement.position).where(Replacement.earlier.in_(some))
        wanted = Event.id.in_(some) | Event.position.in_(later)
        for row in session.execute(select(Event.position, Event.id, Event.hash, Event.body).where(wanted)):
            body = _body(row.body)
            if body is None or event_hash(row.body) != row.hash or body.get("id") != row.id:
                problems.append(f"event {row.position} is not as it was written")
                continue
            replaced += body.get("replaces", [])
            if row.id in some:
                events[row.id] = _vouched(row.position, body)
    _put_back(events, replaced)
    return events


def _parts(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))


def _take(table: Table, row: Mapping[Any, Any], events: Mapping[int, Vouched]) -> list[str]:
    key = row_key(table, row)
    event = events.get(row["event"])
    if event is None:
        return [f"{table.name} {key}: no event wrote this row"]
    event.take(table.name, key, row_leaf(table, row))
    return []


def _put_back(events: Mapping[int, Vouched], replaced: Iterable[Mapping[str, Any]]) -> None:
    """What later events replaced belongs to what earlier ones wrote."""
    for row in replaced:
        if (event := events.get(row["event"])) is not None:
            event.take(row["table"], row["key"], bytes.fromhex(row["leaf"]))


def _vouched(position: int, body: Mapping[str, Any]) -> Vouched:
    return Vouched(position, str(body.get("kind", "")), body.get("about", {}), body.get("rows", {}))


def _body(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _gap(first: int, last: int) -> str:
    return f"event {first} was removed" if first == last else f"events {first} to {last} were removed"


def _key(row: Base) -> str:
    return "/".join(str(getattr(row, column.name)) for column in row.__table__.primary_key)
