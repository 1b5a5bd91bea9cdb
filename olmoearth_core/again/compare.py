"""Two rasters of one place, pixel by pixel: how many differ, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window, from_bounds

from olmoearth_core.errors import MappingError

ROWS = 512


@dataclass(frozen=True)
class Difference:
    """How a raster differs from the one it is held against; everything over the bands that both have.

    Attributes:
        pixels: of the first raster.
        differing: pixels whose first band (class, or value) is not the same.
        largest: largest difference of the bands of probability or value, with their scale: probabilities 0 to 1,
            values in their unit. Pixels that one of the two has no value for count as differing only.
    """

    pixels: int
    differing: int
    largest: float

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.pixels + other.pixels, self.differing + other.differing, max(self.largest, other.largest)
        )


NONE = Difference(0, 0, 0.0)


def compare_rasters(made: Path, recorded: Path, *, skip: int = 0) -> Difference:
    """Compare a raster with the same place of another, which may be larger.

    Args:
        made: its first band is a class or a value; the bands that both have are compared one by one.
        recorded: on the same grid.
        skip: so many first bands of `made` that the other does not have.

    Raises:
        MappingError: one of the two is not a raster, or they do not lie on one grid.
    """
    try:
        with rasterio.open(made) as one, rasterio.open(recorded) as other:
            return _compare(one, other, skip)
    except RasterioError as error:
        raise MappingError(f"{made} and {recorded} cannot be compared ({error}).") from error


def _compare(one: rasterio.DatasetReader, other: rasterio.DatasetReader, skip: int) -> Difference:
    place = from_bounds(*one.bounds, transform=other.transform)
    column, row = round(place.col_off), round(place.row_off)
    inside = 0 <= column <= other.width - one.width and 0 <= row <= other.height - one.height
    if one.crs != other.crs or not inside or abs(place.col_off - column) + abs(place.row_off - row) > 1e-3:
        raise MappingError(f"{one.name} and {other.name} do not lie on one grid: they cannot be compared.")
    bands = list(range(1, min(one.count - skip, other.count) + 1))
    found = NONE
    for top in range(0, one.height, ROWS):
        height = min(ROWS, one.height - top)
        here = one.read([skip + band for band in bands], window=Window(0, top, one.width, height))
        there = other.read(bands, window=Window(column, row + top, one.width, height))
        found += Difference(
            pixels=here[0].size,
            differing=int((here[0] != there[0]).sum()),
            largest=max((_largest(other, band, here[band - 1], there[band - 1]) for band in bands), default=0.0),
        )
    return found


def _largest(raster: rasterio.DatasetReader, band: int, here: np.ndarray, there: np.ndarray) -> float:
    """The largest difference of a band that has a scale; one without (classes, counts) has no size of difference."""
    scale = raster.scales[band - 1]
    if scale == 1.0:
        return 0.0
    both = (here != raster.nodata) & (there != raster.nodata)
    return float(np.abs(here.astype(np.int64) - there.astype(np.int64))[both].max(initial=0) * scale)
