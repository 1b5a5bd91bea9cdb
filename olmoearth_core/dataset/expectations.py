"""What a training set has to fulfil before anybody trains on it.

Great Expectations evaluates; we gate: a failed expectation of severity error stops the run, a warning is shown and
written down. (Great Expectations itself counts both as failures.) What is expected stands in checks.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd

Severity = Literal["error", "warning"]
_GX_SEVERITY = {"error": "critical", "warning": "warning"}

SHOWN = 10
"""Names of rows that a result lists."""


@dataclass(frozen=True)
class Check:
    """One expectation.

    Attributes:
        table: whose rows it is about.
        severity: "error" gates, "warning" tells.
        sentence: what is expected, in a partner's words.
        kind: class in great_expectations.expectations.
        arguments: of that class.
    """

    table: str
    severity: Severity
    sentence: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came of a check.

    Attributes:
        found: what was found instead, in words; empty when passed.
        rows: the first few rows that do not fulfil it.
    """

    table: str
    severity: Severity
    sentence: str
    passed: bool
    found: str
    rows: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"rows": list(self.rows)}


def failed_errors(results: Iterable[Result]) -> list[Result]:
    """The results that gate."""
    return [result for result in results if not result.passed and result.severity == "error"]


def evaluate(tables: Mapping[str, pd.DataFrame], checks: Sequence[Check]) -> list[Result]:
    """Evaluate `checks` on `tables`, whose column `name` names the rows. Results come in the order of the checks.

    A column `<column>_told` says of each row, in words, what `<column>` says as a number.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package imports deprecated modules
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        source = context.data_sources.add_pandas("dataset")
        found: dict[int, Any] = {}
        for name, table in tables.items():
            mine = [k for k, check in enumerate(checks) if check.table == name]
            suite = gx.ExpectationSuite(
                name,
                expectations=[
                    getattr(gx.expectations, checks[k].kind)(
                        **checks[k].arguments, severity=_GX_SEVERITY[checks[k].severity], meta={"check": k}
                    )
                    for k in mine
                ],
            )
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
            outcome = batch.get_batch({"dataframe": table}).validate(
                suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["name"]}
            )
            found |= {r.expectation_config.meta["check"]: r for r in outcome.results}
    return [_result(check, found[k].to_json_dict(), tables[check.table]) for k, check in enumerate(checks)]


def _result(check: Check, outcome: Mapping[str, Any], table: pd.DataFrame) -> Result:
    result = outcome["result"]
    passed = bool(outcome["success"])
    rows: list[str] = []
    for index in result.get("unexpected_index_list") or []:
        name = index["name"]
        if (told := f"{check.arguments.get('column')}_told") in table:
            rows.append(f"{name}: {table.loc[table['name'] == name, told].iloc[0]}")
            continue
        values = ", ".join(f"{key} {_plain(value)}" for key, value in index.items() if key != "name")
        rows.append(f"{name} ({values})")
    if passed:
        found = ""
    elif message := _exception(outcome["exception_info"]):
        found = f"could not be evaluated ({message})"
    elif "unexpected_count" in result:
        found = f"not so for {result['unexpected_count']} of {result['element_count']}"
    else:
        found = f"found {result.get('observed_value')}"
    return Result(check.table, check.severity, check.sentence, passed, found, () if passed else tuple(rows[:SHOWN]))


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _exception(info: Mapping[str, Any]) -> str:
    """The message of an exception inside Great Expectations, which names it once or once for each metric."""
    message = info.get("exception_message") or ""
    nested = [_exception(value) for value in info.values() if isinstance(value, dict)]
    return str(message or next(filter(None, nested), ""))
