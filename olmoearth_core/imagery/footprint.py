"""Where scenes and boxes lie on the globe, roughly: enough to leave out what cannot touch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pyproj import Transformer

from olmoearth_core.grid import PixelBox

MARGIN = 0.1
"""Degrees (about 10 km) by which a catalogue's bounding box may be too small without a pixel being lost."""

Bounds = tuple[float, float, float, float]


def near(bbox: Bounds, box: PixelBox) -> bool:
    """Whether a scene of `bbox` may touch `box`.

    `bbox` is (west, south, east, north) in degrees, west > east where it crosses the antimeridian. Generous on
    purpose: whether it does is decided by the asset's own header.
    """
    west, south, east, north = bbox
    left, bottom, right, top = lonlat_bounds(box)
    if top < south - MARGIN or bottom > north + MARGIN:
        return False
    if west > east:
        east += 360
    return any(left + turn <= east + MARGIN and right + turn >= west - MARGIN for turn in (-360, 0, 360))


@lru_cache(maxsize=4096)
def lonlat_bounds(box: PixelBox) -> Bounds:
    """(west, south, east, north) of a box in degrees; east may exceed 180 where the box crosses the antimeridian."""
    left, bottom, right, top = box.bounds
    x, y = np.meshgrid(np.linspace(left, right, 5), np.linspace(bottom, top, 5))
    longitude, latitude = _to_degrees(box.grid.crs).transform(x, y)
    if longitude.max() - longitude.min() > 180:
        longitude = np.where(longitude < 0, longitude + 360, longitude)
    return float(longitude.min()), float(latitude.min()), float(longitude.max()), float(latitude.max())


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
