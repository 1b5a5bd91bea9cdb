"""Labels in a raster: a class or a measured value a pixel, in any CRS and resolution, read only where windows need it.

A pixel of the grid has the class of the raster pixel that holds its centre: nothing is interpolated between classes.
It has the value of that pixel too, unless the raster is finer than the grid (1.5 times or more): then it has the mean
of the k x k pixels nearest to its centre, k = grid / raster resolution, where more than half of them are known.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import LabelError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.sampling import Plan, Points, SourceGrid, SourceWindow, plan, sample
from olmoearth_core.labels.values import UNMAPPED, ValueMap
from olmoearth_core.project_labels import TaskConfig

SUFFIXES = (".tif", ".tiff", ".vrt")
NOTHING = -2
"""Of a pixel without data."""
EDGE = 1024
"""Pixels of the grid that are looked at together while a raster is scanned; fewer where the raster is finer."""
SOURCE_EDGE = 4096


@dataclass(frozen=True, eq=False)
class LabelRaster:
    """A raster of classes, or of measured values.

    Attributes:
        source: the file as project.yaml names it.
        path: where it lies.
        pixels: where its pixels lie.
        values: which value means which class; empty for a regression.
        task: the regression whose values it holds; None for classes.
        scale: (factor, offset) that make measured values of stored ones.
        date: the day that it is true for.
        area: in the grid's CRS; pixels with centres outside it are not labelled.
        cells: (M, 3) int64, (row, column, class or stratum) of the lattice boxes that hold pixels of it, in order.
        cell_size: edge of those boxes in units of the grid's CRS.
        amounts: (M,) int64, how many pixels.
        unmapped: values in it that mean no class, or are outside the range, the first few.
    """

    source: str
    path: Path
    pixels: SourceGrid
    values: ValueMap
    task: TaskConfig | None = None
    scale: tuple[float, float] = (1.0, 0.0)
    date: date = date.min
    area: BaseGeometry | None = None
    cells: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    cell_size: float = 0.0
    amounts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    unmapped: tuple[float, ...] = ()

    @property
    def outline(self) -> BaseGeometry:
        """Its edge in its own CRS, with points in between, so that it can be projected."""
        a, b, c, d, e, f = self.pixels.transform
        box = shapely.box(0, 0, self.pixels.width, self.pixels.height)
        edge = shapely.segmentize(box, max(self.pixels.width, self.pixels.height) / 16)
        return shapely.transform(edge, lambda xy: np.column_stack([xy @ [a, b] + c, xy @ [d, e] + f]))

    @property
    def cell_bounds(self) -> np.ndarray:
        """(N, 4) left, bottom, right, top of the lattice boxes with data, in the grid's CRS."""
        row, column = np.unique(self.cells[:, :2], axis=0).T
        return np.stack([column, -row - 1, column + 1, -row], axis=1) * self.cell_size

    def classes(self, box: PixelBox) -> np.ndarray:
        """(H, W) int16: position in task.classes, UNMAPPED or NOTHING.

        Raises:
            LabelError: the file cannot be read.
        """
        return self._classes(box)[0]

    def measured(self, box: PixelBox) -> np.ndarray:
        """(H, W) float64: the values of a regression, NaN where there is none.

        Raises:
            LabelError: the file cannot be read.
        """
        classes, values, _ = self._classes(box)
        return np.where(classes >= 0, values, np.nan)

    def scan(self, grid: Grid, size: int) -> LabelRaster:
        """The same raster with `cells`, `amounts` and `unmapped` filled in, for windows of `size` pixels.

        Raises:
            LabelError: the file cannot be read.
        """
        found, strange = [], set[float]()
        for box in self._boxes(grid, size):
            classes, _, odd = self._classes(box)
            strange |= set(odd[:10].tolist())
            row, column = np.nonzero(classes >= 0)
            place = (row + box.row) // size, (column + box.column) // size, classes[row, column].astype(np.int64)
            found.append(np.unique(np.stack(place, axis=1), axis=0, return_counts=True))
        cells = np.concatenate([np.empty((0, 3), np.int64), *(cells for cells, _ in found)])
        amounts = np.concatenate([np.empty(0, np.int64), *(amounts for _, amounts in found)])
        order = np.lexsort(cells.T[::-1])
        return replace(
            self,
            cells=cells[order],
            cell_size=size * grid.resolution,
            amounts=amounts[order],
            unmapped=tuple(sorted(strange)),
        )

    def _classes(self, box: PixelBox) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(classes or strata (H, W), values (H, W), those that are unmapped, each once)."""
        nothing = np.full(box.shape, NOTHING, np.int16), np.zeros(box.shape), np.empty(0)
        if self.area is not None and not self.area.intersects(box.polygon):
            return nothing
        how = plan(self.pixels, box, Points(box), "classes" if self.task is None else "measured")
        if how is None:
            return nothing
        inside = how.window.inside(self.pixels)
        try:
            with rasterio.open(self.path) as file:
                values = file.read(1, window=inside.to_rasterio())
                known = (file.read_masks(1, window=inside.to_rasterio()) > 0) & ~np.isnan(values)
        except (RasterioError, OSError) as error:
            raise LabelError(f"{self.source}: cannot be read ({error}). Copy the file anew.") from error
        ring = [
            (inside.top - how.window.top, how.window.bottom - inside.bottom),
            (inside.left - how.window.left, how.window.right - inside.right),
        ]
        if self.task is not None:
            return self._means(self.task, how, np.where(known, values, np.nan), ring, inside, box)
        classes = np.where(known, self.values.of_numbers(values), np.int16(NOTHING))
        picked = self._inside_area(sample(how, np.pad(classes, ring, constant_values=NOTHING), box), box)
        found = sample(how, np.pad(values, ring), box)
        return picked, found, np.unique(found[picked == UNMAPPED])

    def _means(
        self,
        task: TaskConfig,
        how: Plan,
        stored: np.ndarray,
        ring: list[tuple[int, int]],
        inside: SourceWindow,
        box: PixelBox,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `_classes`, of the stored values of a regression (NaN where unknown): of possible values alone."""
        assert task.range is not None
        low, (factor, offset) = task.range[0], self.scale
        values = stored.astype(np.float64) * factor + offset
        possible = task.strata_of(values) != UNMAPPED
        # what is sampled takes 0 for nothing, and a value may be 0
        above = sample(how, np.pad(np.where(possible, values - low + 1, 0.0), ring), box)
        means = above - 1 + low
        strata = np.where(above > 0, task.strata_of(np.clip(means, *task.range)), np.int16(NOTHING))
        odd = ~possible & ~np.isnan(values)
        return self._inside_area(strata, box), means, np.unique(self._in_area(values, odd, inside, box.grid))

    def _in_area(self, values: np.ndarray, odd: np.ndarray, inside: SourceWindow, grid: Grid) -> np.ndarray:
        """Those of the `odd` source pixels whose centres lie in the area."""
        row, column = np.nonzero(odd)
        if self.area is None or not len(row):
            return values[row, column]
        a, b, c, d, e, f = self.pixels.transform
        x, y = column + inside.left + 0.5, row + inside.top + 0.5
        to_grid = Transformer.from_crs(self.pixels.crs, grid.crs, always_xy=True)
        east, north = to_grid.transform(a * x + b * y + c, d * x + e * y + f)
        return np.asarray(values[row, column][shapely.contains_xy(self.area, east, north)])

    def _inside_area(self, classes: np.ndarray, box: PixelBox) -> np.ndarray:
        if self.area is None or self.area.contains(box.polygon):
            return classes
        return np.where(shapely.contains_xy(self.area, *np.meshgrid(*box.centres)), classes, np.int16(NOTHING))

    def _boxes(self, grid: Grid, size: int) -> Iterator[PixelBox]:
        """Squares of whole windows that cover the raster where its area lets it show, none over another."""
        left, bottom, right, top = self._bounds(grid)
        finer = self.pixels.width * grid.resolution / max(right - left, grid.resolution)
        edge = max(1, int(min(EDGE, SOURCE_EDGE / finer)) // size) * size
        if self.area is not None:
            west, south, east, north = self.area.bounds
            left, bottom, right, top = max(left, west), max(bottom, south), min(right, east), min(top, north)
        if left >= right or bottom >= top:
            return
        whole = grid.around((left, bottom, right, top))
        for row in range(whole.row // edge, (whole.row + whole.height - 1) // edge + 1):
            for column in range(whole.column // edge, (whole.column + whole.width - 1) // edge + 1):
                yield grid.box(column * edge, row * edge, edge, edge)

    def _bounds(self, grid: Grid) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in the grid's CRS."""
        bounds = transform_bounds(self.pixels.crs, grid.crs, *self.outline.bounds, densify_pts=41)
        if not np.isfinite(bounds).all():
            raise LabelError(f"{self.source}: its corners have no place in {grid.crs}. Cut it, or set imagery.crs.")
        left, bottom, right, top = map(float, bounds)
        return left, bottom, right, top


def open_raster(path: Path, source: str, values: ValueMap, task: TaskConfig | None = None) -> LabelRaster:
    """Look at the head of a raster of classes, or of the values of the regression `task` (in band 1).

    Raises:
        LabelError: missing, no raster of one band, or it does not say where it lies.
    """
    if not path.exists():
        raise LabelError(f"{source}: no such file (looked for {path}). Put it there, or correct its name.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a raster without a transform is told below
            with rasterio.open(path) as file:
                crs, transform, bands, dtype = file.crs, file.transform, file.count, np.dtype(file.dtypes[0])
                scale = float(file.scales[0]), float(file.offsets[0])
                height, width = file.shape
    except (RasterioError, OSError) as error:
        raise LabelError(f"{source}: not a raster that can be read ({error}). Give a GeoTIFF.") from error
    if not np.isfinite(tuple(transform)[:6]).all() or abs(transform.determinant) < 1e-12:
        raise LabelError(f"{source}: its transform {tuple(transform)[:6]} places it nowhere. Export it anew.")
    if not crs or transform.is_identity:
        raise LabelError(f"{source}: does not say where it lies (no {'CRS' if not crs else 'transform'}).")
    if (bands != 1 and task is None) or dtype.kind not in "iuf":
        raise LabelError(f"{source}: has {bands} band(s) of {dtype}; a raster of classes has one band of numbers.")
    pixels = SourceGrid(CRS.from_wkt(crs.to_wkt()).to_wkt(), tuple(transform)[:6], width, height)
    return LabelRaster(source, path, pixels, values, task, scale)
