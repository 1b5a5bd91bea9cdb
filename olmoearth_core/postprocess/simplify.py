"""Smoother outlines of patches: neighbours keep the edge they share, so that no gap and no overlap appears."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely


def simplify(polygons: gpd.GeoDataFrame, resolution: float, tolerance: float) -> gpd.GeoDataFrame:
    """Take the stairs of pixels out of outlines, all polygons at once.

    Visvalingam and Whyatt's rule on the edges of the coverage: a corner goes where the triangle that it makes with its
    neighbours is smaller than the square of `tolerance`. No polygon and no hole disappears. The other columns stay:
    area_m2 is still what was counted from pixels.

    Args:
        polygons: along pixel edges; no two overlap.
        resolution: edge of a pixel in units of the CRS.
        tolerance: in units of the CRS; 0 leaves everything as it is.
    """
    if tolerance <= 0 or not len(polygons):
        return polygons
    noded = with_shared_corners(polygons.geometry.to_numpy(), resolution)
    simple = gpd.GeoSeries(shapely.coverage_simplify(noded, tolerance), crs=polygons.crs, index=polygons.index)
    return polygons.set_geometry(simple)


def with_shared_corners(polygons: np.ndarray, resolution: float) -> np.ndarray:
    """The same polygons, (N,), with a vertex wherever a corner of any of them lies on their edge.

    An outline made from pixels has vertices only where it turns. Where two neighbours meet along its straight edge
    they have a corner and it has none; to simplify an edge alike from both sides, all need the same vertices.
    """
    kind, points, (rings, parts) = shapely.to_ragged_array(polygons)
    lattice = np.rint(points / resolution).astype(np.int64)
    lattice -= lattice.min(axis=0)
    start, end = lattice[:-1], lattice[1:]
    step = end - start
    step[rings[1:-1] - 1] = 0  # from one ring's last vertex to the next ring's first is no edge
    inserted, before = [], np.zeros(len(points), np.int64)
    for along in (0, 1):  # edges in x, then in y
        line = lattice[:, 1 - along] * (lattice[:, along].max() + 1)
        corners, which = np.unique(line + lattice[:, along], return_index=True)
        edges = np.flatnonzero(step[:, along])
        first, last = line[edges] + start[edges, along], line[edges] + end[edges, along]
        low = np.searchsorted(corners, np.minimum(first, last), "right")
        high = np.searchsorted(corners, np.maximum(first, last), "left")
        count = high - low
        before[edges + 1] += count
        nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        found = np.where(np.repeat(last > first, count), np.repeat(low, count) + nth, np.repeat(high, count) - 1 - nth)
        inserted.append((np.repeat(edges, count), nth, which[found]))
    place = np.arange(len(points)) + np.cumsum(before)
    made = np.empty((len(points) + int(before.sum()), 2))
    made[place] = points
    for edge, nth, which in inserted:
        made[place[edge] + 1 + nth] = points[which]
    total = np.append(place, len(made))
    noded: np.ndarray = shapely.from_ragged_array(kind, made, (total[rings], parts))
    return noded
