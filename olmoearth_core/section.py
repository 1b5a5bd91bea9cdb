"""The base of every section of project.yaml: what a partner wrote is refused rather than guessed at."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A section of settings: unknown keys, numbers in quotes, and infinite numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


FIRST_YEAR, LAST_YEAR = 1970, 2100
"""No satellite of ours saw the time before; the time after is a slip of the pen, or a database's word for never."""


def _date(value: Any) -> Any:
    try:
        day = datetime.date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"expected a date like 2021-07-16, found '{value}'") from None
    if isinstance(day, datetime.date) and not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"expected a date from {FIRST_YEAR} to {LAST_YEAR}, found '{value}'")
    return day


Date = Annotated[datetime.date, BeforeValidator(_date)]
"""A calendar date, written 2021-07-16."""
