"""Which UTM zones an area is mapped in, and whose a place is: strips of six degrees that share every longitude out.

A pixel belongs to its zone when the longitude of its centre lies in the zone's strip, so that each place on the ground
is one zone's. A zone is not cut at the equator: its grid is that of the hemisphere where the middle of its part lies,
and goes on beyond it (UTM is as exact there; Landsat is delivered so).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import PixelBox

WIDTH = 6
REACH = 1.0
"""Degrees that the outermost zones take over of their neighbours: an area that reaches no further stays in its zone."""
SOUTH, NORTH = -80.0, 84.0
"""Between these latitudes lie the zones of UTM."""
STEP = 0.05
"""Degrees between vertices of long edges, which bend when they are projected: a chord is less than 0.4 m off."""
RIM = 1e-6
"""Degrees (at most 0.11 m) by which parts are cut too wide, more than a chord misses a meridian by: whose a pixel is,
its centre decides."""


@dataclass(frozen=True)
class Strip:
    """The longitudes of a zone, in degrees east of its central meridian.

    Attributes:
        crs: of the zone.
        west: the first longitude that belongs to it; None: all that the area reaches.
        east: the first that does not any more; None likewise.
    """

    crs: str
    west: float | None = None
    east: float | None = None

    def holds(self, box: PixelBox) -> np.ndarray:
        """(H, W) bool, True where the centre of a pixel lies in the strip; the same in every box."""
        x, y = box.centres
        columns = np.arange(len(x))
        held = np.ones(box.shape, bool)
        if self.west is not None:
            held &= columns >= self._before(self.west, x, y)[:, None]
        if self.east is not None:
            held &= columns < self._before(self.east, x, y)[:, None]
        return held

    def longitude(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Degrees east of the central meridian, (N,), at points of the zone's CRS."""
        longitude, _ = self._to_degrees.transform(x, y)
        degrees: np.ndarray = (np.asarray(longitude) - self.central + 180) % 360 - 180
        return degrees

    def _before(self, edge: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How many of the columns at `x` lie west of `edge` (degrees), (H,), in each row at `y`; found by halving."""
        low, high = np.zeros(len(y), int), np.full(len(y), len(x))
        while (open_ := low < high).any():
            middle = (low + high) // 2
            west = self.longitude(x[np.minimum(middle, len(x) - 1)], y) < edge
            low, high = np.where(open_ & west, middle + 1, low), np.where(open_ & ~west, middle, high)
        return low

    @cached_property
    def _to_degrees(self) -> Transformer:
        return Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)

    @property
    def central(self) -> float:
        """Its central meridian, degrees."""
        return (int(self.crs[-2:]) - 0.5) * WIDTH - 180


@dataclass(frozen=True)
class Part:
    """What of an area lies in one zone.

    Attributes:
        strip: of the zone.
        outline: in degrees, over the antimeridian in one piece.
        wide: the same, cut `RIM` too wide at the neighbouring zones.
    """

    strip: Strip
    outline: BaseGeometry
    wide: BaseGeometry


def parts_of(outline: BaseGeometry, source: str) -> list[Part]:
    """The zones of an area, from west to east; one alone has no limits.

    Args:
        outline: degrees, over the antimeridian in one piece.
        source: its name in messages.

    Raises:
        MappingError: the area reaches beyond the latitudes of UTM.
    """
    west, south, east, north = outline.bounds
    if south < SOUTH or north > NORTH:
        raise MappingError(
            f"{source}: the area reaches from latitude {south:.2f} to {north:.2f}, and UTM ends at 80 S and 84 N. Set "
            "imagery.crs in project.yaml to a polar CRS in metres, such as EPSG:3413 (north) or EPSG:3031 (south)."
        )
    first, last = zones_between(west, east)
    if first == last:
        return [Part(Strip(_crs(first, (south + north) / 2)), outline, outline)]
    polygons, found = shapely.get_parts(outline), []
    for zone in range(first, last + 1):
        start, end = _start(zone), _start(zone + 1)
        over, beyond = zone == first and west < start, zone == last and east > end  # the outermost strips reach further
        start, end = west if over else start, east if beyond else end
        exact = _between(polygons, start, end)
        if not len(exact):
            continue
        part = shapely.MultiPolygon(list(exact))
        _, bottom, _, top = part.bounds
        edges = None if over else -WIDTH / 2, None if beyond else WIDTH / 2
        wide = shapely.MultiPolygon(list(_between(polygons, start - RIM, end + RIM)))
        found.append(Part(Strip(_crs(zone, (bottom + top) / 2), *edges), part, wide))
    return found


def _between(polygons: np.ndarray, west: float, east: float) -> np.ndarray:
    """What of polygons lies between two longitudes, polygons again."""
    left, bottom, right, top = shapely.bounds(polygons).T
    near, whole = (right > west) & (left < east), (left >= west) & (right <= east)
    band = shapely.box(west, bottom.min() - 1, east, top.max() + 1)
    parts = shapely.get_parts(np.append(polygons[near & whole], shapely.intersection(polygons[near & ~whole], band)))
    return np.asarray(parts[shapely.area(parts) > 0])


def zones_between(west: float, east: float) -> tuple[int, int]:
    """The first and the last zone of what lies between two longitudes, counted from 180 W; 60 and more beyond 180 E."""
    middle = (west + east) / 2
    first, last = min(west + REACH, middle), max(east - REACH, middle)
    return math.floor((first + 180) / WIDTH), math.floor((last + 180) / WIDTH)


def _start(zone: int) -> float:
    return WIDTH * zone - 180.0


def _crs(zone: int, latitude: float) -> str:
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone % 60 + 1}"
