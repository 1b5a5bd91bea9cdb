"""Labels: what a partner saw on the ground, read from files of any kind and CRS onto the project's grid.

Outlines, lines and points (vector files, CSV tables) become one table; rasters stay files that are read where needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CoreError, LabelError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.labels import raster, table
from olmoearth_core.labels.properties import allowed_values, class_indices, dates_of, measured, splits_of
from olmoearth_core.labels.raster import LabelRaster, open_raster
from olmoearth_core.labels.values import UNMAPPED
from olmoearth_core.labels.vector import Problem, VectorFile, project, read_area, read_vector, summarise
from olmoearth_core.labels.zone import named_grid, utm_grid
from olmoearth_core.project import PROJECT_FILE, Project, TaskConfig


@dataclass(frozen=True, eq=False)
class Labels:
    """All labels of a project.

    Attributes:
        frame: one row a feature, in the grid's CRS: geometry, class_index (position in task.strata), date
            (datetime.date), source (the file as project.yaml names it), feature (its position in that file, from 0),
            split ("train", "validation", "test" where dataset.split.kind is property, else ""), and of a regression
            value (float64, in the task's unit).
        grid: the project's pixel grid.
        rasters: label rasters, scanned.
        task: what they are labels of; a segmentation when not given.
    """

    frame: gpd.GeoDataFrame
    grid: Grid
    rasters: tuple[LabelRaster, ...] = ()
    task: TaskConfig | None = None

    @property
    def kind(self) -> str:
        """What a label says: "segmentation", "classification" or "regression"."""
        return "segmentation" if self.task is None else self.task.kind

    @property
    def dates(self) -> list[date]:
        """The days that labels are of, in order."""
        return sorted({*self.frame["date"], *(raster.date for raster in self.rasters)})

    @property
    def bounds(self) -> np.ndarray:
        """(N, 4) left, bottom, right, top in the grid's CRS, of each feature and of each cell of a raster with data."""
        return np.concatenate([shapely.bounds(self.frame.geometry.to_numpy()), *(r.cell_bounds for r in self.rasters)])

    def of(self, source: str) -> Labels:
        """The labels of one file, whatever split they name."""
        mine = self.frame[self.frame["source"] == source].assign(split="")
        rasters = tuple(r for r in self.rasters if r.source == source)
        return replace(self, frame=mine.reset_index(drop=True), rasters=rasters)

    def near(self, box: PixelBox, day: date, split: str = "") -> tuple[np.ndarray, np.ndarray]:
        """(geometries (N,), class indices (N,)) of the labels of `day` (and `split`) whose bounds meet `box`."""
        found = self.rows_near(box, day, split)
        return self.frame.geometry.to_numpy()[found], self.frame["class_index"].to_numpy()[found]

    def rows_near(self, box: PixelBox, day: date, split: str = "") -> np.ndarray:
        """Rows of `frame`, as `near`."""
        if (day, split) not in self._trees:
            return np.array([], dtype=np.int64)
        rows, tree = self._trees[day, split]
        return np.sort(rows[tree.query(box.polygon)])

    @cached_property
    def _trees(self) -> dict[tuple[date, str], tuple[np.ndarray, shapely.STRtree]]:
        """(date, split) -> (rows of the frame, tree over their geometries)."""
        geometries = self.frame.geometry.to_numpy()
        keys = ["date", "split"] if "split" in self.frame else ["date"]
        groups = self.frame.groupby(keys, sort=True).indices if len(self.frame) else {}
        return {
            (key if isinstance(key, tuple) and len(key) == 2 else (key, "")): (rows, shapely.STRtree(geometries[rows]))
            for key, rows in groups.items()
        }


def read_labels(project: Project, grid: Grid | None = None) -> Labels:
    """Read every label file of the project's main task, clipped to labels.area where that is given.

    Args:
        project: the project, or a view of it with another task.
        grid: of the project; made of its settings and these labels when not given.

    Raises:
        LabelError: names the first file that cannot be used, the first of its features and how many there are.
    """
    labels, problems = check_labels(project, grid)
    if labels is None:
        raise LabelError(f"{summarise(problems)} Features are counted from 0.")
    return labels


@dataclass
class _Found:
    """What the files hold, before the grid is known."""

    files: dict[str, VectorFile] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """class_index, value (of a regression), date, feature, split of the features that are labels."""
    rasters: list[LabelRaster] = field(default_factory=list)


def check_labels(project: Project, grid: Grid | None = None) -> tuple[Labels | None, list[Problem]]:
    """As `read_labels`, but everything that is wrong is returned; no Labels where anything is."""
    found, problems = _Found(), list[Problem]()
    for source in project.config.labels.files:
        try:
            if Path(source).suffix.lower() in raster.SUFFIXES:
                found.rasters.append(_raster(project, source))
            else:
                problems += _vector(project, source, found)
        except LabelError as error:
            problems.append(_from_error(source, error))
    if not problems and not found.rasters and all(table.empty for table in found.tables.values()):
        problems.append(Problem("labels.files", _nothing(project)))
    area = None
    labels = None
    try:
        if not problems:
            grid = grid or _grid(project, found)
            labels = Labels(_frame(found, grid), grid, task=project.config.task)
    except CoreError as error:
        problems.append(_from_error(PROJECT_FILE, error))
    name = project.config.labels.area
    if name is not None:
        try:
            area = read_area(project.path(name), name, labels.grid if labels else None)
        except LabelError as error:
            problems.append(_from_error(name, error))
    if labels is not None and not problems:
        labels = _clip(labels, area) if area is not None else labels
        labels, more = _with_rasters(labels, found.rasters, area, project)
        problems += more
        if not more and labels.frame.empty and not any(len(r.cells) for r in labels.rasters):
            problems.append(
                Problem(name, "no label lies in labels.area; is it the right file?")
                if name is not None
                else Problem("labels.files", _nothing(project))
            )
    return (None if problems else labels), problems


def _vector(project: Project, source: str, found: _Found) -> list[Problem]:
    """Add a vector file or CSV table to `found`; what is wrong with its features."""
    config, path = project.config.labels, project.path(source)
    is_table = Path(source).suffix.lower() in table.SUFFIXES
    file = table.read_table(path, source, config.crs) if is_table else read_vector(path, source)
    task, said = project.config.task, {}
    if task.kind == "regression":
        said["value"], class_problems = measured(file, source, project)
        indices = task.strata_of(said["value"]).astype(np.int64)
    else:
        indices, class_problems = class_indices(file, source, project)
    dates, date_problems = dates_of(file, source, config)
    splits, split_problems = splits_of(file, source, project)
    kept = np.flatnonzero((indices != UNMAPPED) | (config.unmapped == "error"))
    found.files[source] = file
    found.tables[source] = pd.DataFrame(
        {
            "class_index": indices[kept],
            **{name: values[kept] for name, values in said.items()},
            "date": dates[kept],
            "source": source,
            "feature": kept,
            "split": splits[kept],
        }
    )
    return [*file.problems, *class_problems, *date_problems, *split_problems]


def _raster(project: Project, source: str) -> LabelRaster:
    """Look at a label raster.

    Raises:
        LabelError: it cannot be used, or nothing says which day it is true for.
    """
    config = project.config.labels
    task = project.config.task if project.config.task.kind == "regression" else None
    found = open_raster(project.path(source), source, project.config.value_map, task)
    day = config.dates.get(source, config.date)
    if day is None:
        raise LabelError(f"{source}: a raster has no date of its own. Set labels.date, or labels.dates for each file.")
    if config.windows == "centred":
        raise LabelError(f"{source}: a raster has no middles of labels. Set labels.windows to lattice.")
    if project.config.dataset.split.kind == "property":
        raise LabelError(f"{source}: a raster has no property. Set dataset.split.kind to blocks or time.")
    return replace(found, date=day)


def _with_rasters(
    labels: Labels, rasters: list[LabelRaster], area: BaseGeometry | None, project: Project
) -> tuple[Labels, list[Problem]]:
    config, scanned, problems = project.config, list[LabelRaster](), list[Problem]()
    for found in rasters:
        try:
            scanned.append(replace(found, area=area).scan(labels.grid, config.model.window_size))
        except LabelError as error:
            problems.append(_from_error(found.source, error))
            continue
        if (odd := scanned[-1].unmapped) and config.labels.unmapped == "error":
            values = ", ".join(f"{value:g}" for value in odd[:5]) + (", ..." if len(odd) > 5 else "")
            means = "are not possible" if config.task.kind == "regression" else "mean no class"
            message = f"holds the values {values}, which {means}; {allowed_values(project)}"
            problems.append(Problem(found.source, message))
    return replace(labels, rasters=tuple(scanned)), problems


def _nothing(project: Project) -> str:
    """Why no label is left, although each file can be read."""
    task = project.config.task
    if task.kind == "regression":
        return f"no value in them is possible; {allowed_values(project)}: check labels.value_property and task.range"
    return "no value in them means a class; check labels.classes"


def _from_error(source: str, error: CoreError) -> Problem:
    return Problem(source, str(error).removeprefix(f"{source}: ").removesuffix("."))


def _grid(project: Project, found: _Found) -> Grid:
    """The project's grid: imagery.crs, or the UTM zone around the middle of all labels."""
    imagery = project.config.imagery
    if imagery.crs is not None:
        return named_grid(imagery.crs, imagery.resolution)
    places = [*_each_in("EPSG:4326", found).values(), *(_outline_in_degrees(raster) for raster in found.rasters)]
    return utm_grid(np.concatenate(places), "the labels reach", imagery.resolution)


def _each_in(crs: str, found: _Found) -> Mapping[str, np.ndarray]:
    """File -> geometries of its labels in `crs`."""
    return {
        source: project(replace(file, geometries=file.geometries[found.tables[source]["feature"]]), crs, source)
        for source, file in found.files.items()
    }


def _outline_in_degrees(raster: LabelRaster) -> np.ndarray:
    file = VectorFile(CRS.from_user_input(raster.pixels.crs), np.array([raster.outline], dtype=object), {}, ())
    return project(file, "EPSG:4326", raster.source)


def _frame(found: _Found, grid: Grid) -> gpd.GeoDataFrame:
    columns = ["class_index", "value", "date", "source", "feature", "split", "geometry"]
    none = pd.DataFrame(columns=columns).astype({"class_index": int, "value": float})
    parts = [found.tables[source].assign(geometry=g) for source, g in _each_in(grid.crs, found).items()]
    table = pd.concat(parts, ignore_index=True) if parts else none
    return gpd.GeoDataFrame(table, geometry="geometry", crs=grid.crs)


def _clip(labels: Labels, area: BaseGeometry) -> Labels:
    """The labels inside `area`; what is cut keeps its dimension (a polygon never leaves a line)."""
    geometries = labels.frame.geometry.to_numpy().copy()
    shapely.prepare(area)
    crossing = np.flatnonzero(~shapely.contains_properly(area, geometries))
    cut = shapely.intersection(geometries[crossing], area)
    geometries[crossing] = [_of_dimension(part, whole) for part, whole in zip(cut, geometries[crossing], strict=True)]
    frame = labels.frame.set_geometry(gpd.GeoSeries(geometries, crs=labels.grid.crs))
    return replace(labels, frame=frame[~shapely.is_empty(geometries)].reset_index(drop=True))


def _of_dimension(part: BaseGeometry, whole: BaseGeometry) -> BaseGeometry:
    dimension = shapely.get_dimensions(whole)
    if part.geom_type != "GeometryCollection":
        return part if part.is_empty or shapely.get_dimensions(part) == dimension else shapely.Point()
    return shapely.union_all([piece for piece in part.geoms if shapely.get_dimensions(piece) == dimension])
