"""Patches where two zones meet: cut along the meridian that both share, and made one again over it.

A zone's pixels end in stairs along the meridian, and its neighbour's pixels lie at an angle to them. So each zone's
patches are carried on over the meridian by some pixels and then cut along it: no gap and no overlap is left, and
patches of one class on both sides become one.
"""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer

from olmoearth_core.grid import PixelBox
from olmoearth_core.inference.zones import WIDTH, Strip

DECIMALS = 9
"""Of a degree: a tenth of a millimetre."""
_ROWS = 1024


def carry_over(classes: np.ndarray, mapped: np.ndarray, box: PixelBox, strip: Strip, pixels: int) -> None:
    """Repeat the last pixel of a row before an edge of the strip beyond it, in place.

    Args:
        classes: (H, W) of `box`.
        mapped: (H, W) bool, where there is a class.
        box: with room of `pixels` on each side.
        strip: of the zone.
        pixels: how often.
    """
    for top in range(0, box.height, _ROWS):
        rows = np.arange(top, min(top + _ROWS, box.height))
        held = strip.holds(box.grid.box(box.column, box.row + top, box.width, len(rows)))
        first, last = held.argmax(axis=1), box.width - 1 - held[:, ::-1].argmax(axis=1)
        for edge, limit, step in ((first, strip.west, -1), (last, strip.east, 1)):
            if limit is None:
                continue
            here = held.any(axis=1) & mapped[rows, edge]
            for k in range(1, pixels + 1):
                beyond = edge + step * k
                ok = here & (beyond >= 0) & (beyond < box.width)
                classes[rows[ok], beyond[ok]] = classes[rows[ok], edge[ok]]
                mapped[rows[ok], beyond[ok]] = True


def in_degrees(patches: gpd.GeoDataFrame, strip: Strip) -> gpd.GeoDataFrame:
    """Patches of a zone, noded (neighbours have the same vertices), in EPSG:4326 and cut at the strip's edges."""
    shapes = patches.geometry.to_numpy()
    to_degrees = Transformer.from_crs(strip.crs, "EPSG:4326", always_xy=True)

    def turn(xy: np.ndarray) -> np.ndarray:
        _, latitude = to_degrees.transform(xy[:, 0], xy[:, 1])
        return np.column_stack([strip.central + strip.longitude(xy[:, 0], xy[:, 1]), latitude])

    shapes = _rounded(shapely.transform(shapes, turn))
    west = -np.inf if strip.west is None else strip.central + strip.west
    east = np.inf if strip.east is None else strip.central + strip.east
    left, _, right, _ = shapely.bounds(shapes).reshape(-1, 4).T
    over, whole = (left < west) | (right > east), shapely.area(shapes)
    shapes[over] = _rounded(shapely.intersection(shapes[over], shapely.box(max(west, -400), -90, min(east, 400), 90)))
    pieces, patch = shapely.get_parts(shapes, return_index=True)  # a cut may leave several of a patch, and lines
    areas = shapely.area(pieces)
    pieces, patch, areas = (part[areas > 0] for part in (pieces, patch, areas))
    table = patches.iloc[patch].drop(columns="geometry").reset_index(drop=True)
    table["area_m2"] *= areas / whole[patch]
    return gpd.GeoDataFrame(table, geometry=pieces, crs="EPSG:4326")


def joined(zones: Sequence[gpd.GeoDataFrame], strips: Sequence[Strip]) -> gpd.GeoDataFrame:
    """The patches of all zones, from west to east (`in_degrees`), those of one class on both sides of an edge as one.

    Areas add up; of a column confidence the mean over the area is taken.
    """
    patches = pd.concat(zones, ignore_index=True)
    owner = np.repeat(np.arange(len(zones)), [len(zone) for zone in zones])
    group = np.arange(len(patches))
    shapes, values = patches.geometry.to_numpy(), patches["value"].to_numpy()
    left, _, right, _ = shapely.bounds(shapes).reshape(-1, 4).T
    for k, strip in enumerate(strips[:-1]):
        edge = strip.central + WIDTH / 2
        one, two = (np.flatnonzero((owner == k) & (right == edge)), np.flatnonzero((owner == k + 1) & (left == edge)))
        meridian = shapely.LineString([(edge, -90), (edge, 90)])
        on_edge = [shapely.intersection(shapes[side], meridian) for side in (one, two)]
        pairs = shapely.STRtree(on_edge[1]).query(on_edge[0], predicate="intersects").T
        for a, b in pairs.tolist():
            along = shapely.length(shapely.intersection(on_edge[0][a], on_edge[1][b]))
            if along > 0 and values[one[a]] == values[two[b]]:
                group[group == group[two[b]]] = group[one[a]]
    several = np.flatnonzero(np.bincount(group, minlength=len(group))[group] > 1)
    if not len(several):
        return patches
    made = [_one(patches.iloc[several[group[several] == g]]) for g in np.unique(group[several])]
    alone = patches.drop(index=several)
    return gpd.GeoDataFrame(pd.concat([alone, *made], ignore_index=True), geometry="geometry", crs=patches.crs)


def _one(parts: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    whole = parts.iloc[:1].copy()
    if "confidence" in parts:
        whole["confidence"] = round(float(np.average(parts["confidence"], weights=parts["area_m2"])), 4)
    whole["area_m2"] = parts["area_m2"].sum()
    return whole.set_geometry(gpd.GeoSeries([shapely.union_all(parts.geometry)], index=whole.index, crs=parts.crs))


def _rounded(shapes: np.ndarray) -> np.ndarray:
    """The same vertex, wherever it came from, with the same bits."""
    rounded: np.ndarray = shapely.transform(shapes, lambda xy: np.round(xy, DECIMALS))
    return rounded
