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
    return shapely.union_all([part for part in parts if not part.is_empty])


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
