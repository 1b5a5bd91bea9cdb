"""Windows around labels, and the targets inside them.

Windows lie on the grid's one lattice, so they never overlap; each carries the labels of one date. The rules by which a
label claims a pixel are here, in one place: a polygon claims the pixels whose centres it holds, a line those it
touches, a point the one under it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date

import numpy as np
import shapely
from rasterio.features import rasterize as burn

from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.labels import Labels

_ONE_AT_A_TIME = threading.Lock()
"""rasterio silences a warning while it burns, in a way that two threads at once turn into a warning or an error."""

IGNORE = 255
"""Value of target pixels without a label: left out of loss and metrics."""


@dataclass(frozen=True)
class TrainingWindow:
    """One window of the lattice at the date of its labels."""

    name: str
    box: PixelBox
    date: date


@dataclass(frozen=True)
class Target:
    """What is known about the pixels of a window.

    Attributes:
        classes: (H, W) uint8, position in task.classes; IGNORE where nothing, or more than one thing, is known.
        conflicts: pixels that labels of different classes claim; they are IGNORE in `classes`.
    """

    classes: np.ndarray
    conflicts: int


def training_windows(labels: Labels, window_size: int) -> list[TrainingWindow]:
    """The lattice boxes in which labels claim pixels, one for each date, ordered by date, row and column.

    A box that a polygon touches without holding a pixel centre may be among them; its target is then empty.

    Args:
        labels: as from `read_labels`.
        window_size: edge of a window in pixels.
    """
    grid = labels.grid
    return [
        TrainingWindow(f"{day:%Y%m%d}_{i * window_size}_{j * window_size}", box, day)
        for day, j, i in _cells(labels, window_size)
        for box in [grid.box(i * window_size, j * window_size, window_size, window_size)]
    ]


def rasterize(labels: Labels, window: TrainingWindow) -> np.ndarray:
    """The target of a window: (H, W) uint8, position in task.classes, IGNORE where nothing is known."""
    return make_target(labels, window).classes


def make_target(labels: Labels, window: TrainingWindow) -> Target:
    """The target of a window, from the labels of its date. The order of files and features makes no difference."""
    box = window.box
    geometries, indices = labels.near(box, window.date)
    classes = np.full(box.shape, IGNORE, np.uint8)
    claims = np.zeros(box.shape, np.uint8)
    for index in np.unique(indices):
        claimed = _claimed(geometries[indices == index], box)
        classes[claimed] = index
        claims += claimed
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
    columns, rows = _pixels_under(shapely.get_coordinates(geometries[dimension == 0]), box.grid.resolution)
    inside = (columns >= box.column) & (columns < box.column + box.width)
    inside &= (rows >= box.row) & (rows < box.row + box.height)
    claimed[rows[inside] - box.row, columns[inside] - box.column] = True
    return claimed


def _pixels_under(xy: np.ndarray, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Absolute (columns, rows) of the pixels under the points (N, 2)."""
    return np.floor(xy[:, 0] / resolution).astype(np.int64), np.floor(-xy[:, 1] / resolution).astype(np.int64)


def _cells(labels: Labels, size: int) -> list[tuple[date, int, int]]:
    """(date, lattice row, lattice column) of the boxes where labels may claim pixels, in this order."""
    geometries = labels.frame.geometry.to_numpy()
    dimension = shapely.get_dimensions(geometries)
    points, others = np.flatnonzero(dimension == 0), np.flatnonzero(dimension > 0)
    xy, owner = shapely.get_coordinates(geometries[points], return_index=True)
    columns, rows = _pixels_under(xy, labels.grid.resolution)
    j, i, k = _boxes_met(geometries[others], dimension[others] == 2, labels.grid.resolution, size)
    days, day = np.unique(labels.frame["date"].to_numpy(), return_inverse=True)
    found = [
        np.concatenate([day[points[owner]], day[others[k]]]),
        np.concatenate([rows // size, j]),
        np.concatenate([columns // size, i]),
    ]
    return [(days[d], row, column) for d, row, column in np.unique(found, axis=1).T.tolist()]


def _boxes_met(
    geometries: np.ndarray, is_polygon: np.ndarray, resolution: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice (rows, columns) of the boxes that lines and polygons meet, and (positions) of who meets them."""
    edge = resolution * size
    # a polygon claims pixels whose centres it holds: only the rectangle of a box's pixel centres counts for it
    margin = np.where(is_polygon, resolution / 2, 0.0)
    left, bottom, right, top = shapely.bounds(geometries).T
    first_i, width = _range(left, right, margin, edge)
    first_j, height = _range(-top, -bottom, margin, edge)
    count = width * height
    owner = np.repeat(np.arange(len(geometries)), count)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    j, i = first_j[owner] + nth // width[owner], first_i[owner] + nth % width[owner]
    meets = count[owner] == 1
    unsure = np.flatnonzero(~meets)
    x, y, m = i[unsure] * edge, -j[unsure] * edge, margin[owner[unsure]]
    boxes = shapely.box(x + m, y - edge + m, x + edge - m, y - m)
    shapely.prepare(geometries)
    meets[unsure] = shapely.intersects(geometries[owner[unsure]], boxes)
    return j[meets], i[meets], owner[meets]


def _range(low: np.ndarray, high: np.ndarray, margin: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """First index and number of the lattice boxes that, shrunk by `margin`, meet [low, high]."""
    first = np.ceil((low + margin) / edge).astype(np.int64) - 1
    last = np.floor((high - margin) / edge).astype(np.int64)
    return first, np.maximum(last - first + 1, 0)
