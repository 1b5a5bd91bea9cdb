"""Longitudes turn: geometries in degrees across the antimeridian, in one piece that reaches beyond 180 (`unrolled`,
`across_180`), or cut as GeoJSON wants it (`within_180`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry


def unrolled(geometries: NDArray[Any]) -> NDArray[Any]:
    """(N,) geometries in degrees; one with an edge that jumps from 179 to -179 goes over the antimeridian, to 181.

    An edge of more than 180 degrees is such a jump; one of 360 goes around the world.
    """
    points, owner = shapely.get_coordinates(geometries, return_index=True)
    step = np.abs(np.diff(points[:, 0]))
    jumps = (step > 180) & (step < 360) & (owner[1:] == owner[:-1])
    turned = geometries.copy()
    for k in np.unique(owner[1:][jumps]):
        if shapely.get_dimensions(geometries[k]) > 0:
            turned[k] = shapely.transform(
                geometries[k], lambda xy: np.where(xy[:, :1] < 0, xy + np.array([360, 0]), xy)
            )
    return turned


def within_180(area: BaseGeometry) -> BaseGeometry:
    """An area in degrees with what lies beyond the antimeridian on its other side, and nothing beyond the poles."""
    west, south, east, north = area.bounds
    if west >= -180 and east <= 180 and south >= -90 and north <= 90:
        return area
    parts = [
        shapely.transform(
            shapely.intersection(area, shapely.box(turn - 180, -90, turn + 180, 90)),
            lambda xy, turn=turn: xy - np.array([turn, 0]),
        )
        for turn in (-360, 0, 360)
    ]
    pieces = shapely.get_parts(parts)  # where it only touches the antimeridian a line is left over
    return shapely.union_all(pieces[shapely.get_dimensions(pieces) == shapely.get_dimensions(area)])


def hull(area: BaseGeometry) -> BaseGeometry:
    """The convex hull of an area within -180 to 180, not around the Earth where it lies over the antimeridian."""
    return within_180(shapely.MultiPolygon(list(shapely.get_parts(across_180([area])))).convex_hull)


def bbox(area: BaseGeometry) -> list[float]:
    """(west, south, east, north) of an area within -180 to 180; as in GeoJSON, west > east over the antimeridian."""
    west, south, east, north = shapely.total_bounds(across_180([area])).tolist()
    return [west, south, east if east <= 180 else east - 360, north]


def around(boxes: Sequence[Sequence[float]]) -> list[float]:
    """The smallest bbox, as `bbox`, around others."""
    spans = sorted((west, east if east >= west else east + 360) for west, _, east, _ in boxes)
    gaps, reached = [], spans[0][1]
    for west, east in spans[1:]:
        gaps.append((west - reached, reached, west))
        reached = max(reached, east)
    widest, east, west = max([*gaps, (spans[0][0] + 360 - reached, reached, spans[0][0])])
    if widest <= 0:
        west, east = -180.0, 180.0
    east = east if east <= 180 else east - 360
    return [west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)]


def across_180(areas: Sequence[BaseGeometry] | NDArray[Any]) -> NDArray[Any]:
    """Areas on both sides of the antimeridian as neighbours: the western hemisphere beyond 180; others as they are."""
    bounds = shapely.bounds(np.asarray(areas, object))
    west, east = np.nanmin(bounds[:, 0]), np.nanmax(bounds[:, 2])
    if east - west <= 180:
        return np.asarray(areas, object)
    parts = shapely.get_parts(np.asarray(areas, object))
    left = shapely.bounds(parts)[:, 2] <= 0
    turned = parts.copy()
    turned[left] = shapely.transform(parts[left], lambda xy: xy + np.array([360, 0]))
    span = shapely.total_bounds(turned)
    return turned if span[2] - span[0] < east - west else np.asarray(areas, object)
