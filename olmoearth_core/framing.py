"""Temporal framing: which spans of time become the timesteps of a cube, seen from an anchor date.

The anchor is the date of a label while training and `map.date` while mapping, so both see the same months.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field

from olmoearth_core.section import Section

MAX_TIMESTEPS = 12
"""OlmoEarth was trained on up to twelve timesteps (facts/peers.md)."""


@dataclass(frozen=True)
class Timestep:
    """One span of time [start, end) that one composite stands for."""

    start: date
    end: date

    @property
    def date(self) -> date:
        """The middle of the span: the date the encoder is told. Depends on the framing only, never on the pixels."""
        return self.start + (self.end - self.start) / 2


class Period(Section):
    """`timesteps` spans of `days` days each, one after the other, beginning `offset_days` after the anchor."""

    kind: Literal["period"]
    timesteps: int = Field(12, ge=1, le=MAX_TIMESTEPS)
    days: int = Field(30, ge=1, le=366)
    offset_days: int = Field(0, ge=-3660, le=3660)

    def spans(self, anchor: date) -> list[Timestep]:
        """The timesteps for `anchor`, oldest first."""
        first = anchor + timedelta(days=self.offset_days)
        return _consecutive(first, self.timesteps, self.days)


class PointInTime(Section):
    """One span of `days` days with the anchor in its middle."""

    kind: Literal["point_in_time"]
    days: int = Field(1, ge=1, le=366)

    def spans(self, anchor: date) -> list[Timestep]:
        """The one timestep for `anchor`."""
        return _consecutive(anchor - timedelta(days=self.days // 2), 1, self.days)


class FramedPointInTime(Section):
    """`before` spans that end `gap_days` before the anchor and `after` spans that begin `gap_days` after it.

    Without a gap the anchor's own day belongs to the spans after it.
    """

    kind: Literal["framed_point_in_time"]
    before: int = Field(4, ge=0, le=MAX_TIMESTEPS)
    after: int = Field(4, ge=0, le=MAX_TIMESTEPS)
    days: int = Field(30, ge=1, le=366)
    gap_days: int = Field(0, ge=0, le=366)

    def model_post_init(self, _context: object) -> None:
        """Refuse a frame without timesteps or with more than the encoders know."""
        if not 1 <= self.before + self.after <= MAX_TIMESTEPS:
            raise ValueError(f"before + after is {self.before + self.after}; allowed is 1 to {MAX_TIMESTEPS}")

    def spans(self, anchor: date) -> list[Timestep]:
        """The timesteps for `anchor`, oldest first."""
        gap = timedelta(days=self.gap_days)
        first = anchor - gap - timedelta(days=self.before * self.days)
        return _consecutive(first, self.before, self.days) + _consecutive(anchor + gap, self.after, self.days)


Framing = Annotated[Period | PointInTime | FramedPointInTime, Field(discriminator="kind")]


def _consecutive(first: date, count: int, days: int) -> list[Timestep]:
    step = timedelta(days=days)
    return [Timestep(first + i * step, first + (i + 1) * step) for i in range(count)]
