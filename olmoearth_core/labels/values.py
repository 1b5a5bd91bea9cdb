"""From the values in a partner's files to classes: names, codes, and ranges of what was measured.

    labels: {classes: {forest: "50-100", open: ["0-49", 254], water: lake}}

A class's own name always means it, unless the map gives that word to another class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Value = str | int | float
UNMAPPED = -1
"""Index of a value that means no class."""
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*(?:({_NUMBER})\s*(?:-|\.\.)\s*({_NUMBER})|({_NUMBER})\s*\.\.|\.\.\s*({_NUMBER}))\s*")


@dataclass(frozen=True)
class ValueMap:
    """Which value means which class.

    Attributes:
        words: value as text -> position in task.classes.
        ranges: (low, high, position), in order, both ends in it; where two meet, the upper one has the end.
    """

    words: Mapping[str, int]
    ranges: tuple[tuple[float, float, int], ...] = ()

    @classmethod
    def of(cls, classes: Sequence[str], values: Mapping[str, Sequence[Value]]) -> ValueMap:
        """The map of labels.classes.

        Args:
            classes: task.classes, in order.
            values: class -> what means it.

        Raises:
            ValueError: a value or a stretch of numbers means two classes, or a range ends before it begins.
        """
        given: dict[str, int] = {}
        ranges = []
        for name, several in values.items():
            index = classes.index(name)
            for value in several:
                if (ends := _range(value)) is not None:
                    ranges.append((*ends, index))
                elif given.setdefault(as_text(value), index) != index:
                    raise ValueError(f"'{value}' means both {classes[given[as_text(value)]]} and {name}")
        ranges.sort()
        last = (-math.inf, -math.inf, UNMAPPED)
        for low, high, index in ranges:
            if UNMAPPED != last[2] != index and (low < last[1] or low == last[0]):
                both = f"{classes[last[2]]} and {classes[index]}"
                raise ValueError(f"the numbers from {low:g} to {min(high, last[1]):g} mean both {both}")
            last = max(last, (low, high, index), key=lambda one: one[1])
        return cls({**{name: k for k, name in enumerate(classes)}, **given}, tuple(ranges))

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Class of each text: (N,) int64, UNMAPPED where it means none."""
        return np.array([self._of_text(text) for text in texts], np.int64)

    def of_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """Class of each number: the shape of `numbers`, int16, UNMAPPED where it means none."""
        found = np.full(numbers.shape, UNMAPPED, np.int16)
        for low, high, index in self.ranges:
            found[(numbers >= low) & (numbers <= high)] = index
        for word, index in self.words.items():
            if (number := _number(word)) is not None:
                found[numbers == number] = index
        return found

    def _of_text(self, text: str) -> int:
        if text in self.words:
            return self.words[text]
        number = _number(text)
        return UNMAPPED if number is None or not text else int(self.of_numbers(np.array([number]))[0])


def as_text(value: object) -> str:
    """A value as text: 3 and 3.0 (what a missing value elsewhere makes of an integer column) are both '3'."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def as_list(value: object) -> list[Value]:
    """What project.yaml writes beside a class: one value or a list of them.

    Raises:
        ValueError: something else.
    """
    several: list[Value] = list(value) if isinstance(value, list) else [value]  # type: ignore[list-item]
    for one in several:
        if isinstance(one, bool) or not isinstance(one, str | int | float) or one == "":
            raise ValueError(f"expected a value, a range like '0-30', or a list of those, found {one!r}")
        _range(one)
    return several


def _range(value: Value) -> tuple[float, float] | None:
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    first, last, from_here, up_to = match.groups()
    low = -math.inf if up_to else float(first or from_here)
    high = math.inf if from_here else float(last or up_to)
    if low > high:
        raise ValueError(f"the range '{value}' ends before it begins")
    return low, high


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
