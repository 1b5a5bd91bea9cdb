"""Dates that options say."""

from __future__ import annotations

from datetime import UTC, date, datetime


def parse_moment(option: str, text: str) -> datetime:
    """A time, UTC.

    Raises:
        SourceError: it is none.
    """
    from olmoearth_core.errors import SourceError
    from olmoearth_core.importing import times

    moment = times.parse_moment(text)
    if moment is None:
        raise SourceError(f"{option} {text}: expected a date like 2024-05-01")
    return moment.astimezone(UTC)


def parse_day(option: str, text: str | None) -> date | None:
    """A day; None where none is given.

    Raises:
        SourceError: it is none.
    """
    return None if text is None else parse_moment(option, text).date()
