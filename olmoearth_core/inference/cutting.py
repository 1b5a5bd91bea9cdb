"""Large polygons in pieces, so that what is asked of one place looks at few vertices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import shapely
from shapely.geometry.base import BaseGeometry

MOST = 1024
"""Vertices of a polygon that is left in one piece."""
FEW = 256
"""Vertices of a piece that is not cut further."""
LEAST = 64
"""Edge in pixels below which a piece is not cut further."""

Rectangle = tuple[float, float, float, float]
"""Left, bottom, right, top."""
Within = Callable[[BaseGeometry, Rectangle], BaseGeometry]
"""What of a polygon lies in a rectangle."""


def in_pieces(polygons: Sequence[BaseGeometry], resolution: float) -> tuple[BaseGeometry, ...]:
    """Polygons of more than `MOST` vertices cut along edges of pixels; the others as they are.

    No centre of a pixel lies on a cut, so each that was inside of a polygon is inside of one piece.

    Args:
        polygons: in the CRS of the grid.
        resolution: edge of a pixel.
    """
    pieces: list[BaseGeometry] = []
    for polygon, vertices in zip(polygons, shapely.get_num_coordinates(polygons), strict=True):
        pieces.extend(_cut(polygon, resolution) if vertices > MOST else [polygon])
    return tuple(pieces)


def _cut(polygon: BaseGeometry, resolution: float) -> list[BaseGeometry]:
    """Clipping is far faster than intersecting, and not always right where an outline touches a cut: the sum of the
    areas tells."""
    clipped = [part for piece in _pieces(polygon, resolution, _clipped) for part in _valid(piece)]
    if math.isclose(sum(piece.area for piece in clipped), polygon.area, rel_tol=1e-9):
        return clipped
    return list(_pieces(polygon, resolution, _intersected))


def _pieces(polygon: BaseGeometry, resolution: float, within: Within) -> Iterator[BaseGeometry]:
    left, bottom, right, top = polygon.bounds
    longest = max(right - left, top - bottom)
    if shapely.get_num_coordinates(polygon) <= FEW or longest < LEAST * resolution:
        yield polygon
        return
    if right - left >= top - bottom:
        middle = round((left + right) / 2 / resolution) * resolution
        halves = [(left, bottom, middle, top), (middle, bottom, right, top)]
    else:
        middle = round((bottom + top) / 2 / resolution) * resolution
        halves = [(left, bottom, right, middle), (left, middle, right, top)]
    for half in halves:
        for part in shapely.get_parts(within(polygon, half)):
            if part.geom_type == "Polygon":  # a line along the cut belongs to its neighbour
                yield from _pieces(part, resolution, within)


def _clipped(polygon: BaseGeometry, rectangle: Rectangle) -> BaseGeometry:
    return shapely.clip_by_rect(polygon, *rectangle)


def _intersected(polygon: BaseGeometry, rectangle: Rectangle) -> BaseGeometry:
    return shapely.intersection(polygon, shapely.box(*rectangle))


def _valid(piece: BaseGeometry) -> list[BaseGeometry]:
    if piece.is_valid:
        return [piece]
    return [part for part in shapely.get_parts(shapely.make_valid(piece)) if part.geom_type == "Polygon"]
