"""The base of every section of project.yaml: what a partner wrote is refused rather than guessed at."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


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


def distinct(values: list[Any]) -> list[Any]:
    """The same list.

    Raises:
        ValueError: something stands in it more than once.
    """
    if doubled := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(doubled)} stands more than once")
    return values


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise ValueError(f"'{value}' cannot be a name; allowed are lower-case letters, digits, '-' and '_', up to 63")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""What can name a file, a folder or an array as well."""
