"""Where scenes and boxes lie on the globe, roughly: enough to leave out what cannot touch.

Longitudes turn: a box across the antimeridian is one box here (its east exceeds 180) and two where others are told
(`longitudes.within_180`); one that holds a pole has all longitudes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CatalogueError, ImageryError
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.longitudes import unrolled, within_180

MARGIN = 0.1
"""Degrees (about 10 km) by which a catalogue's bounding box may be too small without a pixel being lost."""
STEPS = 9
"""Points along an edge of a box that is taken to degrees: its edges bend."""

Bounds = tuple[float, float, float, float]


def near(bbox: Bounds, box: PixelBox) -> bool:
    """Whether a scene of `bbox` may touch `box`.

    `bbox` is (west, south, east, north) in degrees, west > east where it crosses the antimeridian. Generous on
    purpose: whether it does is decided by the asset's own header.
    """
    return _touch(bbox, lonlat_bounds(box))


@lru_cache(maxsize=4096)
def check_place(bbox: Bounds, grid: SourceGrid) -> None:
    """Refuse an asset whose pixels lie elsewhere than its scene.

    Args:
        bbox: of the scene, as for `near`.
        grid: where the asset's header says that its pixels are.

    Raises:
        ImageryError: the two have no place in common; or the header's place is none on Earth.
    """
    a, b, c, d, e, f = grid.transform
    columns, rows = np.array([0, grid.width, 0, grid.width]), np.array([0, 0, grid.height, grid.height])
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    edges = np.array([[x.min(), y.min(), x.max(), y.max()]])
    west, south, east, north = (float(edge) for edge in _bounds_in_degrees(edges, grid.crs)[0])
    if not np.isfinite([west, south, east, north]).all():
        raise ImageryError(f"its header places it nowhere on Earth ({grid.crs}, transform {grid.transform})")
    if not _touch(bbox, (west, south, east, north)):
        raise ImageryError(
            f"its header places it at {_told((west, south, east, north))}, and the catalogue at {_told(bbox)}: one of "
            "them is wrong, so it is not used"
        )


@lru_cache(maxsize=2**17)
def lonlat_bounds(box: PixelBox) -> Bounds:
    """(west, south, east, north) of a box in degrees; east may exceed 180 where the box crosses the antimeridian."""
    west, south, east, north = (float(edge) for edge in _bounds_in_degrees(np.array([box.bounds]), box.grid.crs)[0])
    return west, south, east, north


def boxes_in_degrees(bounds: NDArray[np.float64], crs: str) -> NDArray[Any]:
    """Boxes (N, 4) left, bottom, right, top in `crs` -> N geometries in degrees that hold them, within -180 to 180."""
    edges = _bounds_in_degrees(bounds, crs)
    boxes: NDArray[Any] = shapely.box(*edges.T)
    for k in np.flatnonzero(edges[:, 2] > 180):
        boxes[k] = within_180(boxes[k])
    return boxes


def footprint_of(item: dict[str, Any]) -> BaseGeometry:
    """The geometry of a STAC Item in degrees, valid, within -180 to 180.

    A ring whose longitudes jump from one end to the other crosses the antimeridian, though the standard wants it cut.

    Raises:
        CatalogueError: it is no geometry.
    """
    try:
        parts = shapely.get_parts(shapely.geometry.shape(item["geometry"]))
        return shapely.union_all([within_180(shapely.make_valid(part)) for part in unrolled(parts)])
    except (shapely.errors.ShapelyError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise CatalogueError(
            f"item {item.get('id')}: its geometry is none ({type(error).__name__}); correct the catalogue"
        ) from error


def _touch(bbox: Bounds, bounds: Bounds) -> bool:
    """Whether two boxes in degrees have a place in common, or nearly."""
    west, south, east, north = bbox
    left, bottom, right, top = bounds
    if top < south - MARGIN or bottom > north + MARGIN:
        return False
    if west > east:
        east += 360
    # near the poles a degree of longitude is short, and the margin counts many of them
    margin = MARGIN / max(np.cos(np.radians(min(max(abs(bottom), abs(top)), 90.0))), 1e-6)
    return any(left + turn <= east + margin and right + turn >= west - margin for turn in (-360, 0, 360))


def _bounds_in_degrees(bounds: NDArray[np.float64], crs: str) -> NDArray[np.float64]:
    """(N, 4) left, bottom, right, top in `crs` -> (N, 4) west, south, east, north; east beyond 180 where it crosses."""
    share = np.linspace(0, 1, STEPS)
    u, v = (grid.ravel() for grid in np.meshgrid(share, share))
    left, bottom, right, top = (edge[:, None] for edge in bounds.T)
    transformer = _to_degrees(crs)
    longitude, latitude = transformer.transform(left + (right - left) * u, bottom + (top - bottom) * v)
    west, east = _extremes(longitude)
    longitude = np.where((east - west > 180)[:, None] & (longitude < 0), longitude + 360, longitude)
    (west, east), (south, north) = _extremes(longitude), _extremes(latitude)
    edges = np.stack([west, south, east, north], axis=1)
    if not transformer.source_crs.is_geographic:
        for pole in (90.0, -90.0):
            x, y = transformer.transform(0.0, pole, direction="INVERSE")
            holds = (bounds[:, 0] <= x) & (x <= bounds[:, 2]) & (bounds[:, 1] <= y) & (y <= bounds[:, 3])
            edges[holds, 0], edges[holds, 2] = -180, 180
            edges[holds, 3 if pole > 0 else 1] = pole
    return edges


def _extremes(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest of each row, of points that are on Earth; infinite where none is."""
    on_earth = np.isfinite(values)
    return np.where(on_earth, values, np.inf).min(axis=1), np.where(on_earth, values, -np.inf).max(axis=1)


def _told(bbox: Bounds) -> str:
    west, south, east, north = bbox
    return f"{west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"


def lonlat_outline(box: PixelBox) -> list[tuple[float, float]]:
    """The corners of a box as (longitude, latitude), counterclockwise and closed, to 7 decimals (about 1 cm)."""
    left, bottom, right, top = box.bounds
    longitude, latitude = _to_degrees(box.grid.crs).transform(
        [left, right, right, left, left], [bottom, bottom, top, top, bottom]
    )
    return [(round(x, 7), round(y, 7)) for x, y in zip(longitude, latitude, strict=True)]


@lru_cache(maxsize=16)
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
