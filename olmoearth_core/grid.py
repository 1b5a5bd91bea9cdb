"""The pixel grid, and the boxes of whole pixels on it: windows and tiles.

A grid is a CRS and a resolution; its pixel (column 0, row 0) has its upper left corner at the CRS origin. Columns grow
east, rows grow south. Every box is counted in these absolute columns and rows, so that the position of a pixel never
depends on the box it is seen through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from olmoearth_core.errors import ProjectError

if TYPE_CHECKING:
    from affine import Affine
    from shapely.geometry.base import BaseGeometry

Numbers = TypeVar("Numbers", int, NDArray[np.int64])


@dataclass(frozen=True)
class Grid:
    """A pixel grid.

    Attributes:
        crs: authority code ("EPSG:32631") or WKT of a projected CRS.
        resolution: edge of a pixel, in units of the CRS.
    """

    crs: str
    resolution: float = 10.0

    @classmethod
    def utm(cls, longitude: float, latitude: float, resolution: float = 10.0) -> Grid:
        """The grid of the UTM zone around a point in degrees (WGS 84).

        Zones are six degrees wide everywhere, as EPSG bounds them. The exceptions that MGRS makes for south-west Norway
        and Svalbard are not used; set imagery.crs to have one of those zones.

        Raises:
            ProjectError: the point lies outside UTM (beyond 84 N or 80 S) or is no point on Earth.
        """
        if not (-180 <= longitude <= 180 and -80 <= latitude <= 84):
            raise ProjectError(
                f"longitude {longitude:.4f}, latitude {latitude:.4f} lies in no UTM zone (80 S to 84 N). "
                "Set imagery.crs in project.yaml to a projected CRS that fits the place."
            )
        zone = min(int((longitude + 180) // 6) + 1, 60)
        return cls(f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}", resolution)

    def box(self, column: int, row: int, width: int, height: int) -> PixelBox:
        """The box of `width` x `height` pixels whose upper left pixel is (`column`, `row`)."""
        return PixelBox(self, column, row, width, height)

    def around(self, bounds: tuple[float, float, float, float]) -> PixelBox:
        """The smallest box that holds `bounds` (left, bottom, right, top; units of the CRS), at least one pixel.

        A point on an edge between pixels belongs to the one right of it and below it.
        """
        left, bottom, right, top = (edge / self.resolution for edge in bounds)
        # bounds that lie on the grid must not gain a pixel by rounding (1e-6 of a pixel)
        column, row = math.floor(left + 1e-6), math.floor(-top + 1e-6)
        width, height = math.ceil(right - 1e-6) - column, math.ceil(-bottom - 1e-6) - row
        return self.box(column, row, max(width, 1), max(height, 1))

    def project(self, geometry: BaseGeometry, crs: Any = "EPSG:4326") -> BaseGeometry:
        """`geometry` in this grid's CRS; `crs` is the one it comes in (x is longitude for geographic ones)."""
        from pyproj import Transformer
        from shapely import transform

        if CRS.from_user_input(crs) == CRS.from_user_input(self.crs):
            return geometry
        transformer = Transformer.from_crs(crs, self.crs, always_xy=True)
        return transform(geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))


@dataclass(frozen=True)
class PixelBox:
    """A rectangle of whole pixels of one grid: a window, a tile, or what either needs to read.

    Attributes:
        column, row: upper left pixel, absolute on the grid.
        width, height: size in pixels.
    """

    grid: Grid
    column: int
    row: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in units of the CRS."""
        size = self.grid.resolution
        return (
            self.column * size,
            -(self.row + self.height) * size,
            (self.column + self.width) * size,
            -self.row * size,
        )

    @property
    def transform(self) -> Affine:
        """Affine map from (column, row) inside the box to CRS coordinates."""
        from affine import Affine

        size = self.grid.resolution
        return Affine(size, 0.0, self.column * size, 0.0, -size, -self.row * size)

    @cached_property
    def geobox(self) -> GeoBox:
        """The same box as an odc-geo GeoBox."""
        return GeoBox(self.shape, self.transform, self.grid.crs)

    @property
    def polygon(self) -> BaseGeometry:
        """The outline in the grid's CRS."""
        from shapely.geometry import box

        return box(*self.bounds)

    @property
    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """(x of each column (W,), y of each row (H,)), float64, at pixel centres.

        Computed from absolute columns and rows: the same pixel has the same bits in every box.
        """
        size = self.grid.resolution
        x = (np.arange(self.column, self.column + self.width) + 0.5) * size
        y = -(np.arange(self.row, self.row + self.height) + 0.5) * size
        return x, y

    def slices_in(self, outer: PixelBox) -> tuple[slice, slice]:
        """(rows, columns) that cut this box out of an array that covers `outer`.

        Raises:
            ValueError: this box is not inside `outer`, or is of another grid.
        """
        top, left = self.row - outer.row, self.column - outer.column
        if (
            self.grid != outer.grid
            or top < 0
            or left < 0
            or top + self.height > outer.height
            or (left + self.width > outer.width)
        ):
            raise ValueError(f"{self} does not lie in {outer}")
        return slice(top, top + self.height), slice(left, left + self.width)

    def union(self, other: PixelBox) -> PixelBox:
        """The smallest box that holds both."""
        column, row = min(self.column, other.column), min(self.row, other.row)
        right = max(self.column + self.width, other.column + other.width)
        bottom = max(self.row + self.height, other.row + other.height)
        return PixelBox(self.grid, column, row, right - column, bottom - row)

    def cut(self, other: PixelBox) -> PixelBox:
        """The part that both have in common; width or height is below 1 where there is none."""
        column, row = max(self.column, other.column), max(self.row, other.row)
        right = min(self.column + self.width, other.column + other.width)
        bottom = min(self.row + self.height, other.row + other.height)
        return PixelBox(self.grid, column, row, right - column, bottom - row)

    def pad(self, pixels: int) -> PixelBox:
        """The box grown by `pixels` on each side."""
        return PixelBox(
            self.grid, self.column - pixels, self.row - pixels, self.width + 2 * pixels, self.height + 2 * pixels
        )


def areal_scale(crs: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How many square units of `crs` a square metre of the ground takes at the points (x, y), both (N,): (N,) float64.

    1 +- 0.001 inside a UTM zone; 2 for Web Mercator at 45 degrees. Measured on the parallelogram that a step of 100
    units along each axis spans on the ellipsoid, because PROJ's own factors of Web Mercator are those of a sphere.
    """
    from pyproj import Transformer

    step = 100.0
    degrees = Transformer.from_crs(crs, CRS(crs).geodetic_crs, always_xy=True).transform
    here, east, north = degrees(x, y), degrees(x + step, y), degrees(x, y + step)
    geod = CRS(crs).get_geod()
    to_east, _, along = geod.inv(*here, *east)
    to_north, _, across = geod.inv(*here, *north)
    ground = np.asarray(along) * np.asarray(across) * np.abs(np.sin(np.radians(np.subtract(to_east, to_north))))
    scale: np.ndarray = step**2 / ground
    return scale


@dataclass(frozen=True)
class Lattice:
    """Where windows lie along an axis, for the whole grid: number i begins at pixel i * stride.

    Attributes:
        size: edge of a window in pixels.
        stride: distance between windows, at most `size`.
    """

    size: int
    stride: int

    def start(self, number: Numbers) -> Numbers:
        """The first pixel of windows, from their numbers."""
        return number * self.stride

    def first(self, pixel: Numbers) -> Numbers:
        """The number of the first window that holds a pixel."""
        return -((self.size - 1 - pixel) // self.stride)

    def last(self, pixel: Numbers) -> Numbers:
        """The number of the last window that holds a pixel."""
        return pixel // self.stride

    def boxes(self, area: PixelBox) -> Iterator[PixelBox]:
        """The windows that touch `area`, row by row; two areas that meet have the same ones where they meet."""
        right, below = area.column + area.width - 1, area.row + area.height - 1
        for j in range(self.first(area.row), self.last(below) + 1):
            for i in range(self.first(area.column), self.last(right) + 1):
                yield PixelBox(area.grid, self.start(i), self.start(j), self.size, self.size)


def window_stride(window_size: int, patch_size: int, overlap: float) -> int:
    """Distance between windows in pixels: the whole number of patches nearest to what `overlap` asks for.

    >>> window_stride(64, 4, 0.25)
    48
    """
    return max(1, round(window_size * (1 - overlap) / patch_size)) * patch_size
