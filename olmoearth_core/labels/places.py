"""Where windows may lie, as arrays: a million labels are placed in seconds, before any window is an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely

from olmoearth_core.labels.labels import Labels

Kind = Literal["lattice", "centred"]


@dataclass(frozen=True, eq=False)
class Places:
    """N windows, ordered by date, row, column and split, and the classes of the labels that made them.

    Attributes:
        days: (D,) datetime.date, in order.
        splits: (S,) text, in order; one empty text where labels name no splits.
        day, row, column, split: (N,) int64; positions in `days` and `splits`, upper left pixel on the grid.
        window, class_index: (M,) int64, one pair for each class that labels bring into a window; ordered by window.
    """

    days: np.ndarray
    splits: np.ndarray
    day: np.ndarray
    row: np.ndarray
    column: np.ndarray
    split: np.ndarray
    window: np.ndarray
    class_index: np.ndarray

    def __len__(self) -> int:
        return len(self.day)

    def take(self, chosen: np.ndarray) -> Places:
        """The windows at the positions `chosen` (in order), with their classes."""
        at = np.full(len(self), -1)
        at[chosen] = np.arange(len(chosen))
        kept = at[self.window] >= 0
        return Places(
            days=self.days,
            splits=self.splits,
            day=self.day[chosen],
            row=self.row[chosen],
            column=self.column[chosen],
            split=self.split[chosen],
            window=at[self.window[kept]],
            class_index=self.class_index[kept],
        )


def find_places(labels: Labels, size: int, kind: Kind = "lattice") -> Places:
    """The windows of `size` pixels around labels.

    Args:
        kind: "lattice": the lattice boxes in which labels claim pixels. A box that a polygon touches without holding a
            pixel centre may be among them. "centred": for each point, line and polygon (each part of one with several)
            the box that has the pixel of its centroid in the middle (the one right of and below it, of an even size).
    """
    days, splits, frame = np.array(labels.dates, dtype=object), np.array([""]), labels.frame
    position = {day: k for k, day in enumerate(labels.dates)}
    day = frame["date"].map(position).to_numpy(np.int64)
    split = np.zeros(len(frame), np.int64)
    if "split" in frame and len(frame):
        splits, split = np.unique(frame["split"].to_numpy().astype(str), return_inverse=True)
    place = _lattice if kind == "lattice" else _centred
    owner, row, column = place(frame.geometry.to_numpy(), labels.grid.resolution, size)
    classes = frame["class_index"].to_numpy(np.int64)
    keys = [np.stack([day[owner], row, column, split[owner], classes[owner]])]
    for raster in labels.rasters:
        cells = raster.cells
        that_day = np.full(len(cells), position[raster.date])
        keys.append(np.stack([that_day, cells[:, 0] * size, cells[:, 1] * size, 0 * that_day, cells[:, 2]]))
    return _merged(days, splits, np.concatenate(keys, axis=1).astype(np.int64))


def pixels_under(xy: np.ndarray, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Absolute (columns, rows) of the pixels under the points (N, 2)."""
    return np.floor(xy[:, 0] / resolution).astype(np.int64), np.floor(-xy[:, 1] / resolution).astype(np.int64)


def _merged(days: np.ndarray, splits: np.ndarray, keys: np.ndarray) -> Places:
    """Places of the keys (day, row, column, split, class) (5, P), each once."""
    keys = keys[:, np.lexsort(keys[::-1])]
    first = np.ones(keys.shape[1], bool)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    keys = keys[:, first]
    begins = np.ones(keys.shape[1], bool)
    begins[1:] = (keys[:4, 1:] != keys[:4, :-1]).any(axis=0)
    day, row, column, split = keys[:4, begins]
    return Places(days, splits, day, row, column, split, np.cumsum(begins) - 1, keys[4])


def _centred(geometries: np.ndarray, resolution: float, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position of the label, row, column) of the windows with the middles of labels in their own."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    columns, rows = pixels_under(shapely.get_coordinates(shapely.centroid(parts)), resolution)
    return owner, rows - size // 2, columns - size // 2


def _lattice(geometries: np.ndarray, resolution: float, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position of the label, row, column) of the lattice boxes where labels may claim pixels."""
    dimension = shapely.get_dimensions(geometries)
    points, others = np.flatnonzero(dimension == 0), np.flatnonzero(dimension > 0)
    xy, owner = shapely.get_coordinates(geometries[points], return_index=True)
    columns, rows = pixels_under(xy, resolution)
    j, i, k = _boxes_met(geometries[others], dimension[others] == 2, resolution, size)
    return (
        np.concatenate([points[owner], others[k]]),
        np.concatenate([rows // size, j]) * size,
        np.concatenate([columns // size, i]) * size,
    )


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
