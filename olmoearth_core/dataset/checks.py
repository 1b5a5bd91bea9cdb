"""The expectations of a training set: what its windows, classes, timesteps and bands have to fulfil.

One table each, and for bands one for each kind of values: what is usual for reflectance is not for radar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.dataset.expectations import Check, Result, evaluate
from olmoearth_core.dataset.label_quality import label_table
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.labels.agreement import LOOK_ALIKES, MIN_SHIFT
from olmoearth_core.labels.leakage import gaps, shared_imagery
from olmoearth_core.labels.split import SPLITS, block_pixels
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project, SplitConfig, TaskConfig

HIGHEST = 20_000
"""Sentinel-2 DN above which a value is no reflectance any more (2.0); snow and glint reach 1.6."""
SEEN = 0.05
"""Share of valid pixels below which a timestep is as good as missing."""


def check_dataset(
    dataset: Dataset, statistics: Mapping[str, Any], quality: dict[str, Any], project: Project, progress: Progress
) -> list[Result]:
    """Evaluate every expectation on a training set, its statistics and its label quality report."""
    tables = {
        "windows": _window_table(dataset, project),
        **{of: _class_table(task, found) for task, of, found in _tasks(statistics, project)},
        **{f"values{of[7:]}": _value_table(found) for task, of, found in _tasks(statistics, project) if task.range},
        "timesteps": _timestep_table(statistics),
        **_band_tables(statistics),
        "labels": label_table(quality, dataset.resolution),
    }
    checks = [
        *_window_checks(dataset, project),
        *(check for values in _band_tables(statistics) for check in _band_checks(values)),
        *_timestep_checks(),
        *(c for task, of, _ in _tasks(statistics, project) for c in _task_checks(task, of, project)),
        *_label_checks(),
    ]
    with progress.bar("Checking expectations", len(checks)) as advance:
        results = evaluate(tables, checks)
        advance(len(checks))
    return results


def _window_table(dataset: Dataset, project: Project) -> pd.DataFrame:
    table = pd.DataFrame(dataset.windows.drop(columns=["geometry", "scenes"]))
    table["labelled_pixels"] = np.max([dataset.pixels(name).sum(axis=1) for name in dataset.tasks], axis=0)
    table["conflict_share"] = table["conflicts"] / dataset.window_size**2
    table["splits_of_place"] = table.groupby(["column", "row"])["split"].transform("nunique")
    table["splits_of_block"] = table.groupby(["block_column", "block_row"])["split"].transform("nunique")
    boxes = [dataset.box(k) for k in range(len(dataset))]
    table["gap"] = np.minimum(gaps(boxes, list(table["split"]), _held_out(dataset, project.config.dataset.split)), 1e9)
    table["gap_of_training"] = table["gap"].where(table["split"] == "train", 1e9)
    spans = project.config.imagery.framing.spans
    table["shared_imagery"] = shared_imagery(boxes, list(table["split"]), list(table["date"]), spans).astype(int)
    return table


def _held_out(dataset: Dataset, split: SplitConfig) -> list[PixelBox]:
    """The ground of the blocks for validation and test, from which training keeps the buffer."""
    if split.kind != "blocks" or not split.buffer:
        return []
    size = block_pixels(split, dataset.window_size, dataset.resolution)
    table = dataset.windows[dataset.windows["split"] != "train"]
    places = sorted(set(zip(table["block_column"], table["block_row"], strict=True)))
    return [dataset.grid.box(int(column) * size, int(row) * size, size, size) for column, row in places]


def _band_tables(statistics: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """One table for each kind of values: "reflectance", "backscatter", "counts"."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for modality, bands in statistics["bands"].items():
        for band, values in bands.items():
            row = {"name": f"{modality} {band}", **{k: v for k, v in values.items() if k != "percentiles"}}
            row |= {f"p{p}": v for p, v in values.get("percentiles", {}).items()}
            rows.setdefault(get_modality(modality).values, []).append(row)
    return {kind: pd.DataFrame(bands) for kind, bands in rows.items()}


def _timestep_table(statistics: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {"name": f"{modality}, timestep {t + 1}", "valid_share": share}
        for modality, shares in statistics["valid"].items()
        for t, share in enumerate(shares)
    )


def _tasks(statistics: Mapping[str, Any], project: Project) -> list[tuple[TaskConfig, str, Mapping[str, Any]]]:
    """(task, name of its table, its statistics), the main task first: its table is just "classes"."""
    main, *others = project.config.tasks.values()
    more = [(task, f"classes of {task.name}", statistics["auxiliary"][task.name]) for task in others]
    return [(main, "classes", statistics), *more]


def _value_table(statistics: Mapping[str, Any]) -> pd.DataFrame:
    values = statistics["values"]["train"]
    return pd.DataFrame([{"name": "train", "count": values["count"], "std": values.get("std", 0.0)}])


def _class_table(task: TaskConfig, statistics: Mapping[str, Any]) -> pd.DataFrame:
    """A row a class, or a part of a regression's range that holds values: not all of it may be there on the ground."""
    total = sum(split["pixels"] for splits in statistics["classes"].values() for split in splits.values())
    return pd.DataFrame(
        {
            "name": name,
            "windows": sum(splits[split]["windows"] for split in SPLITS),
            "share": sum(splits[split]["pixels"] for split in SPLITS) / max(total, 1),
            **{split: splits[split]["windows"] for split in SPLITS},
        }
        for name, splits in statistics["classes"].items()
        if not task.range or any(splits[split]["windows"] for split in SPLITS)
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
        sentence = "no place is seen on the same days in two splits"
        return [Check("windows", "error", sentence, between, _between("shared_imagery", 0, 0))]
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
            "labels lie where the imagery shows them, to a pixel",
            between,
            _between("shift", 0, MIN_SHIFT),
        ),
        Check(
            "labels",
            "warning",
            "what looks just like a class is labelled as it",
            between,
            _between("look_alikes", 0, LOOK_ALIKES),
        ),
        Check("labels", "warning", "labels are there once (at most 1 % twice)", between, _between("doubles", 0, 0.01)),
    ]


def _band_checks(values: str) -> list[Check]:
    """What the bands of one kind of values have to fulfil."""
    between = "ExpectColumnValuesToBeBetween"
    there = Check(values, "error", "every band has valid training pixels", between, _between("count", 1))
    varied = Check(values, "warning", "a band varies (standard deviation of at least 1)", between, _between("std", 1))
    match values:
        case "backscatter":
            return [
                there,
                Check(
                    values,
                    "error",
                    "a band's median is a backscatter in dB (-50 to 5)",
                    between,
                    _between("p50", -50, 5),
                ),
                Check(
                    values,
                    "error",
                    "a band reaches below 0 dB (linear power never does)",
                    between,
                    _between("p1", None, 0),
                ),
                Check(values, "warning", "a band's mean is usual (-35 to 0 dB)", between, _between("mean", -35, 0)),
                Check(values, "warning", "a band varies (by 0.1 dB at least)", between, _between("std", 0.1)),
            ]
        case "counts":
            return [
                there,
                Check(
                    values,
                    "error",
                    "99 % of a band's pixels are Level 1 numbers below saturation (1 to 65534)",
                    between,
                    _between("p99", 1, 65_534),
                ),
                Check(
                    values,
                    "warning",
                    "a band's mean is usual for Level 1 numbers (1000 to 45000)",
                    between,
                    _between("mean", 1000, 45_000),
                ),
                varied,
            ]
        case _:
            return [
                there,
                Check(
                    values,
                    "error",
                    f"99 % of a band's pixels are reflectances x 10000 (0 to {HIGHEST})",
                    between,
                    _between("p99", 0, HIGHEST),
                ),
                Check(
                    values,
                    "warning",
                    f"no pixel of a band is above {HIGHEST} (clouds and glint that the mask missed)",
                    between,
                    _between("max", 0, HIGHEST),
                ),
                Check(
                    values,
                    "warning",
                    "a band's mean is usual for land or water (50 to 6000; less hints at wrong units, more at clouds)",
                    between,
                    _between("mean", 50, 6000),
                ),
                varied,
            ]


def _timestep_checks() -> list[Check]:
    return [
        Check(
            "timesteps",
            "warning",
            f"every timestep shows {SEEN:.0%} of the training pixels",
            "ExpectColumnValuesToBeBetween",
            _between("valid_share", SEEN),
        )
    ]


def _task_checks(task: TaskConfig, of: str, project: Project) -> list[Check]:
    between = "ExpectColumnValuesToBeBetween"
    config = project.config.dataset
    held_out = config.split.held_out()
    if task.range:
        values, low, high = f"values{of[7:]}", *task.range
        part = "every part of the range that holds values"
        return [
            Check(values, "error", "there are values in training", between, _between("count", 1)),
            Check(
                values,
                "error",
                "the values in training vary (by a thousandth of the range)",
                between,
                _between("std", (high - low) / 1000),
            ),
            *(
                Check(of, "warning", f"{part} is in {split}", between, _between(split, 1))
                for split in ("train", *held_out)
            ),
        ]
    return [
        Check(
            of,
            "error",
            f"every class is in at least {config.min_samples} windows (dataset.min_samples)",
            between,
            _between("windows", config.min_samples),
        ),
        Check(of, "error", "every class is in training", between, _between("train", 1)),
        *(Check(of, "warning", f"every class is in {split}", between, _between(split, 1)) for split in held_out),
        Check(of, "warning", "every class is in five training windows", between, _between("train", 5)),
        Check(of, "warning", "every class has 1 % of the labelled pixels", between, _between("share", 0.01)),
    ]
