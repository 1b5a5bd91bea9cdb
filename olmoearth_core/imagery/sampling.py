"""From the pixels of a source raster to the pixels of a box, so that a value never depends on the box.

Each target pixel is a point: its centre, computed from absolute columns and rows (`PixelBox.centres`). Where that point
falls in the source decides everything, and every operation after it is element by element, so that the same pixel gets
the same bits in every box that holds it. Three rules, by resolution:

    source as fine as the grid and aligned with it    the pixel itself
    source as fine or coarser                         bilinear between the four nearest
    source finer                                      the mean of the k x k nearest, k = grid / source resolution
    classes (masks)                                   the pixel that holds the point
    measured (labels)                                 as values where the source is finer, else as classes: what was
                                                      measured of a pixel is not mixed with its neighbours

0 is nodata in the source and in the result. A bilinear value is made of the neighbours that are valid, and is itself
valid where the source pixel that holds the point is; a mean is valid where more than half of its pixels are. So nodata
neither grows nor shrinks, and no value mixes with a 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.windows import Window

from olmoearth_core.grid import PixelBox

Pixels = NDArray[Any]
Index = NDArray[np.intp]
Method = Literal["values", "classes", "measured"]
_OUTSIDE = -1e9
"""A position that is in no source."""


@dataclass(frozen=True)
class SourceGrid:
    """Where the pixels of a raster lie."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f): x = a * column + b * row + c, y = d * column + e * row + f, from pixel corners."""
    width: int
    height: int

    @property
    def resolution(self) -> float:
        """Edge of a pixel in units of the CRS (of the square with the same area)."""
        a, b, _, d, e, _ = self.transform
        return float(abs(a * e - b * d) ** 0.5)


@dataclass(frozen=True)
class SourceWindow:
    """Rows [top, bottom) and columns [left, right) of a source; may reach one pixel over its edges."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def to_rasterio(self) -> Window:
        """The same for rasterio."""
        height, width = self.shape
        return Window(self.left, self.top, width, height)

    def inside(self, source: SourceGrid) -> SourceWindow:
        """The part that has pixels."""
        return SourceWindow(
            max(self.top, 0), min(self.bottom, source.height), max(self.left, 0), min(self.right, source.width)
        )


class Plan(Protocol):
    """How one source grid fills one box."""

    @property
    def window(self) -> SourceWindow:
        """The source pixels that are needed, margin and all."""
        ...

    def fill(self, out: Pixels, pixels: Pixels) -> None:
        """Sample `pixels` (N, h, w), bands over the window, 0 is nodata, into `out` (N, H, W) of the same dtype."""
        ...


@dataclass(frozen=True)
class _Neighbours:
    """Where the neighbours of each pixel stand inside the window.

    One array of rows and one of columns for each neighbour. They broadcast to (H, W): (H, 1) and (1, W) where source
    and grid share a CRS, else both (H, W).
    """

    window: SourceWindow
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]

    @property
    def separable(self) -> bool:
        """Whether rows and columns are independent: whole rows can be gathered, then whole columns."""
        return bool(self.rows[0].shape[1] == 1 and self.columns[0].shape[0] == 1)


@dataclass(frozen=True)
class _Cut:
    """The window's pixels are the box's pixels."""

    window: SourceWindow

    def fill(self, out: Pixels, pixels: Pixels) -> None:
        out[...] = pixels


@dataclass(frozen=True)
class _Pick:
    """The pixel that holds the point."""

    at: _Neighbours

    @property
    def window(self) -> SourceWindow:
        return self.at.window

    def fill(self, out: Pixels, pixels: Pixels) -> None:
        out[...] = pixels[:, self.at.rows[0], self.at.columns[0]]


@dataclass(frozen=True)
class _Mean:
    """The mean of the k x k pixels nearest to the point."""

    at: _Neighbours

    @property
    def window(self) -> SourceWindow:
        return self.at.window

    def fill(self, out: Pixels, pixels: Pixels) -> None:
        for target, source in zip(out, pixels, strict=True):
            total, count = self._sum(source.astype(np.float64)), self._sum((source != 0).astype(np.float64))
            enough = 2 * count > len(self.at.rows) * len(self.at.columns)
            _store(target, np.divide(total, count, out=np.zeros_like(total), where=enough) + _half(out.dtype))

    def _sum(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.at.separable:
            lines = np.add.reduce([source[row[:, 0]] for row in self.at.rows])
            return np.asarray(np.add.reduce([lines[:, column[0]] for column in self.at.columns]))
        return np.asarray(np.add.reduce([source[row, column] for row in self.at.rows for column in self.at.columns]))


@dataclass(frozen=True)
class _Bilinear:
    """Between the four pixels whose centres surround the point."""

    at: _Neighbours
    down: NDArray[np.float32]
    """Weight of the lower neighbours, (H, 1) or (H, W)."""
    across: NDArray[np.float32]
    """Weight of the right neighbours, (1, W) or (H, W)."""
    centre: tuple[Index, Index]
    """Row and column of the pixel that holds the point."""

    @property
    def window(self) -> SourceWindow:
        return self.at.window

    def fill(self, out: Pixels, pixels: Pixels) -> None:
        source = pixels.astype(np.float32)
        half = _half(out.dtype)
        (top, bottom), (left, right) = self.at.rows, self.at.columns
        if self.at.separable:
            lines = _between(source.take(left[0], 2), source.take(right[0], 2), self.across)
            lines += half
            value = _between(lines.take(top[:, 0], 1), lines.take(bottom[:, 0], 1), self.down)
        else:
            upper = _between(source[:, top, left], source[:, top, right], self.across)
            lower = _between(source[:, bottom, left], source[:, bottom, right], self.across)
            value = _between(upper, lower, self.down)
            value += half
        _store(out, value)
        if not pixels.all():
            for target, band in zip(out, source, strict=True):
                self._mend(target, band)

    def _mend(self, out: Pixels, source: NDArray[np.float32]) -> None:
        """Compute anew the pixels of `out` (H, W) that have a neighbour without data in `source` (h, w)."""
        (top, bottom), (left, right) = self.at.rows, self.at.columns
        empty = source == 0
        if self.at.separable:
            lines = empty.take(left[0], 1) | empty.take(right[0], 1)
            hurt = lines.take(top[:, 0], 0) | lines.take(bottom[:, 0], 0)
        else:
            hurt = empty[top, left] | empty[top, right] | empty[bottom, left] | empty[bottom, right]

        def at(index: Pixels) -> Pixels:
            chosen: Pixels = np.broadcast_to(index, hurt.shape)[hurt]
            return chosen

        down, across = at(self.down), at(self.across)
        total, weights = np.zeros_like(down), np.zeros_like(down)
        for row, vertical in ((at(top), 1 - down), (at(bottom), down)):
            for column, horizontal in ((at(left), 1 - across), (at(right), across)):
                neighbour = source[row, column]
                weight = vertical * horizontal * (neighbour != 0)
                total += weight * neighbour
                weights += weight
        # the pixel that holds the point weighs at least 1/4: the weights sum to 0 only where it has no data either
        mended = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0) + _half(out.dtype)
        kept = source[at(self.centre[0]), at(self.centre[1])] != 0
        out[hurt] = np.where(kept, mended, 0).astype(out.dtype)


def sample(how: Plan, pixels: Pixels, box: PixelBox) -> Pixels:
    """`pixels` (h, w) of one band over the plan's window -> (H, W) over `box`, of the same dtype."""
    out = np.empty((1, *box.shape), pixels.dtype)
    how.fill(out, pixels[None])
    sampled: Pixels = out[0]
    return sampled


def plan(source: SourceGrid, box: PixelBox, points: Points, method: Method) -> Plan | None:
    """How to fill `box` from `source`; None where they do not touch.

    Args:
        points: the box's pixel centres (`Points(box)`; shared by the plans of one box).
        method: "values" to interpolate or average, "classes" to take the pixel that holds the point, "measured" to
            average or take it.
    """
    columns, rows = points.in_pixels_of(source)
    if not np.any((columns >= 0) & (columns < source.width) & (rows >= 0) & (rows < source.height)):
        return None
    same = _transformer(box.grid.crs, source.crs) is None
    # to 1/100: the scale of a projection (0.9996 in the middle of UTM) must not decide between rules
    ratio = round(box.grid.resolution / (source.resolution if same else _metres(source)), 2)
    if method != "classes" and ratio >= 1.5:
        return _Mean(_nearest(source, rows, columns, round(ratio)))
    if method == "values" and not _aligned(source, box):
        return _bilinear(source, rows, columns)
    at = _nearest(source, rows, columns, 1)
    if at.separable and _consecutive(at.rows[0]) and _consecutive(at.columns[0]):
        return _Cut(at.window)
    return _Pick(at)


class Points:
    """The pixel centres of a box, in whichever CRS a source asks for; each CRS is computed once."""

    def __init__(self, box: PixelBox):
        self.box = box
        x, y = box.centres
        self._by_crs = {box.grid.crs: (x[None, :], y[:, None])}

    def in_crs(self, crs: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(x, y): (1, W) and (H, 1) in the grid's own CRS, else both (H, W)."""
        if crs not in self._by_crs:
            own = self._by_crs[self.box.grid.crs]
            transformer = _transformer(self.box.grid.crs, crs)
            self._by_crs[crs] = own if transformer is None else transformer.transform(*np.broadcast_arrays(*own))
        return self._by_crs[crs]

    def in_pixels_of(self, source: SourceGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(columns, rows) of the centres, as fractions counted from the source's upper left corner."""
        x, y = self.in_crs(source.crs)
        a, b, c, d, e, f = source.transform
        if b == 0 and d == 0:
            return (x - c) / a, (y - f) / e
        x, y = x - c, y - f
        scale = a * e - b * d
        return (e * x - b * y) / scale, (a * y - d * x) / scale


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Transformer | None:
    """From one CRS to another; None where they are the same. pyproj's transformers are safe between threads."""
    if CRS.from_user_input(source) == CRS.from_user_input(target):
        return None
    return Transformer.from_crs(source, target, always_xy=True)


@lru_cache(maxsize=1024)
def _metres(source: SourceGrid) -> float:
    """Edge in metres on the ground of the pixel in the middle of the source (of the square with the same area).

    Measured on the source, not where a box lies: every box has to take the same rule.
    """
    a, b, c, d, e, f = source.transform
    column, row = np.array([0, 1, 0]) + source.width / 2, np.array([0, 0, 1]) + source.height / 2
    x, y = a * column + b * row + c, d * column + e * row + f
    transformer = _transformer(source.crs, "EPSG:4326")
    longitude, latitude = (x, y) if transformer is None else transformer.transform(x, y)
    azimuths, _, lengths = Geod(ellps="WGS84").inv(
        longitude[[0, 0]], latitude[[0, 0]], longitude[[1, 2]], latitude[[1, 2]]
    )
    return float((lengths[0] * lengths[1] * abs(np.sin(np.radians(azimuths[0] - azimuths[1])))) ** 0.5)


def _aligned(source: SourceGrid, box: PixelBox) -> bool:
    """Whether the source's pixels are pixels of the grid (to 1e-6 of a pixel)."""
    a, b, c, d, e, f = source.transform
    size = box.grid.resolution
    same = b == 0 and d == 0 and abs(a / size - 1) < 1e-9 and abs(e / size + 1) < 1e-9
    whole = all(abs(edge / size - round(edge / size)) < 1e-6 for edge in (c, f))
    return same and whole and _transformer(box.grid.crs, source.crs) is None


def _floor(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole pixels; positions that are none (no such point in the source's CRS) lie outside."""
    return np.where(np.isfinite(position), np.floor(position), _OUTSIDE)


def _indices(first: NDArray[np.float64], count: int, edge: int) -> list[Index]:
    """The index of `count` neighbours from `first` on; what lies outside [0, edge) is on the ring around it."""
    start = np.clip(first, -1 - count, edge).astype(np.intp)
    return [np.clip(start + i, -1, edge) for i in range(count)]


def _nearest(source: SourceGrid, rows: NDArray[np.float64], columns: NDArray[np.float64], size: int) -> _Neighbours:
    """The `size` x `size` pixels nearest to the point; the one that holds it for size 1."""
    back = (size - 1) / 2
    return _gather(
        _indices(_floor(rows - back), size, source.height), _indices(_floor(columns - back), size, source.width)
    )


def _bilinear(source: SourceGrid, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> _Bilinear:
    top, left = _floor(rows - 0.5), _floor(columns - 0.5)
    at = _gather(_indices(top, 2, source.height), _indices(left, 2, source.width))
    (row,), (column,) = _indices(_floor(rows), 1, source.height), _indices(_floor(columns), 1, source.width)
    return _Bilinear(
        at,
        down=_fraction(rows - 0.5, top),
        across=_fraction(columns - 0.5, left),
        centre=(row - at.window.top, column - at.window.left),
    )


def _gather(rows: list[Index], columns: list[Index]) -> _Neighbours:
    top, left = int(rows[0].min()), int(columns[0].min())
    window = SourceWindow(top, int(rows[-1].max()) + 1, left, int(columns[-1].max()) + 1)
    return _Neighbours(window, tuple(row - top for row in rows), tuple(column - left for column in columns))


def _fraction(position: NDArray[np.float64], floor: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(np.isfinite(position), position - floor, 0).astype(np.float32)


def _between(
    first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """first + (second - first) * weight, in the memory of `second`."""
    second -= first
    second *= weight
    second += first
    return second


def _consecutive(index: Index) -> bool:
    return bool(np.all(np.diff(index.ravel()) == 1))


def _half(dtype: np.dtype[Any]) -> np.float32:
    """What is added before a value is cut to `dtype`, so that whole numbers are rounded."""
    return np.float32(0.5 if dtype.kind in "ui" else 0)


def _store(out: Pixels, value: NDArray[Any]) -> None:
    """Cut `value` to the dtype of `out`."""
    np.copyto(out, value, casting="unsafe")
