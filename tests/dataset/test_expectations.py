"""Severities that differ, results that name rows, a report that escapes what partners write."""

from __future__ import annotations

import pandas as pd
import pytest

from olmoearth_core.dataset.expectations import Check, evaluate, failed_errors

TABLES = {
    "windows": pd.DataFrame({"name": ["a", "b", "c"], "value": [1, 5, 2], "date": ["2024-05-01", None, None]}),
    "bands": pd.DataFrame({"name": ["B02"], "p99": [30_000.0]}),
}
BETWEEN = "ExpectColumnValuesToBeBetween"


def test_only_errors_gate() -> None:
    arguments = {"column": "value", "min_value": 0, "max_value": 3}
    results = evaluate(
        TABLES,
        [
            Check("windows", "warning", "small", BETWEEN, arguments),
            Check("windows", "error", "small enough", BETWEEN, {**arguments, "max_value": 9}),
            Check("bands", "error", "reflectance", BETWEEN, {"column": "p99", "min_value": 0, "max_value": 20_000}),
        ],
    )
    assert [(r.sentence, r.passed) for r in results] == [
        ("small", False),
        ("small enough", True),
        ("reflectance", False),
    ]
    assert [r.sentence for r in failed_errors(results)] == ["reflectance"]
    assert results[0].found == "not so for 1 of 3"
    assert results[0].rows == ("b (value 5)",)
    assert results[1].found == ""


def test_a_check_that_cannot_be_evaluated_is_not_met() -> None:
    (result,) = evaluate(TABLES, [Check("bands", "error", "there", BETWEEN, {"column": "gone", "min_value": 0})])
    assert failed_errors([result]) == [result]
    assert 'column "gone"' in result.found


@pytest.mark.parametrize(
    ("kind", "arguments", "found"),
    [
        ("ExpectTableRowCountToBeBetween", {"min_value": 20}, "found 3"),
        ("ExpectColumnValuesToNotBeNull", {"column": "date"}, "not so for 2 of 3"),
    ],
)
def test_what_was_found_is_told(kind: str, arguments: dict[str, object], found: str) -> None:
    (result,) = evaluate(TABLES, [Check("windows", "warning", "so", kind, arguments)])
    assert (result.passed, result.found) == (False, found)
    assert result.to_json()["rows"] == list(result.rows)
