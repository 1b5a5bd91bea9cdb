"""Windows around labels, and the targets inside them.

Windows lie on the grid's one lattice, so that they never overlap, or have a label in their middle; each carries the
labels of one date. The rules by which a label claims a pixel are here, in one place: a polygon claims the pixels whose
centres it holds, a line those it touches, a point the one under it, a raster those whose centres its pixels hold.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import shapely
from rasterio.features import rasterize as burn

from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.places import Kind, find_places, pixels_under
from olmoearth_core.labels.sampling import sample
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project, SamplingConfig

_ONE_AT_A_TIME = threading.Lock()
"""rasterio silences a warning while it burns, in a way that two threads at once turn into a warning or an error."""

IGNORE = 255
"""Value of target pixels without a label: left out of loss and metrics."""


@dataclass(frozen=True)
class TrainingWindow:
    """One window at the date of its labels; `split` is theirs where labels name one, else empty."""

    name: str
    box: PixelBox
    date: date
    split: str = ""

    @property
    def centre(self) -> PixelBox:
        """The pixel in its middle: what decides which block it is in."""
        box = self.box
        return box.grid.box(box.column + box.width // 2, box.row + box.height // 2, 1, 1)


@dataclass(frozen=True)
class Target:
    """What is known about the pixels of a window.

    Attributes:
        classes: (H, W) uint8, position in task.classes; IGNORE where nothing, or more than one thing, is known.
        conflicts: pixels that labels of different classes claim; they are IGNORE in `classes`.
    """

    classes: np.ndarray
    conflicts: int


def windows_of(project: Project, labels: Labels) -> list[TrainingWindow]:
    """The training windows that project.yaml asks for (labels.windows, labels.sampling)."""
    config = project.config.labels
    return training_windows(labels, project.config.model.window_size, config.windows, config.sampling)


def training_windows(
    labels: Labels, window_size: int, kind: Kind = "lattice", sampling: SamplingConfig | None = None
) -> list[TrainingWindow]:
    """Windows around the labels, one for each date (and split that labels name), ordered by date, row and column.

    A box that a polygon touches without holding a pixel centre may be among them; its target is then empty.

    Args:
        labels: as from `read_labels`.
        window_size: edge of a window in pixels.
        kind: on the lattice or centred on labels (`find_places`).
        sampling: which of them are kept; all when not given.
    """
    grid = labels.grid
    places = find_places(labels, window_size, kind)
    if sampling is not None:
        places = places.take(sample(places, sampling, window_size, grid.resolution))
    days, splits = places.days.tolist(), places.splits.tolist()
    rows = zip(*(v.tolist() for v in (places.day, places.row, places.column, places.split)), strict=True)
    return [
        TrainingWindow(
            f"{days[day]:%Y%m%d}_{row}_{column}{'_' if splits[split] else ''}{splits[split]}",
            grid.box(column, row, window_size, window_size),
            days[day],
            splits[split],
        )
        for day, row, column, split in rows
    ]


def count_pixels(
    labels: Labels, windows: Sequence[TrainingWindow], classes: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """(labelled pixels of each class (N, classes), conflicting pixels (N,)) of windows, int64."""
    pixels, conflicts = np.zeros((len(windows), classes), np.int64), np.zeros(len(windows), np.int64)
    with progress.bar("Looking at the labels", len(windows)) as advance:
        for k, window in enumerate(windows):
            target = make_target(labels, window)
            pixels[k] = np.bincount(target.classes[target.classes != IGNORE], minlength=classes)
            conflicts[k] = target.conflicts
            advance(1)
    return pixels, conflicts


def rasterize(labels: Labels, window: TrainingWindow) -> np.ndarray:
    """The target of a window: (H, W) uint8, position in task.classes, IGNORE where nothing is known."""
    return make_target(labels, window).classes


def make_target(labels: Labels, window: TrainingWindow) -> Target:
    """The target of a window, from the labels of its date. The order of files and features makes no difference."""
    box = window.box
    geometries, indices = labels.near(box, window.date, window.split)
    masks = {index: _claimed(geometries[indices == index], box) for index in np.unique(indices).tolist()}
    for raster in labels.rasters:
        if raster.date == window.date:
            seen = raster.classes(box)
            for index in np.unique(seen[seen >= 0]).tolist():
                masks[index] = masks.get(index, False) | (seen == index)
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
    columns, rows = pixels_under(shapely.get_coordinates(geometries[dimension == 0]), box.grid.resolution)
    inside = (columns >= box.column) & (columns < box.column + box.width)
    inside &= (rows >= box.row) & (rows < box.row + box.height)
    claimed[rows[inside] - box.row, columns[inside] - box.column] = True
    return claimed
