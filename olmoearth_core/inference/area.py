"""The area of a map: polygons from a vector file, on the grids that the map will have, one a UTM zone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import LabelError, MappingError, ProjectError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.inference.cutting import in_pieces
from olmoearth_core.inference.zones import NORTH, SOUTH, STEP, Part, Strip, parts_of, zones_between
from olmoearth_core.labels.vector import VectorFile, read_polygons, union
from olmoearth_core.labels.zone import named_grid
from olmoearth_core.longitudes import across_180, within_180


@dataclass(frozen=True)
class Area:
    """What is mapped on one grid: a pixel belongs to it when its centre lies inside one of its polygons.

    Attributes:
        grid: the pixel grid.
        parts: polygons in the grid's CRS that do not overlap each other.
        outline: the same in degrees (EPSG:4326, x is longitude), within -180 to 180.
        strip: where the area goes on in a neighbouring zone, the longitudes whose pixels are this one's.
    """

    grid: Grid
    parts: tuple[BaseGeometry, ...]
    outline: BaseGeometry
    strip: Strip | None = field(default=None)

    @cached_property
    def bounds(self) -> PixelBox:
        """The smallest box around the pixels whose centres lie within the outermost edges."""
        left, bottom, right, top = (edge / self.grid.resolution for edge in shapely.total_bounds(np.array(self.parts)))
        column, row = math.ceil(left - 0.5), math.ceil(-top - 0.5)
        return self.grid.box(column, row, math.floor(right - 0.5) + 1 - column, math.floor(-bottom - 0.5) + 1 - row)

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.parts)

    @cached_property
    def _bounds(self) -> np.ndarray:
        bounds: np.ndarray = shapely.bounds(np.array(self.parts, object))
        return bounds

    def touched(self, boxes: Sequence[PixelBox]) -> list[int]:
        """Positions of those `boxes` that the area reaches into, in their order.

        Tested against the rectangle of a box's pixel centres: a box that holds a pixel of the area is never missed, one
        that only shares an edge with it is not taken.
        """
        edges = np.array([(box.column, box.row, box.width, box.height) for box in boxes], np.int64).reshape(-1, 4)
        return [int(i) for i in np.flatnonzero(self.reaches(edges))]

    def reaches(self, boxes: np.ndarray) -> np.ndarray:
        """(N,) bool: `touched`, for boxes (N, 4) int of column, row, width and height."""
        found = np.zeros(len(boxes), bool)
        hits, _ = self._tree.query(self._centres(boxes), predicate="intersects")
        found[hits] = True
        return found

    def fills(self, boxes: np.ndarray) -> np.ndarray:
        """(N,) bool: whether every pixel of a box (N, 4) is known to belong to one polygon of the area."""
        found = np.zeros(len(boxes), bool)
        hits, _ = self._tree.query(self._centres(boxes), predicate="covered_by")
        found[hits] = True
        return found

    def spans(self, box: PixelBox) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last pixel (N, 2), column and row, within `box` of each polygon that lies about it."""
        near = self._tree.query(box.pad(1).polygon)
        left, bottom, right, top = (self._bounds[near] / self.grid.resolution).T
        least, most = np.array([box.column, box.row]), np.array([box.column + box.width, box.row + box.height]) - 1
        # a pixel more on each side, for an edge that rounding moves
        first = np.stack([np.floor(left), np.floor(-top)], axis=1).astype(np.int64) - 1
        last = np.stack([np.floor(right), np.floor(-bottom)], axis=1).astype(np.int64) + 1
        return np.clip(first, least, most), np.clip(last, least, most)

    def _centres(self, boxes: np.ndarray) -> np.ndarray:
        """The rectangles that the centres of the pixels of boxes (N, 4) span; the same bits for the same pixels."""
        column, row, width, height = boxes.T.astype(np.float64)
        size, half = self.grid.resolution, self.grid.resolution / 2
        left, top = column * size + half, -row * size - half
        right, bottom = (column + width) * size - half, -(row + height) * size + half
        rectangles: np.ndarray = shapely.box(left, bottom, right, top)
        return rectangles

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
        return inside if self.strip is None else inside & self.strip.holds(box)


def load_areas(path: Path, source: str, *, crs: str | None, resolution: float) -> tuple[Area, ...]:
    """Read the area of a map from any vector file; properties such as `oe_start_time` are of no matter.

    Args:
        path: the file.
        source: its name in messages (as project.yaml writes it).
        crs: the grid's CRS. None: UTM, the zone of the area's middle where the area reaches less than a degree out of
            it (edges are straight on the grid), else every zone that it lies in (edges are straight in degrees).
        resolution: edge of a pixel in units of the CRS.

    Returns:
        an area for each zone that holds a part of it, from west to east: each pixel is one's.

    Raises:
        MappingError: the file cannot be read, is empty, holds a broken geometry or none that is a polygon, or reaches
            beyond the latitudes of UTM.
    """
    try:
        file = read_polygons(path, source)
        outline = union(file, source)
        if outline.is_empty:
            raise MappingError(f"{source}: the area is empty. Draw at least one polygon.")
        whole = shapely.union_all(across_180([outline])) if outline.bounds[2] - outline.bounds[0] > 180 else outline
        if crs is not None:
            areas = [_on_named_grid(file, source, outline, whole, named_grid(crs, resolution))]
        else:
            parts = parts_of(whole, source)
            areas = (
                [_straight(file, source, outline, Grid(parts[0].strip.crs, resolution))]
                if len(parts) == 1
                else [_of_zone(part, Grid(part.strip.crs, resolution)) for part in parts]
            )
    except (LabelError, ProjectError) as error:
        raise MappingError(str(error)) from error
    if not any(area.parts for area in areas):
        raise MappingError(f"{source}: the area is empty. Draw at least one polygon.")
    found = tuple(area for area in areas if area.parts and min(area.bounds.shape) > 0)
    if not found:
        raise MappingError(f"{source}: the area is smaller than one pixel of {resolution:g} m. Draw it larger.")
    return found


def _on_named_grid(file: VectorFile, source: str, outline: BaseGeometry, whole: BaseGeometry, grid: Grid) -> Area:
    west, south, east, north = whole.bounds
    first, last = zones_between(west, east)
    if first == last and south >= SOUTH and north <= NORTH:
        return _straight(file, source, outline, grid)
    area = Area(grid, _bent(whole, grid), outline)
    if not np.isfinite(shapely.total_bounds(np.array(area.parts))).all():
        raise MappingError(f"{source}: some of the area has no place in {grid.crs}. Set imagery.crs to another one.")
    return area


def _straight(file: VectorFile, source: str, outline: BaseGeometry, grid: Grid) -> Area:
    """The area with edges that are straight on the grid, as they are between places near each other."""
    return Area(grid, _polygons(union(file, source, grid), grid), outline)


def _of_zone(part: Part, grid: Grid) -> Area:
    return Area(grid, _bent(part.wide, grid), within_180(part.outline), part.strip)


def _bent(outline: BaseGeometry, grid: Grid) -> tuple[BaseGeometry, ...]:
    """An area in degrees on a grid, with edges that are straight in degrees, and so bend on the grid."""
    return _polygons(shapely.make_valid(grid.project(shapely.segmentize(outline, STEP))), grid)


def _polygons(projected: BaseGeometry, grid: Grid) -> tuple[BaseGeometry, ...]:
    parts = shapely.get_parts(shapely.get_parts(projected))  # of a collection that holds multipolygons, too
    polygons = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > 0)]
    return in_pieces(polygons, grid.resolution)
