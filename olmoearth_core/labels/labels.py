"""Labels: what a partner saw on the ground, read from vector files of any CRS into one table on the project's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CoreError, LabelError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.labels.vector import Problem, VectorFile, project, read_area, read_vector, summarise
from olmoearth_core.labels.zone import named_grid, utm_grid
from olmoearth_core.project import PROJECT_FILE, LabelsConfig, Project
from olmoearth_core.section import FIRST_YEAR, LAST_YEAR


@dataclass(frozen=True, eq=False)
class Labels:
    """All labels of a project.

    Attributes:
        frame: one row a feature, in the grid's CRS: geometry, class_index (position in task.classes), date
            (datetime.date), source (the file as project.yaml names it), feature (its position in that file, from 0).
        grid: the project's pixel grid.
    """

    frame: gpd.GeoDataFrame
    grid: Grid

    def near(self, box: PixelBox, day: date) -> tuple[np.ndarray, np.ndarray]:
        """(geometries (N,), class indices (N,)) of the labels of `day` whose bounds meet `box`."""
        if day not in self._days:
            return np.array([], dtype=object), np.array([], dtype=np.int64)
        rows, tree = self._days[day]
        found = np.sort(rows[tree.query(box.polygon)])
        return self.frame.geometry.to_numpy()[found], self.frame["class_index"].to_numpy()[found]

    @cached_property
    def _days(self) -> dict[date, tuple[np.ndarray, shapely.STRtree]]:
        """Date -> (rows of the frame, tree over their geometries)."""
        geometries = self.frame.geometry.to_numpy()
        groups = self.frame.groupby("date", sort=True).indices
        return {day: (rows, shapely.STRtree(geometries[rows])) for day, rows in groups.items()}


def read_labels(project: Project) -> Labels:
    """Read every label file of the project, clipped to labels.area where that is given.

    Raises:
        LabelError: names the first file that cannot be used, the first of its features and how many there are.
    """
    labels, problems = check_labels(project)
    if labels is None:
        raise LabelError(f"{summarise(problems)} Features are counted from 0.")
    return labels


def check_labels(project: Project) -> tuple[Labels | None, list[Problem]]:
    """As `read_labels`, but everything that is wrong is returned; no Labels where anything is."""
    config, classes = project.config.labels, project.config.task.class_names
    problems: list[Problem] = []
    files: dict[str, VectorFile] = {}
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for source in config.files:
        try:
            file = read_vector(project.path(source), source)
        except LabelError as error:
            problems.append(_from_error(source, error))
            continue
        indices, class_problems = _class_indices(file, source, config.class_property, classes)
        dates, date_problems = _dates(file, source, config)
        problems += [*file.problems, *class_problems, *date_problems]
        files[source], columns[source] = file, (indices, dates)
    labels = None
    if not problems:
        try:
            grid = _grid(project, files)
            labels = Labels(_frame(files, columns, grid), grid)
        except CoreError as error:
            problems.append(_from_error(PROJECT_FILE, error))
    if config.area is not None:
        try:
            area = read_area(project.path(config.area), config.area, labels.grid if labels else None)
        except LabelError as error:
            problems.append(_from_error(config.area, error))
        else:
            labels = _clip(labels, area) if labels else None
        if labels is not None and labels.frame.empty:
            problems.append(Problem(config.area, "no label lies in labels.area; is it the right file?"))
    return (None if problems else labels), problems


def _from_error(source: str, error: CoreError) -> Problem:
    return Problem(source, str(error).removeprefix(f"{source}: ").removesuffix("."))


def _class_indices(file: VectorFile, source: str, key: str, classes: list[str]) -> tuple[np.ndarray, list[Problem]]:
    """Position of each feature's class in `classes`, (N,) int64; -1 where a problem says why."""
    count = len(file.geometries)
    if key not in file.columns:
        found = ", ".join(file.columns) or "none"
        message = f"has no property '{key}'; its properties are: {found}. Set labels.class_property"
        return np.full(count, -1), [Problem(source, message)]
    names, inverse = np.unique([_class_name(value) for value in file.columns[key]], return_inverse=True)
    position = {name: i for i, name in enumerate(classes)}
    indices = np.array([position.get(str(name), -1) for name in names])[inverse]
    allowed = ", ".join(classes)
    return indices, [
        Problem(
            source,
            f"feature {i} has the class '{names[inverse[i]]}'; allowed are {allowed} (task.classes)"
            if names[inverse[i]]
            else f"feature {i} has no class; allowed are {allowed} (task.classes)",
        )
        for i in np.flatnonzero(indices < 0)
    ]


def _class_name(value: object) -> str:
    """The class as text: 3 and 3.0 (what a missing value elsewhere makes of an integer column) are both '3'."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _dates(file: VectorFile, source: str, config: LabelsConfig) -> tuple[np.ndarray, list[Problem]]:
    """The day each label is true for, (N,) datetime.date; None where a problem says why.

    The property of the file wins over labels.date, which stands in for files without it. The day is the one that is
    written: no time zone is applied.
    """
    count = len(file.geometries)
    key = config.date_property
    if key not in file.columns:
        if config.date is not None:
            return np.full(count, config.date, dtype=object), []
        found = ", ".join(file.columns) or "none"
        message = (
            f"has no property '{key}' with the date of each label; its properties are: {found}. "
            "Set labels.date_property, or labels.date for one date for all"
        )
        return np.full(count, None, dtype=object), [Problem(source, message)]
    parsed = {value: _day(value) for value in set(map(_text, file.columns[key]))}
    texts = [_text(value) for value in file.columns[key]]
    dates = np.array([parsed[text] for text in texts], dtype=object)
    return dates, [
        Problem(
            source,
            f"feature {i} has the {key} '{text}'; expected a date like 2024-06-30"
            if text
            else f"feature {i} has no {key}; expected a date like 2024-06-30",
        )
        for i, text in enumerate(texts)
        if parsed[text] is None
    ]


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text[:10].replace("/", "-"))
    except ValueError:
        return None
    return day if FIRST_YEAR <= day.year <= LAST_YEAR else None


def _grid(project: Project, files: dict[str, VectorFile]) -> Grid:
    """The project's grid: imagery.crs, or the UTM zone around the middle of all labels."""
    imagery = project.config.imagery
    if imagery.crs is not None:
        return named_grid(imagery.crs, imagery.resolution)
    return utm_grid(np.concatenate(list(_each_in("EPSG:4326", files))), "the labels reach", imagery.resolution)


def _each_in(crs: str, files: dict[str, VectorFile]) -> Iterator[np.ndarray]:
    for source, file in files.items():
        yield project(file, crs, source)


def _frame(
    files: dict[str, VectorFile], columns: dict[str, tuple[np.ndarray, np.ndarray]], grid: Grid
) -> gpd.GeoDataFrame:
    parts = [
        pd.DataFrame(
            {
                "class_index": columns[source][0],
                "date": columns[source][1],
                "source": source,
                "feature": np.arange(len(geometries)),
                "geometry": geometries,
            }
        )
        for source, geometries in zip(files, _each_in(grid.crs, files), strict=True)
    ]
    return gpd.GeoDataFrame(pd.concat(parts, ignore_index=True), geometry="geometry", crs=grid.crs)


def _clip(labels: Labels, area: BaseGeometry) -> Labels:
    """The labels inside `area`; what is cut keeps its dimension (a polygon never leaves a line)."""
    geometries = labels.frame.geometry.to_numpy().copy()
    shapely.prepare(area)
    crossing = np.flatnonzero(~shapely.contains_properly(area, geometries))
    cut = shapely.intersection(geometries[crossing], area)
    geometries[crossing] = [_of_dimension(part, whole) for part, whole in zip(cut, geometries[crossing], strict=True)]
    frame = labels.frame.set_geometry(gpd.GeoSeries(geometries, crs=labels.grid.crs))
    return Labels(frame[~shapely.is_empty(geometries)].reset_index(drop=True), labels.grid)


def _of_dimension(part: BaseGeometry, whole: BaseGeometry) -> BaseGeometry:
    dimension = shapely.get_dimensions(whole)
    if part.geom_type != "GeometryCollection":
        return part if part.is_empty or shapely.get_dimensions(part) == dimension else shapely.Point()
    return shapely.union_all([piece for piece in part.geoms if shapely.get_dimensions(piece) == dimension])
