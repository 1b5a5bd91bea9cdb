"""Temporal framing: spans and dates worked out by hand, and what holds for all of them."""

from __future__ import annotations

import math
from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from olmoearth_core.framing import MAX_TIMESTEPS, FramedPointInTime, Framing, Period, PointInTime, Timestep

anchors = st.dates(date(1985, 1, 1), date(2100, 1, 1))
days = st.integers(1, 366)


def told(framing: Period | PointInTime | FramedPointInTime, anchor: str) -> list[str]:
    """The spans as "start end date" (end not included)."""
    return [f"{t.start} {t.end} {t.date}" for t in framing.spans(date.fromisoformat(anchor))]


def test_period_by_hand() -> None:
    assert told(Period(kind="period", timesteps=3, days=30), "2021-01-01") == [
        "2021-01-01 2021-01-31 2021-01-16",
        "2021-01-31 2021-03-02 2021-02-15",
        "2021-03-02 2021-04-01 2021-03-17",
    ]
    assert told(Period(kind="period", timesteps=2, days=14, offset_days=-28), "2021-07-16") == [
        "2021-06-18 2021-07-02 2021-06-25",
        "2021-07-02 2021-07-16 2021-07-09",
    ]
    assert told(Period(kind="period", timesteps=1, days=1, offset_days=5), "2021-12-30") == [
        "2022-01-04 2022-01-05 2022-01-04"
    ]


def test_leap_years_by_hand() -> None:
    assert told(Period(kind="period", timesteps=2, days=30), "2020-02-01") == [
        "2020-02-01 2020-03-02 2020-02-16",
        "2020-03-02 2020-04-01 2020-03-17",
    ]
    assert told(PointInTime(kind="point_in_time", days=3), "2020-02-29") == ["2020-02-28 2020-03-02 2020-02-29"]
    assert told(PointInTime(kind="point_in_time", days=366), "2020-07-02") == ["2020-01-01 2021-01-01 2020-07-02"]


def test_point_in_time_by_hand() -> None:
    assert told(PointInTime(kind="point_in_time"), "2021-07-16") == ["2021-07-16 2021-07-17 2021-07-16"]
    assert told(PointInTime(kind="point_in_time", days=2), "2021-07-16") == ["2021-07-15 2021-07-17 2021-07-16"]
    assert told(PointInTime(kind="point_in_time", days=5), "2021-07-16") == ["2021-07-14 2021-07-19 2021-07-16"]


def test_framed_point_in_time_by_hand() -> None:
    framing = FramedPointInTime(kind="framed_point_in_time", before=2, after=1, days=10, gap_days=5)
    assert told(framing, "2021-07-16") == [
        "2021-06-21 2021-07-01 2021-06-26",
        "2021-07-01 2021-07-11 2021-07-06",
        "2021-07-21 2021-07-31 2021-07-26",
    ]
    after = FramedPointInTime(kind="framed_point_in_time", before=0, after=1, days=30)
    assert told(after, "2021-07-16") == ["2021-07-16 2021-08-15 2021-07-31"]
    before = FramedPointInTime(kind="framed_point_in_time", before=1, after=0, days=30)
    assert told(before, "2021-07-16") == ["2021-06-16 2021-07-16 2021-07-01"]


framings = st.one_of(
    st.builds(
        Period,
        kind=st.just("period"),
        timesteps=st.integers(1, MAX_TIMESTEPS),
        days=days,
        offset_days=st.integers(-3660, 3660),
    ),
    st.builds(PointInTime, kind=st.just("point_in_time"), days=days),
    st.tuples(st.integers(0, 6), st.integers(0, 6))
    .filter(any)
    .flatmap(
        lambda n: st.builds(
            FramedPointInTime,
            kind=st.just("framed_point_in_time"),
            before=st.just(n[0]),
            after=st.just(n[1]),
            days=days,
            gap_days=st.integers(0, 366),
        )
    ),
)


@given(framing=framings, anchor=anchors)
def test_spans_are_in_order_of_equal_length_and_hold_their_date(
    framing: Period | PointInTime | FramedPointInTime, anchor: date
) -> None:
    spans = framing.spans(anchor)
    assert 1 <= len(spans) <= MAX_TIMESTEPS
    for span in spans:
        assert span.end - span.start == timedelta(days=framing.days)
        assert span.start <= span.date < span.end
        # the middle: the noon of the date is at most half a day from it
        middle = (span.start.toordinal() + span.end.toordinal()) / 2
        assert span.date.toordinal() == math.floor(middle)
    for before, after in pairwise(spans):
        gap = (after.start - before.end).days
        if isinstance(framing, FramedPointInTime) and after.start >= anchor > before.start:
            assert gap == 2 * framing.gap_days
        else:
            assert gap == 0


@given(framing=framings, anchor=anchors, shift=st.integers(-1000, 1000))
def test_spans_move_with_the_anchor(
    framing: Period | PointInTime | FramedPointInTime, anchor: date, shift: int
) -> None:
    by = timedelta(days=shift)
    moved = [Timestep(t.start + by, t.end + by) for t in framing.spans(anchor)]
    assert framing.spans(anchor + by) == moved


@given(days=days, anchor=anchors)
def test_a_point_in_time_is_dated_by_its_anchor(days: int, anchor: date) -> None:
    (span,) = PointInTime(kind="point_in_time", days=days).spans(anchor)
    assert span.date == anchor


@given(framing=framings)
def test_framings_come_back_from_json(framing: Period | PointInTime | FramedPointInTime) -> None:
    adapter: TypeAdapter[Framing] = TypeAdapter(Framing)
    assert adapter.validate_json(adapter.dump_json(framing)) == framing


@pytest.mark.parametrize(("before", "after"), [(0, 0), (7, 6), (12, 1)])
def test_a_frame_without_timesteps_or_with_too_many_is_refused(before: int, after: int) -> None:
    with pytest.raises(ValidationError, match=f"before . after is {before + after}; allowed is 1 to 12"):
        FramedPointInTime(kind="framed_point_in_time", before=before, after=after)
