"""What a training set has to fulfil before anybody trains on it.

Great Expectations evaluates; we gate: a failed expectation of severity error stops the run, a warning is shown and
written down. (Great Expectations itself counts both as failures.) Four tables are looked at: one row a window, one a
band, one a class, one a label file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.dataset.label_quality import label_table
from olmoearth_core.labels.agreement import LOOK_ALIKES, MIN_SHIFT
from olmoearth_core.labels.leakage import gaps, shared_imagery
from olmoearth_core.labels.split import SPLITS
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project, SplitConfig

Table = Literal["windows", "bands", "classes", "labels"]
Severity = Literal["error", "warning"]
_GX_SEVERITY = {"error": "critical", "warning": "warning"}

HIGHEST = 20_000
"""Sentinel-2 DN above which a value is no reflectance any more (2.0); snow and glint reach 1.6."""
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

    table: Table
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

    table: Table
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


def check_dataset(
    dataset: Dataset, statistics: Mapping[str, Any], quality: dict[str, Any], project: Project, progress: Progress
) -> list[Result]:
    """Evaluate every expectation on a training set, its statistics and its label quality report."""
    tables = {
        "windows": _window_table(dataset, project),
        "bands": _band_table(statistics),
        "classes": _class_table(statistics, project),
        "labels": label_table(quality, dataset.resolution),
    }
    checks = [*_window_checks(dataset, project), *_band_checks(), *_class_checks(project), *_label_checks()]
    with progress.bar("Checking expectations", len(checks)) as advance:
        results = evaluate(tables, checks)
        advance(len(checks))
    return results


def evaluate(tables: Mapping[str, pd.DataFrame], checks: Sequence[Check]) -> list[Result]:
    """Evaluate `checks` on `tables`, whose column `name` names the rows. Results come in the order of the checks."""
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
    return [_result(check, found[k].to_json_dict()) for k, check in enumerate(checks)]


def _result(check: Check, outcome: Mapping[str, Any]) -> Result:
    result = outcome["result"]
    passed = bool(outcome["success"])
    rows: list[str] = []
    for index in result.get("unexpected_index_list") or []:
        values = ", ".join(f"{key} {value}" for key, value in index.items() if key != "name")
        rows.append(f"{index['name']} ({values})")
    if passed:
        found = ""
    elif message := _exception(outcome["exception_info"]):
        found = f"could not be evaluated ({message})"
    elif "unexpected_count" in result:
        found = f"{result['unexpected_count']} of {result['element_count']} rows do not"
    else:
        found = f"found {result.get('observed_value')}"
    return Result(check.table, check.severity, check.sentence, passed, found, () if passed else tuple(rows[:SHOWN]))


def _exception(info: Mapping[str, Any]) -> str:
    """The message of an exception inside Great Expectations, which names it once or once for each metric."""
    message = info.get("exception_message") or ""
    nested = [_exception(value) for value in info.values() if isinstance(value, dict)]
    return str(message or next(filter(None, nested), ""))


def _window_table(dataset: Dataset, project: Project) -> pd.DataFrame:
    table = pd.DataFrame(dataset.windows.drop(columns=["geometry", "scenes"]))
    pixels = table[[f"pixels_{name}" for name in dataset.classes]]
    table["labelled_pixels"] = pixels.sum(axis=1)
    table["conflict_share"] = table["conflicts"] / dataset.window_size**2
    table["splits_of_place"] = table.groupby(["column", "row"])["split"].transform("nunique")
    table["splits_of_block"] = table.groupby(["block_column", "block_row"])["split"].transform("nunique")
    boxes = [dataset.box(k) for k in range(len(dataset))]
    table["gap"] = np.minimum(gaps(boxes, list(table["split"])), 1e9)
    table["gap_of_training"] = table["gap"].where(table["split"] == "train", 1e9)
    spans = project.config.imagery.framing.spans
    table["shared_imagery"] = shared_imagery(boxes, list(table["split"]), list(table["date"]), spans).astype(int)
    return table


def _band_table(statistics: Mapping[str, Any]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"name": f"{modality} {band}", **{k: v for k, v in values.items() if k != "percentiles"}}
        | {f"p{p}": v for p, v in values.get("percentiles", {}).items()}
        for modality, bands in statistics["bands"].items()
        for band, values in bands.items()
    ]
    return pd.DataFrame(rows)


def _class_table(statistics: Mapping[str, Any], project: Project) -> pd.DataFrame:
    total = sum(split["pixels"] for splits in statistics["classes"].values() for split in splits.values())
    return pd.DataFrame(
        {
            "name": name,
            "windows": sum(splits[split]["windows"] for split in SPLITS),
            "share": sum(splits[split]["pixels"] for split in SPLITS) / max(total, 1),
            **{split: splits[split]["windows"] for split in SPLITS},
        }
        for name, splits in statistics["classes"].items()
    )


def _between(column: str, low: float | None, high: float | None = None, **more: Any) -> dict[str, Any]:
    return {"column": column, "min_value": low, "max_value": high, **more}


def _window_checks(dataset: Dataset, project: Project) -> list[Check]:
    between, unique = "ExpectColumnValuesToBeBetween", "ExpectColumnValuesToBeUnique"
    least, half = project.config.dataset.min_valid, math.ceil(dataset.timesteps / 2)
    area = dataset.window_size**2
    return [
        Check("windows", "error", "every window has a name of its own", unique, {"column": "name"}),
        Check(
            "windows",
            "error",
            "a place is there once for each date",
            "ExpectCompoundColumnsToBeUnique",
            {"column_list": ["column", "row", "date"]},
        ),
        Check("windows", "error", "every window has a date", "ExpectColumnValuesToNotBeNull", {"column": "date"}),
        Check(
            "windows",
            "error",
            "every window is in training, validation or test",
            "ExpectColumnValuesToBeInSet",
            {"column": "split", "value_set": list(SPLITS)},
        ),
        *_split_checks(project.config.dataset.split),
        Check(
            "windows", "error", f"at least {least:.0%} of a window is valid", between, _between("valid_share", least, 1)
        ),
        Check("windows", "error", "every window has labelled pixels", between, _between("labelled_pixels", 1, area)),
        Check(
            "windows",
            "warning",
            "labels of different classes hardly overlap (at most 1 % of a window, in 19 of 20 windows)",
            between,
            _between("conflict_share", 0, 0.01, mostly=0.95),
        ),
        Check(
            "windows",
            "warning",
            f"four of five windows see half of the timesteps ({half} of {dataset.timesteps})",
            between,
            _between("timesteps_seen", half, mostly=0.8),
        ),
        Check(
            "windows", "warning", "there are at least 20 windows", "ExpectTableRowCountToBeBetween", {"min_value": 20}
        ),
    ]


def _split_checks(split: SplitConfig) -> list[Check]:
    """The leakage test: what windows of different splits may have in common."""
    between = "ExpectColumnValuesToBeBetween"
    if split.kind == "time":
        sentence = "no place is seen on the same days in two splits (else leave more time between them)"
        return [Check("windows", "warning", sentence, between, _between("shared_imagery", 0, 0))]
    checks = [
        Check("windows", "error", "a place is in one split on all dates", between, _between("splits_of_place", 1, 1)),
        Check("windows", "error", "windows of different splits have no pixel in common", between, _between("gap", 0)),
    ]
    if split.kind == "blocks":
        sentence = "a block is in one split"
        checks.append(Check("windows", "error", sentence, between, _between("splits_of_block", 1, 1)))
    if split.buffer:
        sentence = f"a training window is {split.buffer:g} m from windows of other splits (dataset.split.buffer)"
        checks.append(Check("windows", "error", sentence, between, _between("gap_of_training", split.buffer - 1e-6)))
    return checks


def _label_checks() -> list[Check]:
    between = "ExpectColumnValuesToBeBetween"
    return [
        Check(
            "labels",
            "warning",
            "labels lie where the imagery shows them (they do not agree better when moved by two pixels or more)",
            between,
            _between("shift", 0, MIN_SHIFT),
        ),
        Check(
            "labels",
            "warning",
            "no class looks as if labels of it were missing or misplaced (per 100 of its pixels, less than "
            f"{LOOK_ALIKES * 100:.0f} of another class that look just like it)",
            between,
            _between("look_alikes", 0, LOOK_ALIKES),
        ),
        Check("labels", "warning", "hardly a label is there twice (1 %)", between, _between("doubles", 0, 0.01)),
    ]


def _band_checks() -> list[Check]:
    between = "ExpectColumnValuesToBeBetween"
    return [
        Check("bands", "error", "every band has valid training pixels", between, _between("count", 1)),
        Check(
            "bands",
            "error",
            f"99 % of a band's pixels are reflectances x 10000 (0 to {HIGHEST})",
            between,
            _between("p99", 0, HIGHEST),
        ),
        Check(
            "bands",
            "warning",
            f"no pixel of a band is above {HIGHEST} (clouds and glint that the mask missed)",
            between,
            _between("max", 0, HIGHEST),
        ),
        Check(
            "bands",
            "warning",
            "a band's mean is usual for land or water (50 to 6000; less hints at wrong units, more at clouds)",
            between,
            _between("mean", 50, 6000),
        ),
        Check("bands", "warning", "a band varies (standard deviation of at least 1)", between, _between("std", 1)),
    ]


def _class_checks(project: Project) -> list[Check]:
    between = "ExpectColumnValuesToBeBetween"
    config = project.config.dataset
    held_out = config.split.held_out()
    return [
        Check(
            "classes",
            "error",
            f"every class is in at least {config.min_samples} windows (dataset.min_samples)",
            between,
            _between("windows", config.min_samples),
        ),
        Check("classes", "error", "every class is in training", between, _between("train", 1)),
        *(Check("classes", "warning", f"every class is in {split}", between, _between(split, 1)) for split in held_out),
        Check("classes", "warning", "every class is in five training windows", between, _between("train", 5)),
        Check("classes", "warning", "every class has 1 % of the labelled pixels", between, _between("share", 0.01)),
    ]
