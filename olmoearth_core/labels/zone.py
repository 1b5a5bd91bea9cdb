"""Which grid fits a place: the UTM zone around geometries in degrees, or the CRS that project.yaml names."""

from __future__ import annotations

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from olmoearth_core.errors import ProjectError
from olmoearth_core.grid import Grid

MAX_WIDTH = 12.0
"""Degrees of longitude that one UTM zone may serve: its own six and three on each side."""


def utm_grid(geometries: np.ndarray, what: str, resolution: float) -> Grid:
    """The grid of the UTM zone around the middle of `geometries` ((N,), degrees, none empty).

    Args:
        what: their name in messages.
        resolution: edge of a pixel in metres.

    Raises:
        ProjectError: they are too wide for one zone, or lie outside UTM.
    """
    west, south, east, north = continuous_bounds(geometries)
    if east - west > MAX_WIDTH:
        raise ProjectError(
            f"{what} from longitude {_wrapped(west):.2f} to {_wrapped(east):.2f}, too wide for one UTM zone "
            f"(at most {MAX_WIDTH:g} degrees). Split it, or set imagery.crs in project.yaml to a CRS for all of it."
        )
    return Grid.utm(_wrapped((west + east) / 2), (south + north) / 2, resolution)


def continuous_bounds(geometries: np.ndarray) -> tuple[float, float, float, float]:
    """(west, south, east, north) of geometries in degrees; east is above 180 where they reach over that meridian."""
    parts = shapely.get_parts(geometries)
    left, bottom, right, top = shapely.bounds(parts).T
    # an outline that jumps from 179.9 to -179.9 goes over the meridian; one of 360 degrees is the whole world
    jumps = (right - left > 180) & (right - left < 360)
    if jumps.any():
        eastward = shapely.transform(parts[jumps], lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
        left[jumps], _, right[jumps], _ = shapely.bounds(eastward).T
    turn = np.where(left < 0, 360.0, 0.0)
    ways = [(left, right), (left + turn, right + turn)]
    west, east = min(((low.min(), high.max()) for low, high in ways), key=lambda edges: edges[1] - edges[0])
    return float(west), float(bottom.min()), float(east), float(top.max())


def named_grid(crs: str, resolution: float) -> Grid:
    """The grid of imagery.crs.

    Raises:
        ProjectError: no CRS, not projected, or not in metres.
    """
    try:
        parsed = CRS.from_user_input(crs)
    except CRSError as error:
        raise ProjectError(f"imagery.crs '{crs}' is no CRS; allowed is a code like EPSG:32631.") from error
    if not parsed.is_projected:
        raise ProjectError(f"imagery.crs {crs} ({parsed.name}) is not projected; the grid is in metres.")
    if odd := [axis.unit_name for axis in parsed.axis_info[:2] if axis.unit_conversion_factor != 1]:
        raise ProjectError(
            f"imagery.crs {crs} ({parsed.name}) is in {odd[0]}; the grid is in metres. "
            "Set a CRS in metres, such as a UTM zone (EPSG:326xx), or leave it out."
        )
    return Grid(crs, resolution)


def _wrapped(longitude: float) -> float:
    return longitude if -180 <= longitude <= 180 else (longitude + 180) % 360 - 180
