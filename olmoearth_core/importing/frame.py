"""Which framing in time fits an import: what its labels say they are true for, and the days of its imagery."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

from olmoearth_core.framing import MAX_TIMESTEPS

DAYS = 30
LONGEST_LOOK = 31
"""Days around a label of one day that are looked at, at most, to find a scene."""
SEASONS = f"{{kind: period, timesteps: {MAX_TIMESTEPS}, days: {DAYS}}}"

Span = tuple[dt.date, dt.date]
"""The first and the last day that a label is true for."""


@dataclass(frozen=True)
class Frame:
    """A framing.

    Attributes:
        text: as project.yaml has it.
        anchor: date of the map, and of labels that say none.
        why: this one; a sentence without its full stop.
    """

    text: str
    anchor: dt.date
    why: str


def frame_of(days: Sequence[dt.date], spans: Collection[Span] = ()) -> Frame:
    """The framing for scenes of `days` and labels that are true for `spans`.

    Scenes of one date are looked at together. Labels of one day get one look around it, as short as finds each a scene;
    labels of longer spans get steps that make up the usual one. Where labels say no dates, the imagery has the word:
    steps of 30 days that end with the last scene.
    """
    first, last = min(days), max(days)
    if first == last:
        return Frame("{kind: point_in_time, days: 1}", first, f"all imagery is of {first}")
    in_all = min(MAX_TIMESTEPS, -(-((last - first).days + 1) // DAYS))
    if not spans:
        why = f"labels say no dates: as much of the imagery ({first} to {last}) as {in_all} steps of {DAYS} days hold"
        return Frame(_period(in_all, DAYS), _back(first, last, in_all * DAYS), why)
    usual = int(median((end - start).days + 1 for start, end in spans))
    if usual > 1:
        steps, length = min(MAX_TIMESTEPS, max(1, round(usual / DAYS))), min(usual, DAYS)
        why = f"labels are true for {usual} days, from their first day on (the median)"
        return Frame(_period(steps, length), _back(first, last, steps * length), why)
    different = sorted(set(days))
    farthest = max(min(abs((day - start).days) for day in different) for start in {start for start, _ in spans})
    look = min(2 * farthest + 1, LONGEST_LOOK)
    scenes = Counter(days)
    anchor = max(scenes, key=lambda day: (scenes[day], day))
    why = (
        f"labels are true for one day, so they get one look at {look} day{'s' if look > 1 else ''} around it; for what "
        f"only seasons tell apart (crops) write {SEASONS}, which begins on a label's day"
    )
    return Frame(f"{{kind: point_in_time, days: {look}}}", anchor, why)


def _period(steps: int, days: int) -> str:
    return f"{{kind: period, timesteps: {steps}, days: {days}}}"


def _back(first: dt.date, last: dt.date, days: int) -> dt.date:
    """The day from which `days` end with the last scene, not before the first one."""
    return max(first, last - dt.timedelta(days=days - 1))
