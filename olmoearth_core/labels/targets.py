"""What labels say of the pixels of a window: by which rules they claim them, and agree or contradict each other.

A polygon claims the pixels whose centres it holds, a line those it touches, a point the one under it, a raster those
whose centres its pixels hold.

    segmentation      the class of the labels that claim the pixel; of different classes they contradict each other
    regression        the mean of the values that are claimed for it: measuring twice gives two numbers; only those that
                      are further apart than a stratum is wide contradict each other
    classification    the class of the label that has its middle in the window's, on the pixels that it claims (or the
                      one in the middle, where it is too small); labels around it are another window's
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from rasterio.features import rasterize as burn

from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.places import pixels_under
from olmoearth_core.labels.windows import IGNORE, TrainingWindow
from olmoearth_core.progress import Progress
from olmoearth_core.project import TaskConfig
from olmoearth_core.project_labels import STRATA

_ONE_AT_A_TIME = threading.Lock()
"""rasterio silences a warning while it burns, in a way that two threads at once turn into a warning or an error."""


@dataclass(frozen=True)
class Target:
    """What is known about the pixels of a window.

    Attributes:
        classes: (H, W) uint8, position in task.strata; IGNORE where nothing is known, or labels contradict each other.
        conflicts: pixels that labels of different classes (or values far apart) claim; they are IGNORE in `classes`.
        values: (H, W) float32, NaN exactly where `classes` is IGNORE; None unless it is a regression.
    """

    classes: np.ndarray
    conflicts: int
    values: np.ndarray | None = None


def make_target(labels: Labels, window: TrainingWindow) -> Target:
    """The target of a window, from the labels of its date. The order of files and features makes no difference."""
    match labels.kind:
        case "classification":
            return _of_window(labels, window)
        case "regression":
            assert labels.task is not None
            return _of_values(labels, labels.task, window)
        case _:
            return _of_classes(labels, window)


def count_pixels(
    labels: Labels, windows: Sequence[TrainingWindow], progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """(labelled pixels of each stratum (N, K), conflicting pixels (N,)) of windows, int64; see `amounts`."""
    assert labels.task is not None, "labels that were read have a task"
    classes = len(labels.task.strata)
    pixels, conflicts = np.zeros((len(windows), classes), np.int64), np.zeros(len(windows), np.int64)
    with progress.bar("Looking at the labels", len(windows)) as advance:
        for k, window in enumerate(windows):
            target = make_target(labels, window)
            pixels[k] = amounts(target.classes, classes, labels.kind)
            conflicts[k] = target.conflicts
            advance(1)
    return pixels, conflicts


def amounts(target: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """(classes,) int64: pixels of each class (stratum) of a target; of a classification 1 for the window's class."""
    counts = np.bincount(target[target != IGNORE], minlength=classes)
    return np.minimum(counts, 1) if kind == "classification" else counts


def rasterize(labels: Labels, window: TrainingWindow) -> np.ndarray:
    """The target of a window: (H, W) uint8, position in task.strata, IGNORE where nothing is known."""
    return make_target(labels, window).classes


def _of_classes(labels: Labels, window: TrainingWindow) -> Target:
    box = window.box
    geometries, indices = labels.near(box, window.date, window.split)
    masks = {index: _claimed(geometries[indices == index], box) for index in np.unique(indices).tolist()}
    for raster in labels.rasters:
        if raster.date == window.date:
            seen = raster.classes(box)
            for index in np.unique(seen[seen >= 0]).tolist():
                masks[index] = masks.get(index, False) | (seen == index)
    return _agreed(masks, box)


def _of_window(labels: Labels, window: TrainingWindow) -> Target:
    box, middle = window.box, window.centre
    geometries, indices = labels.near(box, window.date, window.split)
    parts, owner = shapely.get_parts(geometries, return_index=True)
    columns, rows = pixels_under(shapely.get_coordinates(shapely.centroid(parts)), box.grid.resolution)
    here = (columns == middle.column) & (rows == middle.row)
    masks = {
        index: _claimed(parts[here & (indices[owner] == index)], box)
        for index in np.unique(indices[owner[here]]).tolist()
    }
    claimed = np.logical_or.reduce([np.zeros(box.shape, bool), *masks.values()])
    if len(masks) > 1:
        return Target(np.full(box.shape, IGNORE, np.uint8), max(1, int(claimed.sum())))
    for mask in masks.values():
        if not mask.any():
            mask[middle.slices_in(box)] = True
    return _agreed(masks, box)


def _of_values(labels: Labels, task: TaskConfig, window: TrainingWindow) -> Target:
    assert task.range is not None
    box, (low, high) = window.box, task.range
    total, count = np.zeros(box.shape), np.zeros(box.shape, np.int64)
    least, most = np.full(box.shape, np.inf), np.full(box.shape, -np.inf)

    def claim(where: tuple[np.ndarray, ...], values: np.ndarray) -> None:
        np.add.at(total, where, values)
        np.add.at(count, where, 1)
        np.minimum.at(least, where, values)
        np.maximum.at(most, where, values)

    found = labels.rows_near(box, window.date, window.split)
    if len(found):
        values = labels.frame["value"].to_numpy(np.float64)[found]
        order = np.argsort(values, kind="stable")  # sums do not depend on the order of features
        geometries, values = labels.frame.geometry.to_numpy()[found][order], values[order]
        points = shapely.get_dimensions(geometries) == 0
        pixel, owner = _under(geometries[points], box)
        claim(pixel, values[points][owner])
        for geometry, value in zip(geometries[~points], values[~points], strict=True):
            where = np.nonzero(_claimed(np.array([geometry], dtype=object), box))
            claim(where, np.full(len(where[0]), value))
    for raster in labels.rasters:
        if raster.date == window.date:
            seen = raster.measured(box)
            where = np.nonzero(~np.isnan(seen))
            claim(where, seen[where])
    conflict = (count > 1) & (most - least > (high - low) / STRATA)
    known = (count > 0) & ~conflict
    means = np.clip(total / np.maximum(count, 1), low, high)
    return Target(
        classes=np.where(known, task.strata_of(means), IGNORE).astype(np.uint8),
        conflicts=int(conflict.sum()),
        values=np.where(known, means, np.nan).astype(np.float32),
    )


def _agreed(masks: dict[int, np.ndarray], box: PixelBox) -> Target:
    """The target where each class claims the pixels of its mask."""
    classes = np.full(box.shape, IGNORE, np.uint8)
    claims = np.zeros(box.shape, np.uint8)
    for index, mask in masks.items():
        classes[mask] = index
        claims += mask
    classes[claims > 1] = IGNORE
    return Target(classes, int((claims > 1).sum()))


def _claimed(geometries: np.ndarray, box: PixelBox) -> np.ndarray:
    """(H, W) bool, the pixels of `box` that any of `geometries` claims."""
    claimed = np.zeros(box.shape, bool)
    dimension = shapely.get_dimensions(geometries)
    for kind, all_touched in ((2, False), (1, True)):
        if (dimension == kind).any():
            shapes = geometries[dimension == kind].tolist()
            with _ONE_AT_A_TIME:
                burnt = burn(shapes, box.shape, transform=box.transform, all_touched=all_touched, dtype="uint8")
            claimed |= burnt > 0
    claimed[_under(geometries[dimension == 0], box)[0]] = True
    return claimed


def _under(points: np.ndarray, box: PixelBox) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """((rows, columns) in `box` of the pixels under points, each pixel once for a point; who claims it)."""
    xy, owner = shapely.get_coordinates(points, return_index=True)
    columns, rows = pixels_under(xy, box.grid.resolution)
    inside = (columns >= box.column) & (columns < box.column + box.width)
    inside &= (rows >= box.row) & (rows < box.row + box.height)
    found = np.stack([owner[inside], rows[inside] - box.row, columns[inside] - box.column])
    owner, row, column = np.unique(found, axis=1)
    return (row, column), owner
