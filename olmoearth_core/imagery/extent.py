"""Where the pixels of scenes lie on a grid, by the headers of their assets: which boxes a scene can reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.footprint import near
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.imagery.scene import Scene, SceneList

STEPS = 32
"""Points along an edge of a raster that is taken to another CRS, where its edges bend."""
BENT = 2.0
"""Pixels of the grid by which an outline in another CRS may be off between those points: 1 m on 110 km."""


def source_grids(
    scenes: SceneList, some: Sequence[Scene], bands: Mapping[str, Sequence[str]], reader: AssetReader
) -> list[SourceGrid | None]:
    """Where the first of the `bands` of each scene lies: without it the scene shows nothing (`Observer.observe`).

    None where its header cannot be read: then only the catalogue tells, roughly.
    """

    def header(scene: Scene) -> SourceGrid | None:
        try:
            return reader.header(scenes.address(scene, scene.assets[bands[scene.modality][0]])).grid
        except (ImageryError, TransientError, ValueError):
            return None

    return list(reader.map(header, some))


def outline_on(source: SourceGrid, grid: Grid) -> shapely.Geometry | None:
    """The outline of a raster in the CRS of `grid`: exact in its own, else generous; None where it has none there."""
    a, b, c, d, e, f = source.transform
    along = np.linspace(0, 1, STEPS + 1)[:-1]
    u = np.concatenate([along, np.ones(STEPS), 1 - along, np.zeros(STEPS)]) * source.width
    v = np.concatenate([np.zeros(STEPS), along, np.ones(STEPS), 1 - along]) * source.height
    x, y = a * u + b * v + c, d * u + e * v + f
    try:
        if CRS.from_user_input(source.crs) == CRS.from_user_input(grid.crs):
            return shapely.Polygon(np.stack([x, y], axis=1)[::STEPS])
        x, y = Transformer.from_crs(source.crs, grid.crs, always_xy=True).transform(x, y)
    except ProjError:
        return None
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    outline = shapely.Polygon(np.stack([x, y], axis=1))
    return shapely.buffer(outline, BENT * grid.resolution) if outline.is_valid else None


def reached(
    outlines: Sequence[shapely.Geometry | None], scenes: Sequence[Scene], boxes: Sequence[PixelBox]
) -> NDArray[np.intp]:
    """(2, N): positions of scenes and of boxes (of one grid) that they reach into, by box, then scene.

    A scene reaches into a box where it holds the centre of one of its pixels; one without an outline may, where the
    catalogue places it near.
    """
    rectangles = centre_rectangles(boxes)
    known = np.array([outline is not None for outline in outlines], bool)
    at = np.flatnonzero(known)
    hits = shapely.STRtree(rectangles).query(np.array(outlines, object)[at], predicate="intersects")
    rough = [int(i) for i in np.flatnonzero(~known)]
    unknown = [(i, j) for i in rough for j, box in enumerate(boxes) if near(scenes[i].bbox, box)]
    pairs = np.concatenate([np.stack([at[hits[0]], hits[1]]), np.array(unknown, np.intp).reshape(-1, 2).T], axis=1)
    return pairs[:, np.lexsort(pairs)]


def centre_rectangles(boxes: Sequence[PixelBox]) -> NDArray[np.object_]:
    """The rectangle around the pixel centres of each of `boxes` (of one grid), in its CRS."""
    if not boxes:
        return np.empty(0, object)
    half = boxes[0].grid.resolution / 2
    edges = np.array([box.bounds for box in boxes]) + np.array([half, half, -half, -half])
    rectangles: NDArray[np.object_] = shapely.box(*edges.T)
    return rectangles
