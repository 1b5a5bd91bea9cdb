"""The base of every section of project.yaml: what a partner wrote is refused rather than guessed at."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A section of settings: unknown keys, numbers in quotes, and infinite numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _date(value: Any) -> Any:
    try:
        return datetime.date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"expected a date like 2021-07-16, found '{value}'") from None


Date = Annotated[datetime.date, BeforeValidator(_date)]
"""A calendar date, written 2021-07-16."""
