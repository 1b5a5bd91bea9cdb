"""The tables of the chain: its head, its events, and where its head was written down outside of the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.columns import Base, Covered


class Chain(Base):
    """The one chain of a registry and its head. Its row is the lock that orders events on PostgreSQL."""

    __tablename__ = "chains"

    id: Mapped[int] = mapped_column(primary_key=True)
    """Always 1."""
    name: Mapped[str]
    """Tells this registry from all others: 32 hex digits, drawn when the chain began."""
    position: Mapped[int] = mapped_column(BigInteger)
    """Of the last event; 0 before the first."""
    hash: Mapped[str]
    """Of the last event; before the first, sha256 of the name."""


class Event(Base):
    """One transaction: the rows it wrote and the event before it, by their digests. Never changed, never deleted."""

    __tablename__ = "events"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """1, 2, 3, ... without a gap."""
    id: Mapped[int] = mapped_column(BigInteger, unique=True)
    """Drawn before the rows are written, which carry it; the position is known only at the end."""
    previous: Mapped[str]
    """Hash of the event before it."""
    hash: Mapped[str] = mapped_column(unique=True)
    """sha256 of `body`."""
    body: Mapped[str] = mapped_column(Text)
    """Canonical JSON: chain, position, previous, id, time, kind, rows, and what rows it replaces."""
    recorded: Mapped[datetime]


class Replacement(Base):
    """Finds the events that replaced rows of an earlier one. Only an index: what they say is in their bodies."""

    __tablename__ = "replacements"

    earlier: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """`Event.id` of the earlier one."""
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Of the event that replaced rows of it."""


class Anchor(Covered, Base):
    """A place outside of the database where the head of the chain was written down."""

    __tablename__ = "anchors"
    __table_args__ = (UniqueConstraint("position", "place"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str]
    """Of the event at that position."""
    place: Mapped[str]
    """Absolute path of the file."""
    key: Mapped[str | None]
    """Id of the public key that the file is signed with; None where it is not signed."""
    created: Mapped[datetime]
