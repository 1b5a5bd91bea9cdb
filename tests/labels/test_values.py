"""Values that mean classes: words, codes, ranges, and what contradicts itself."""

from __future__ import annotations

import numpy as np
import pytest

from olmoearth_core.labels.values import ValueMap, as_list

CLASSES = ["open", "forest", "water"]


def test_words_numbers_and_ranges() -> None:
    values = ValueMap.of(CLASSES, {"open": ["0-30", 99], "forest": ["30..100"], "water": ["lake", -1, "200.."]})
    texts = ["open", "lake", "12.5", "30", "100", "-1", "99", "300", "bog", "", "forest"]
    assert values.of_texts(texts).tolist() == [0, 2, 0, 1, 1, 2, 0, 2, -1, -1, 1]
    numbers = np.array([[0, 29.9, 30], [99, 150, 1e6]])
    assert values.of_numbers(numbers).tolist() == [[0, 0, 1], [0, -1, 2]]


def test_classes_named_by_numbers_need_no_map() -> None:
    values = ValueMap.of(["3", "7"], {})
    assert values.of_numbers(np.array([3, 7, 4], np.uint8)).tolist() == [0, 1, -1]


def test_negative_ranges() -> None:
    values = ValueMap.of(CLASSES, {"water": ["-3--1"], "open": ["..-5"]})
    assert values.of_numbers(np.array([-2, -5, -4, -900])).tolist() == [2, 0, -1, 0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"open": ["0-30"], "forest": ["20-40"]}, "the numbers from 20 to 30 mean both open and forest"),
        ({"open": ["0-100"], "forest": ["90-200"], "water": []}, "from 90 to 100"),
        ({"open": ["0-100", "5-7"], "forest": ["30-40"]}, "from 30 to 40 mean both open and forest"),
        ({"open": [3], "forest": [3.0]}, "'3.0' means both open and forest"),
        ({"open": ["9-3"]}, "the range '9-3' ends before it begins"),
    ],
)
def test_one_value_means_one_class(values: dict[str, list[str | int | float]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ValueMap.of(CLASSES, values)


@pytest.mark.parametrize("value", [None, True, {"a": 1}, "", [1, None]])
def test_what_is_no_value_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a value, a range"):
        as_list(value)
