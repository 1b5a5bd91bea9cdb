"""Large polygons in pieces, so that what is asked of one place looks at few vertices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

MOST = 1024
"""Vertices of a polygon that is left in one piece."""
FEW = 256
"""Vertices of a piece that is not cut further."""
LEAST = 64
"""Edge in pixels below which a piece is not cut further."""


def in_pieces(polygons: Sequence[BaseGeometry], resolution: float) -> tuple[BaseGeometry, ...]:
    """Polygons of more than `MOST` vertices cut along edges of pixels; the others as they are.

    No centre of a pixel lies on a cut, so each that was inside of a polygon is inside of one piece.

    Args:
        polygons: in the CRS of the grid.
        resolution: edge of a pixel.
    """
    pieces: list[BaseGeometry] = []
    for polygon, vertices in zip(polygons, shapely.get_num_coordinates(polygons), strict=True):
        pieces.extend(_halves(polygon, resolution) if vertices > MOST else [polygon])
    return tuple(pieces)


def _halves(polygon: BaseGeometry, resolution: float) -> Iterator[BaseGeometry]:
    left, bottom, right, top = polygon.bounds
    longest = max(right - left, top - bottom)
    if shapely.get_num_coordinates(polygon) <= FEW or longest < LEAST * resolution:
        yield polygon
        return
    if right - left >= top - bottom:
        middle = round((left + right) / 2 / resolution) * resolution
        halves = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    else:
        middle = round((bottom + top) / 2 / resolution) * resolution
        halves = [shapely.box(left, bottom, right, middle), shapely.box(left, middle, right, top)]
    for half in shapely.get_parts(shapely.intersection(polygon, np.array(halves))):
        if half.geom_type == "Polygon":  # a line along the cut belongs to its neighbour
            yield from _halves(half, resolution)
