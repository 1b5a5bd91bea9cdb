"""The area of a map: polygons from a vector file, on the grid that the map will have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import LabelError, MappingError, ProjectError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.labels.vector import read_area
from olmoearth_core.labels.zone import named_grid, utm_grid


@dataclass(frozen=True)
class Area:
    """What is mapped: a pixel belongs to it when its centre lies inside one of its polygons.

    Attributes:
        grid: the map's pixel grid.
        parts: polygons in the grid's CRS that do not overlap each other.
        outline: the same in degrees (EPSG:4326, x is longitude).
    """

    grid: Grid
    parts: tuple[BaseGeometry, ...]
    outline: BaseGeometry

    @cached_property
    def bounds(self) -> PixelBox:
        """The smallest box around the pixels whose centres lie within the outermost edges."""
        left, bottom, right, top = (edge / self.grid.resolution for edge in shapely.total_bounds(np.array(self.parts)))
        column, row = math.ceil(left - 0.5), math.ceil(-top - 0.5)
        return self.grid.box(column, row, math.floor(right - 0.5) + 1 - column, math.floor(-bottom - 0.5) + 1 - row)

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.parts)

    def touched(self, boxes: Sequence[PixelBox]) -> list[int]:
        """Positions of those `boxes` that the area reaches into, in their order.

        Tested against the rectangle of a box's pixel centres: a box that holds a pixel of the area is never missed, one
        that only shares an edge with it is not taken.
        """
        half = self.grid.resolution / 2
        edges = np.array([box.bounds for box in boxes]).reshape(-1, 4) + np.array([half, half, -half, -half])
        hits, _ = self._tree.query(shapely.box(*edges.T), predicate="intersects")
        return [int(i) for i in np.unique(hits)]

    def mask(self, box: PixelBox) -> np.ndarray:
        """(H, W) bool, True where a pixel of `box` belongs to the area; the same in every box that holds the pixel."""
        near = self._tree.query(box.polygon)
        if not len(near):
            return np.zeros(box.shape, bool)
        parts = shapely.MultiPolygon([self.parts[i] for i in np.sort(near)])
        inside: np.ndarray = rasterize([parts], box.shape, transform=box.transform).astype(bool)
        # A raster algorithm counts from the box's corner, so it may round differently in another box where an outline
        # passes a pixel's centre closely: there the exact predicate decides, on absolute coordinates.
        rows, columns = np.nonzero(
            rasterize([parts.boundary], box.shape, transform=box.transform, all_touched=True).astype(bool)
        )
        x, y = box.centres
        shapely.prepare(parts)
        inside[rows, columns] = shapely.contains_xy(parts, x[columns], y[rows])
        return inside


def load_area(path: Path, source: str, *, crs: str | None, resolution: float) -> Area:
    """Read the area of a map from any vector file; properties such as `oe_start_time` are of no matter.

    Args:
        path: the file.
        source: its name in messages (as project.yaml writes it).
        crs: the grid's CRS; the UTM zone of the area's middle when None.
        resolution: edge of a pixel in units of the CRS.

    Raises:
        MappingError: the file cannot be read, is empty, holds a broken geometry or none that is a polygon, or is too
            wide for one UTM zone.
    """
    try:
        outline = read_area(path, source)
        grid = named_grid(crs, resolution) if crs else _utm(outline, source, resolution)
        projected = read_area(path, source, grid)
    except (LabelError, ProjectError) as error:
        raise MappingError(str(error)) from error
    parts = tuple(p for p in shapely.get_parts(projected) if p.geom_type == "Polygon" and p.area > 0)
    if not parts:
        raise MappingError(f"{source}: the area is empty. Draw at least one polygon.")
    area = Area(grid, parts, outline)
    if area.bounds.width < 1 or area.bounds.height < 1:
        raise MappingError(f"{source}: the area is smaller than one pixel of {resolution:g} m. Draw it larger.")
    return area


def _utm(outline: BaseGeometry, source: str, resolution: float) -> Grid:
    if outline.is_empty:
        raise MappingError(f"{source}: the area is empty. Draw at least one polygon.")
    return utm_grid(np.array([outline]), f"{source}: the area reaches", resolution)
