"""The label quality report of a training set: labels as they are, what splits have in common, what the imagery says.

Leaves labels.json; what is worth a warning are rows of the expectations' table of label files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.labels.agreement import MAX_SHIFT, Agreement, Samples, agreement
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.leakage import measure
from olmoearth_core.labels.quality import Remark, label_facts
from olmoearth_core.labels.targets import make_target
from olmoearth_core.labels.tasks import TaskLabels
from olmoearth_core.labels.windows import IGNORE, TrainingWindow
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project

VALUES = 12_000_000
"""Numbers (pixels times bands and timesteps) that are looked at for one file: what bounds memory."""
FILES = 50
"""Label files that are held against the imagery."""


def label_quality(
    dataset: Dataset,
    labels: TaskLabels,
    windows: Sequence[TrainingWindow],
    conflicts: Mapping[str, Sequence[int]],
    project: Project,
    progress: Progress,
) -> dict[str, Any]:
    """JSON values: files, classes, crowding, extent, conflicts, imagery by file, leakage, remarks.

    What is of one task's labels is so of the main one's; where there are others, it stands below auxiliary and their
    names. Leakage and remarks are of all.

    Args:
        dataset: the training set.
        labels: what it was made of.
        windows: all windows of the labels, in use or not.
        conflicts: task -> the pixels of each window on which its labels contradict each other.
    """
    table = dataset.windows
    boxes = [dataset.box(k) for k in range(len(dataset))]
    spans = project.config.imagery.framing.spans
    leakage = measure(boxes, list(table["split"]), list(table["date"]), labels.values(), spans)
    told, remarks = {}, []
    for name, own in labels.items():
        told[name], more = _of_task(dataset, name, own, windows, conflicts[name], project.view(name), progress)
        of = f"{name}: " if name != dataset.main else ""
        remarks += [f"{of}{remark.where}: {remark.message}" for remark in more]
    main = told.pop(dataset.main)
    return {**main, **({"auxiliary": told} if told else {}), "leakage": leakage.to_json(), "remarks": remarks}


def _of_task(
    dataset: Dataset,
    task: str,
    labels: Labels,
    windows: Sequence[TrainingWindow],
    conflicts: Sequence[int],
    project: Project,
    progress: Progress,
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """What is known of the labels of one task, and what is worth a warning."""
    used = {name: row for row, name in enumerate(dataset.windows["name"])}
    counts = dataset.pixels(task)
    pixels = np.zeros((len(windows), counts.shape[1]), np.int64)
    for k, window in enumerate(windows):
        if window.name in used:
            pixels[k] = counts[used[window.name]]
    found = label_facts(project, labels, windows, pixels, np.asarray(conflicts))
    files = [source for source in project.config.labels.files if source in found.facts["files"]][:FILES]
    imagery = {}
    with progress.bar("Comparing labels with the imagery", len(files)) as advance:
        for source in files:
            imagery[source] = _told(dataset, *_agreement(dataset, task, labels.of(source)))
            advance(1)
    return {**found.facts, "imagery": imagery}, found.remarks


def label_table(quality: dict[str, Any], resolution: float) -> pd.DataFrame:
    """One row a label file, for the expectations: doubles (share), shift (pixels), look_alikes (share).

    Beside each number a sentence for who reads the warning: `doubles_told`, `shift_told`, `look_alikes_told`.
    """
    rows = _label_rows(quality, resolution, "")
    for task, its in quality.get("auxiliary", {}).items():
        rows += _label_rows(its, resolution, f"{task}: ")
    return pd.DataFrame(rows)


def _label_rows(quality: dict[str, Any], resolution: float, of: str) -> list[dict[str, Any]]:
    rows = []
    for source, facts in quality["files"].items():
        imagery = quality["imagery"].get(source, {})
        suspicious = [pair for pair in imagery.get("look_alikes", []) if pair["suspicious"]]
        twice = facts.get("doubles", {"count": 0})["count"]
        rows.append(
            {
                "name": f"{of}{source}",
                "doubles": twice / max(facts.get("labels", 1), 1),
                "doubles_told": f"{twice} of {facts.get('labels', 0)} labels are there twice",
                "shift": float(np.hypot(*imagery.get("shift_metres", [0.0, 0.0]))) / resolution,
                "shift_told": shift_sentence(imagery),
                "look_alikes": suspicious[0]["share"] if suspicious else 0.0,
                "look_alikes_told": look_alike_sentence(suspicious[0]) if suspicious else "",
            }
        )
    return rows


def shift_sentence(imagery: Mapping[str, Any]) -> str:
    """Which way the labels of a file would fit better; empty where they lie well."""
    east, south = imagery.get("shift_metres", [0.0, 0.0])
    ways = [
        f"{abs(metres):.0f} m {positive if metres > 0 else negative}"
        for metres, positive, negative in ((east, "east", "west"), (south, "south", "north"))
        if metres
    ]
    return f"the labels fit the imagery better when moved {' and '.join(ways)}" if ways else ""


def look_alike_sentence(pair: Mapping[str, Any]) -> str:
    """How many pixels look like another class than they are labelled as, and where they lie."""
    labelled, like, metres = pair["labelled"], pair["like"], pair["near_metres"]
    near = pair["near"]
    where = f"{near:.0%} lie within {metres:.0f} m of labelled {like} (outlines too small, or beside it), "
    rest = f"{1 - near:.0%} farther away (places without an outline)"
    typical = pair["pixels"] / pair["share"]
    return (
        f"{pair['pixels']:,} pixels labelled {labelled} look just like typical {like}, of which {typical:,.0f} are "
        f"labelled: labels of {like} seem to be missing or misplaced. {where}{rest}"
    )


def _told(dataset: Dataset, found: Agreement, rows: Sequence[int]) -> dict[str, Any]:
    """What was found, with shifts in metres east and south, and names of windows."""
    names = dataset.windows["name"].to_numpy()[np.asarray(rows, np.int64)]
    return {
        "windows": len(rows),
        "separability": found.separability,
        "shift_metres": [found.shift[1] * dataset.resolution, found.shift[0] * dataset.resolution],
        "shifted_separability": found.shifted_separability,
        "look_alikes": [
            {
                "labelled": pair.labelled,
                "like": pair.like,
                "share": pair.share,
                "recognised": pair.recognised,
                "recognised_rest": pair.recognised_rest,
                "pixels": pair.pixels,
                "near": pair.near,
                "near_metres": MAX_SHIFT * dataset.resolution,
                "side_by_side": pair.side_by_side,
                "suspicious": pair.suspicious,
                "windows": names[list(pair.windows)].tolist(),
            }
            for pair in found.look_alikes
            if pair.share >= 0.01
        ],
    }


def _agreement(dataset: Dataset, task: str, labels: Labels) -> tuple[Agreement, list[int]]:
    """How the labels of one file agree with a sample of the windows of their dates, and the rows of that sample."""
    bands = sum(len(names) for names in dataset.bands.values()) * dataset.timesteps
    wanted = max(8, VALUES // (dataset.window_size**2 * bands))
    rows, targets = [], []
    for row in _mixed(dataset, task, labels):
        box = dataset.box(row)
        target = make_target(labels, TrainingWindow("", box, dataset.windows["date"].iloc[row])).classes
        if (target != IGNORE).any():
            rows.append(row)
            targets.append(target)
        if len(rows) == wanted:
            break
    if not rows:
        return Agreement(None, (0, 0), None, ()), []
    pixels, seen = _features(dataset, rows)
    corners = dataset.windows[["row", "column"]].to_numpy(np.int64)[rows]
    found = agreement(Samples(pixels, seen, np.stack(targets), corners), dataset.tasks[task].strata)
    # neighbouring parts of a range look alike, and no label is missing
    return replace(found, look_alikes=()) if labels.kind == "regression" else found, rows


def _mixed(dataset: Dataset, task: str, labels: Labels) -> list[int]:
    """Rows of the windows of the labels' dates in an order without meaning, in which each class comes soon."""
    rows = np.flatnonzero(dataset.windows["date"].isin(labels.dates))
    rows = np.random.default_rng(0).permutation(rows)
    has = dataset.pixels(task)[rows] > 0
    turn = np.where(has, np.cumsum(has, axis=0), len(rows) + 1).min(axis=1)
    return [int(row) for row in rows[np.argsort(turn, kind="stable")]]


def _features(dataset: Dataset, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(values (N, H, W, F) float32 of all bands and timesteps, seen (N, H, W) bool).

    Whole numbers are reflectances: their logarithm is nearer to a Gaussian. Where a timestep shows nothing, the pixel's
    mean over the others stands in.
    """
    values: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    for first in range(0, len(rows), dataset.at_once):
        for sample in dataset.read(rows[first : first + dataset.at_once]):
            parts, shown = [], []
            for modality, cube in sample.inputs.items():
                valid = sample.valid[modality][:, None]
                value = np.log(np.maximum(cube, 1)) if cube.dtype.kind in "ui" else cube
                count = valid.sum(axis=0)
                mean = np.where(valid, value, 0).sum(axis=0) / np.maximum(count, 1)
                parts.append(np.where(valid, value, mean).astype(np.float32).reshape(-1, *cube.shape[2:]))
                shown.append(count[0] > 0)
            values.append(np.moveaxis(np.concatenate(parts), 0, -1))
            seen.append(np.all(shown, axis=0))
    return np.stack(values), np.stack(seen)
