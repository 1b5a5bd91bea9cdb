"""What an importer finds in a partner's files, before any pixel is read: scenes made of layers, and what they lack."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import SourceError
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.importing.values import Encoding

Kind = Literal["scenes", "patches", "cubes"]
Level = Literal["L1C", "L2A"]
_STRAIGHT = 10_000
"""Units of the CRS: shorter edges are straight in degrees, too (to millimetres in UTM)."""


@dataclass(frozen=True)
class Options:
    """What a partner says about files that do not say it themselves.

    Attributes:
        kind: what the files are; None to tell by looking.
        bands: official or common names in the files' order, "-" for one to leave out; for files without band names.
        ignore: names of bands, variables or parts of file names that are not imported.
        date: of scenes that tell none.
        dates: CSV table with the columns file, date.
        crs: of files that state none.
        scale, offset: reflectance = value * scale + offset; what the files say when None.
        nodata: value that means no data; what the files say when None.
        level: processing level; told by the bands when None (B10 is of level 1C).
        link: leave GeoTIFFs that need no change where they are.
    """

    kind: Kind | None = None
    bands: tuple[str, ...] = ()
    ignore: frozenset[str] = frozenset()
    date: datetime | None = None
    dates: Path | None = None
    crs: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    level: Level | None = None
    link: bool = False

    def encoding(self, scale: float | None, offset: float | None, nodata: float | None) -> Encoding:
        """What the files say (scale 1 and offset 0 say nothing), unless the partner says otherwise."""
        if (scale or 1.0) == 1.0 and not offset:
            scale = None
        return Encoding(
            scale=scale if self.scale is None else self.scale,
            offset=(offset or 0.0) if self.offset is None else self.offset,
            nodata=nodata if self.nodata is None else self.nodata,
        )


@dataclass(frozen=True)
class Layer:
    """One asset to be.

    Attributes:
        name: of the file, and band or variable in it, for messages.
        grid: where the pixels lie.
        encoding: what the values mean.
        read: gives the pixels (H, W) on `grid`.
        file: the GeoTIFF that holds this layer and nothing else, if it is one.
    """

    name: str
    grid: SourceGrid
    encoding: Encoding
    read: Callable[[], NDArray[Any]]
    file: Path | None = None


@dataclass(frozen=True)
class SourceScene:
    """One acquisition of one place."""

    id: str
    moment: datetime
    """UTC."""
    layers: Mapping[str, Layer]
    """Official band name or SCL -> layer; at least one."""
    label: str | None = None
    """The class of all of it, for a patch."""

    @property
    def finest(self) -> SourceGrid:
        """The grid with the smallest pixels."""
        return min((layer.grid for layer in self.layers.values()), key=lambda grid: grid.resolution)


@dataclass(frozen=True)
class Found:
    """What lies in a partner's files."""

    kind: Kind
    scenes: Sequence[SourceScene]
    files: Sequence[Path]
    """Every file that pixels or classes come from."""
    warnings: Sequence[str] = field(default=())


def corners(grid: SourceGrid, per_edge: int = 1) -> NDArray[np.float64]:
    """The outline of a grid, (4 * per_edge, 2) x and y in its CRS."""
    a, b, c, d, e, f = grid.transform
    steps = np.arange(per_edge) / per_edge
    zero, one = np.zeros(per_edge), np.ones(per_edge)
    columns = np.concatenate([steps, one, 1 - steps, zero]) * grid.width
    rows = np.concatenate([zero, steps, one, 1 - steps]) * grid.height
    return np.column_stack([a * columns + b * rows + c, d * columns + e * rows + f])


def outline(grid: SourceGrid) -> BaseGeometry:
    """The outline of a grid in degrees (EPSG:4326), to 1e-7 of a degree."""
    small = grid.resolution * max(grid.width, grid.height) < _STRAIGHT
    x, y = to_degrees(grid.crs).transform(*corners(grid, 1 if small else 8).T)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise SourceError(f"the corners {corners(grid).round(1).tolist()} have no place on Earth in {grid.crs[:60]}")
    around: BaseGeometry = shapely.set_precision(shapely.Polygon(np.column_stack([x, y])), 1e-7)
    return shapely.orient_polygons(around)


@lru_cache(maxsize=256)
def to_degrees(crs: str) -> Transformer:
    """From a CRS to longitude and latitude (EPSG:4326)."""
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def same_place(one: SourceGrid, other: SourceGrid) -> bool:
    """Whether two grids cover the same ground, to half of the coarser pixel."""
    tolerance = max(one.resolution, other.resolution) / 2
    return one.crs == other.crs and bool(np.abs(corners(one) - corners(other)).max() <= tolerance)


def crs_text(crs: Any, name: str) -> str:
    """A CRS as "EPSG:<code>" where it is that one, else as WKT.

    A CRS that states a code but says more (a datum shift of zero) counts as that code if it puts points of its area of
    use at the same place to a millimetre.

    Args:
        crs: whatever pyproj understands.
        name: of the file, in messages.

    Raises:
        SourceError: it is no CRS.
    """
    try:
        parsed = CRS.from_user_input(crs)
    except CRSError as error:
        raise SourceError(
            f"{name}: its CRS cannot be understood ({_one_line(error)}). Give --crs EPSG:<code>."
        ) from error
    code = parsed.to_epsg() or _stated_code(parsed)
    return f"EPSG:{code}" if code else str(parsed.to_wkt())


def unique_id(text: str, taken: set[str]) -> str:
    """`text` as a file name that is not in `taken`, which it joins."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-") or "scene"
    if name in taken:
        name = next(f"{name}-{i}" for i in range(2, len(taken) + 3) if f"{name}-{i}" not in taken)
    taken.add(name)
    return name


def moment_text(moment: datetime) -> str:
    """20240501, or 20240501T104021 where the time of day is known."""
    return f"{moment:%Y%m%d}" if (moment.hour, moment.minute, moment.second) == (0, 0, 0) else f"{moment:%Y%m%dT%H%M%S}"


def _stated_code(crs: CRS) -> int | None:
    found = re.search(r'AUTHORITY\["EPSG","(\d+)"\]\]$', crs.to_wkt("WKT1_GDAL").strip())
    if found is None:
        return None
    try:
        official = CRS.from_epsg(int(found[1]))
    except CRSError:
        return None
    area = official.area_of_use
    if area is None:
        return None
    east, north = np.linspace(area.west, area.east, 5)[1:4], np.linspace(area.south, area.north, 5)[1:4]
    there = Transformer.from_crs("EPSG:4326", official, always_xy=True).transform(east, north)
    here = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(east, north)
    apart = np.abs(np.subtract(here, there)).max()  # in metres, or degrees
    return int(found[1]) if apart < (1e-3 if official.is_projected else 1e-8) else None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "..."
