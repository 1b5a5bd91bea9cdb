"""The simulated ground: a mosaic of parcels, each with a land cover class.

Parcels come from splitting blocks across their long side until they have the size of fields, which gives the quilt
of quadrilaterals with shared orientation that farmland shows from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rasterio.features import rasterize
from shapely import MultiPoint, voronoi_polygons
from shapely.affinity import rotate
from shapely.geometry import LineString, Polygon
from shapely.ops import split

from olmoearth_core.grid import PixelBox


@dataclass(frozen=True)
class LandClass:
    """One land cover class of the world; its place in `CLASSES` is its value in the truth."""

    name: str
    color: str
    share: float
    """Share of the area."""


CLASSES = (
    LandClass("winter crop", "#f2c14e", 0.22),
    LandClass("summer crop", "#d1495b", 0.22),
    LandClass("double crop", "#7b4b94", 0.20),
    LandClass("grassland", "#a7c957", 0.22),
    LandClass("woodland", "#2f6b3c", 0.14),
)

_BLOCK = 900.0
"""Mean edge in metres of the blocks whose fields share an orientation."""


@dataclass(frozen=True)
class Land:
    """The parcels of a world.

    Attributes:
        box: the pixels it covers.
        parcels: outline of each parcel in the grid's CRS.
        kind: (F,) uint8, class of each parcel.
        ids: (H, W) int32, parcel of each pixel (by its centre).
    """

    box: PixelBox
    parcels: list[Polygon]
    kind: np.ndarray
    ids: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """(H, W) uint8, class of each pixel."""
        kind: np.ndarray = self.kind[self.ids]
        return kind


def draw_land(box: PixelBox, rng: np.random.Generator) -> Land:
    """A mosaic of fields, mostly of 3 to 20 ha over `box`."""
    parcels = [field for block in _blocks(box, rng) for field in _fields(block, rng)]
    ids = rasterize(
        ((parcel, index) for index, parcel in enumerate(parcels)),
        out_shape=box.shape,
        transform=box.transform,
        fill=-1,
        dtype="int32",
    )
    return Land(box, parcels, _classes(parcels, rng), ids)


def _blocks(box: PixelBox, rng: np.random.Generator) -> list[Polygon]:
    left, bottom, right, top = box.bounds
    count = max(4, round((right - left) * (top - bottom) / _BLOCK**2))
    centres = np.column_stack([rng.uniform(left, right, count), rng.uniform(bottom, top, count)])
    cells = voronoi_polygons(MultiPoint(centres), extend_to=box.polygon)
    return [cell.intersection(box.polygon) for cell in cells.geoms if cell.intersects(box.polygon)]


def _fields(piece: Polygon, rng: np.random.Generator) -> list[Polygon]:
    """`piece` split across its long side until each part has the size of a field."""
    hectares = float(np.clip(rng.lognormal(math.log(8.0), 0.45), 3.0, 20.0))
    if piece.area < 1.5e4 * hectares:
        return [piece]
    corners = np.asarray(piece.minimum_rotated_rectangle.exterior.coords)
    sides = np.diff(corners[:3], axis=0)
    long, short = sides[np.argsort(-np.hypot(*sides.T))]
    middle = piece.centroid.coords[0] + long * rng.uniform(-0.15, 0.15)
    reach = 4 * np.hypot(*long) * short / np.hypot(*short)
    cut = rotate(LineString([middle - reach, middle + reach]), rng.normal(0.0, 5.0))
    return [field for part in split(piece, cut).geoms for field in _fields(part, rng)]


def _classes(parcels: list[Polygon], rng: np.random.Generator) -> np.ndarray:
    """A class for each parcel, at random, such that each class gets its share of the area."""
    wanting = np.array([c.share for c in CLASSES]) * sum(parcel.area for parcel in parcels)
    kind = np.empty(len(parcels), np.uint8)
    for index in rng.permutation(len(parcels)):
        kind[index] = wanting.argmax()
        wanting[kind[index]] -= parcels[index].area
    return kind
