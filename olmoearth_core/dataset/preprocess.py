"""The stage preprocess: the export and the labels become a training set.

    labels -> windows -> cubes and targets -> splits -> statistics -> expectations (which gate)

Leaves cubes.zarr, windows.parquet (one row a window), splits.json (the table of blocks), left_out.json (windows that
could not be used, with reasons), statistics.json, labels.json, expectations.json and expectations.html.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from olmoearth_core.dataset.checks import check_dataset
from olmoearth_core.dataset.compose import THREADS, Composer, Record, compose_windows
from olmoearth_core.dataset.cubes import Layout, TaskLayout, create_cubes
from olmoearth_core.dataset.dataset import CUBES, WINDOWS, Dataset, open_dataset, pixels_column
from olmoearth_core.dataset.drift import compare
from olmoearth_core.dataset.expectations import Result, failed_errors
from olmoearth_core.dataset.label_quality import label_quality
from olmoearth_core.dataset.report import write_report
from olmoearth_core.dataset.statistics import dataset_statistics
from olmoearth_core.errors import DatasetError, ExpectationError
from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import available_bands, read_scenes
from olmoearth_core.labels.frozen import FOLDER, read_blocks
from olmoearth_core.labels.leakage import must_go
from olmoearth_core.labels.split import SPLITS, BlockTable, block_of, block_pixels, splits_of
from olmoearth_core.labels.tasks import TaskLabels, all_windows, read_all
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.project import Project, SplitConfig, TaskConfig
from olmoearth_core.stage import StageRun
from olmoearth_core.store import whole_file, write_json

REPORT = "expectations.html"
STATISTICS = "statistics.json"
DRIFT = "drift.json"
"""In the project's state folder: what came before is no part of a training set, and never hashed."""


def preprocess(run: StageRun) -> dict[str, Any]:
    """Make the training set in `run.out`.

    Raises:
        LabelError: labels that cannot be used.
        DatasetError: no usable window, a class with too few of them, or an export that cannot be read.
        ExpectationError: an expectation of severity error failed; the report's place is in the message.
    """
    project = run.project
    labels = read_all(project)
    every = all_windows(project, labels)
    if not every:
        raise DatasetError("the labels cover no pixel of the grid; they may be smaller than imagery.resolution.")
    split = project.config.dataset.split
    blocks = _blocks(run)
    splits = splits_of(every, split, blocks)
    apart = must_go(every, splits, split, blocks, project.config.imagery.framing.spans)
    windows = [window for window, gone in zip(every, apart, strict=True) if not gone]
    splits = [name for name, gone in zip(splits, apart, strict=True) if not gone]
    records = _compose(run, labels, windows)
    used = [k for k, record in enumerate(records) if not record.left_out]
    left_out = [
        *({"window": every[k].name, "reason": _too_near(split)} for k in np.flatnonzero(apart)),
        *({"window": r.name, "reason": r.left_out} for r in records if r.left_out),
    ]
    _check_samples([records[k] for k in used], left_out, project)

    write_json(run.out / "splits.json", {"kind": split.kind, **(blocks.to_json() if blocks else {})})
    write_json(run.out / "left_out.json", left_out)
    _write_windows(run.out / WINDOWS, windows, records, used, splits, project)
    dataset = open_dataset(run.out)
    statistics = dataset_statistics(dataset, run.progress)
    write_json(run.out / STATISTICS, statistics)
    conflicts = {name: [record.conflicts[name] for record in records] for name in labels}
    quality = label_quality(dataset, labels, windows, conflicts, project, run.progress)
    write_json(run.out / "labels.json", quality)
    warnings = _gate(run, dataset, statistics, quality, left_out)
    _tell_drift(run, statistics)
    reasons = Counter(item["reason"] for item in left_out)
    for reason, count in sorted(reasons.items()):
        run.progress.note(f"{count} of {len(every)} windows left out: {reason}")
    return {
        "windows": {split: len(dataset.indices(split)) for split in SPLITS},
        **{key: statistics[key] for key in ("classes", "values", "auxiliary") if key in statistics},
        "left_out": dict(sorted(reasons.items())),
        "conflicting_pixels": sum(map(sum, conflicts.values())),
        "warnings": warnings,
    }


def _compose(run: StageRun, labels: TaskLabels, windows: list[TrainingWindow]) -> list[Record]:
    config = run.project.config
    export = run.upstream["export"].folder
    scenes = read_scenes(export / "scenes.json", export)
    modalities = config.imagery.modalities
    layout = Layout(
        grid=windows[0].box.grid,
        window_size=config.model.window_size,
        timesteps=len(config.imagery.framing.spans(windows[0].date)),
        tasks={name: TaskLayout.of(task) for name, task in config.tasks.items()},
        bands={m: available_bands(scenes, m) for m in modalities},
        dtypes={m: get_modality(m).dtype for m in modalities},
    )
    for name, bands in layout.bands.items():
        mine = [scene for scene in scenes.scenes if scene.modality == name]
        if poor := [scene for scene in mine if not set(bands) <= scene.assets.keys()]:
            lacking = sorted({band for scene in poor for band in set(bands) - scene.assets.keys()})
            run.progress.note(
                f"{len(poor)} of {len(mine)} scenes of {name} are not used: they lack {', '.join(lacking)}, "
                "which others have"
            )
    cubes = create_cubes(run.out / CUBES, layout, len(windows))
    with AssetReader(run.meter, keep_open=THREADS * 24) as reader:
        composer = Composer(run.project, labels, scenes, layout, reader)
        return compose_windows(windows, composer, cubes, run.scratch, run.progress)


def _check_samples(used: Sequence[Record], left_out: Sequence[dict[str, str]], project: Project) -> None:
    """Refuse a training set that a class, or all that a task is about, is missing from.

    Raises:
        DatasetError: names the classes, how many windows they are in, and why windows were left out.
    """
    reasons = Counter(item["reason"] for item in left_out)
    told = "; ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
    why = f" Left out: {told}." if told else ""
    if not used:
        raise DatasetError(
            f"no window can be used.{why} Choose dates with clear scenes, give imagery.framing more days, "
            "or draw labels that hold the centres of pixels."
        )
    for name, task in project.config.tasks.items():
        _check_task(task, np.array([record.pixels[name] for record in used]), project, why)


def _check_task(task: TaskConfig, pixels: np.ndarray, project: Project, why: str) -> None:
    of = "" if task.name == project.config.task.name else f" of the task '{task.name}'"
    if not pixels.any():
        raise DatasetError(f"no window that can be used holds a label{of}.{why} Label more places or other dates.")
    if task.kind == "regression":  # parts of its range may well be empty
        return
    present, least = (pixels > 0).sum(axis=0), project.config.dataset.min_samples
    few = [
        f"'{name}' in {count}" for name, count in zip(task.class_names, present.tolist(), strict=True) if count < least
    ]
    if few:
        raise DatasetError(
            f"too few training windows of a class{of}: {', '.join(few)}; dataset.min_samples asks for {least} "
            f"each.{why} Label more places, or take the class out of task.classes."
        )


def _blocks(run: StageRun) -> BlockTable | None:
    """The frozen table of blocks among the stage's files; none where splits are not made of blocks."""
    named = [path for name, path in run.files.items() if name.startswith(f"{FOLDER}/")]
    return read_blocks(named[0]) if named else None


def _too_near(split: SplitConfig) -> str:
    if split.kind == "time":
        return "shows ground and days that a window of another split shows as well (imagery.framing reaches that far)"
    if not split.buffer:
        return "overlaps a window of another split"
    ground = "a block or window" if split.kind == "blocks" else "a window"
    return f"less than {split.buffer:g} m from {ground} of another split (dataset.split.buffer)"


def _write_windows(
    path: Path,
    windows: Sequence[TrainingWindow],
    records: Sequence[Record],
    used: Sequence[int],
    splits: Sequence[str],
    project: Project,
) -> None:
    """The GeoParquet index of the used windows; `cube` is the row in cubes.zarr."""
    boxes = [windows[k].box for k in used]
    size = block_pixels(project.config.dataset.split, project.config.model.window_size, boxes[0].grid.resolution)
    places = [block_of(windows[k].centre, size) for k in used]
    main = project.config.task.name
    counts = {name: np.array([records[k].pixels[name] for k in used], np.int64) for name in project.config.tasks}
    table = {
        "name": [windows[k].name for k in used],
        "cube": np.array(used, np.int64),
        "column": [box.column for box in boxes],
        "row": [box.row for box in boxes],
        "date": [windows[k].date for k in used],
        "split": [splits[k] for k in used],
        "block_column": [column for column, _ in places],
        "block_row": [row for _, row in places],
        "valid_share": [records[k].valid_share for k in used],
        "timesteps_seen": [records[k].timesteps_seen for k in used],
        "conflicts": [sum(records[k].conflicts.values()) for k in used],
        **{
            pixels_column(name, stratum, main=main): counts[name][:, index]
            for name, task in project.config.tasks.items()
            for index, stratum in enumerate(task.strata)
        },
        "scenes": [records[k].scenes for k in used],
    }
    outlines = shapely.box(*np.array([box.bounds for box in boxes]).T)
    frame = gpd.GeoDataFrame(table, geometry=outlines, crs=boxes[0].grid.crs)
    with whole_file(path) as partial:
        frame.to_parquet(partial, index=False, compression="zstd")


def _gate(
    run: StageRun,
    dataset: Dataset,
    statistics: dict[str, Any],
    quality: dict[str, Any],
    left_out: Sequence[dict[str, str]],
) -> list[str]:
    """Check the expectations and write their report; the sentences of failed warnings, and remarks on the labels.

    Raises:
        ExpectationError: one of severity error failed. The report then lies in the project's own state folder too,
            since what is in the work folder is not published.
    """
    results = check_dataset(dataset, statistics, quality, run.project, run.progress)
    write_json(run.out / "expectations.json", [result.to_json() for result in results])
    write_report(run.out / REPORT, dataset, statistics, results, left_out, quality)
    kept = run.project.state / REPORT
    errors = failed_errors(results)
    if errors:
        write_report(kept, dataset, statistics, results, left_out, quality)
        raise ExpectationError(
            f"the training set fails {len(errors)} expectation(s): {'; '.join(e.sentence for e in errors[:3])}. "
            f"Nothing was published; the report is {kept}."
        )
    kept.unlink(missing_ok=True)
    failed = [result for result in results if not result.passed]
    warnings = [
        *(row for result in failed if result.table == "labels" for row in result.rows),
        *quality["remarks"],
        *(_told(result) for result in failed if result.table != "labels"),
    ]
    for warning in warnings:
        run.progress.note(f"Warning: {warning}")
    return warnings


def _told(result: Result) -> str:
    """A failed expectation as one sentence: what was expected, and of which rows that is not true."""
    which = "; ".join(result.rows[:3]) + ("; ..." if len(result.rows) > 3 else "")
    return f"expected that {result.sentence}: {result.found}" + (f" ({which})" if which else "")


def _tell_drift(run: StageRun, statistics: dict[str, Any]) -> None:
    """Compare with the training set that is about to be replaced, if there is one; keep and tell what moved far."""
    former = run.project.root / "data" / "dataset" / STATISTICS
    try:
        found = compare(json.loads(former.read_text()), statistics)
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or one of another version of the platform
        return
    write_json(run.project.state / DRIFT, [asdict(drift) | {"large": drift.large} for drift in found])
    for drift in found:
        if drift.large:
            how_far = "" if drift.index is None else f" (stability index {drift.index:.2f})"
            run.progress.note(f"drifted from the training set before (warning): {drift.about} {drift.found}{how_far}")
