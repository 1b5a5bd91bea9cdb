"""Filling in a template from what a partner has: classes, files, dates and area from the label files themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import shapely
from pyproj import Geod
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import ProjectError, SourceError
from olmoearth_core.importing.labelling import (
    ClassValues,
    LabelSet,
    Measured,
    measured_labels,
    partners_labels,
    read_label_file,
)
from olmoearth_core.importing.outlines import START, is_older_form
from olmoearth_core.importing.starter import label_keys, task_keys
from olmoearth_core.labels.raster import SUFFIXES as RASTERS
from olmoearth_core.labels.vector import project, read_area
from olmoearth_core.project import ProjectConfig, parse_project
from olmoearth_core.settings_edit import set_keys

AREA = "labels/area.geojson"
MARGIN = 0.01
"""Degrees around labels that are points in a line."""


@dataclass(frozen=True)
class Answers:
    """What a partner says of a new project; what is left open the template and the label files decide.

    Attributes:
        labels: vector files, CSV tables or rasters.
        class_property: property or column with the class; the template's when not given.
        classes: class -> the values that mean it; empty to take the classes from the files.
        value_property: property or column with what was measured, for a template of a regression.
        measured: the same with its range and unit, for any template.
        date_property: property or column with the day a label is true for; the template's when not given.
        label_day: what labels that say no day are true for.
        crs: of CSV tables with x and y.
        catalogue: a catalogue's name or URL, the JSON file of a static one, or the folder with its catalog.json.
        area: vector file of the area to map; around the labels when not given.
        day: of the map; the newest day of the labels when not given.
    """

    labels: Sequence[Path] = ()
    class_property: str | None = None
    classes: Mapping[str, ClassValues] = field(default_factory=dict)
    value_property: str | None = None
    measured: Measured | None = None
    date_property: str | None = None
    label_day: date | None = None
    crs: str | None = None
    catalogue: str | None = None
    area: Path | None = None
    day: date | None = None


@dataclass(frozen=True)
class Filled:
    """A template that is filled in.

    Attributes:
        text: of project.yaml.
        labels: to be copied below the project; None where none are given.
        area: to be written as AREA, in degrees; None where none is known.
        notes: sentences on what was decided.
    """

    text: str
    labels: LabelSet | None = None
    area: BaseGeometry | None = None
    notes: Sequence[str] = ()


def fill(text: str, answers: Answers, root: Path) -> Filled:
    """Fill in a project.yaml; keys that nothing is said about, comments and order stay as they are.

    Args:
        text: of the template, with the project's name.
        answers: what is known.
        root: the folder that the project will be in.

    Raises:
        SourceError, LabelError: files that cannot be used.
        ProjectError: a catalogue or area that is not there.
    """
    config = parse_project(text, "the template")
    notes: list[str] = []
    if answers.catalogue is not None:
        text = set_keys(text, "imagery", {"catalogue": _catalogue(answers.catalogue, root)})
    map_keys: dict[str, Any] = {} if answers.day is None else {"date": answers.day}
    area = None if answers.area is None else read_area(answers.area, str(answers.area))
    labels = _labels(config, answers) if answers.labels else None
    if labels is not None:
        text = _with_labels(text, config, labels, answers.day)
        if config.map.events:
            map_keys["events"] = [name for name in config.map.events if name in labels.classes] or None
        if answers.day is None and labels.spans:
            map_keys["date"] = newest = max(start for start, _ in labels.spans)
            notes.append(f"map.date is {newest}, the newest day that labels are true for")
        if area is None:
            area = _around(answers.labels, answers.crs)
            if area is not None:
                notes.append(f"map.area ({AREA}) is the outline of the labels; draw your own for another area")
                text = _smaller_blocks(text, config, area)
    if area is not None:
        map_keys["area"] = AREA
    text = set_keys(text, "map", map_keys)
    parse_project(text, f"{root}")
    return Filled(text, labels, area, notes)


def columns_of(path: Path) -> dict[str, list[str]]:
    """Property of a vector file or column of a table -> up to four of its values; empty for a raster.

    Raises:
        LabelError: no vector file.
    """
    if path.suffix.lower() in RASTERS:
        return {}
    file, _kind = read_label_file(path, None)
    return {
        name: list(dict.fromkeys(str(v) for v in values if v is not None))[:4] for name, values in file.columns.items()
    }


def _labels(config: ProjectConfig, answers: Answers) -> LabelSet:
    if older := [path for path in answers.labels if is_older_form(path)]:
        raise SourceError(
            f"{older[0]}: is of the older form ({START}). `olmoearth import {older[0]} --to FOLDER` makes labels of it."
        )
    own = config.labels
    dated = answers.date_property or own.date_property
    if config.task.kind == "regression" or answers.measured is not None:
        measured = answers.measured
        if measured is None:
            assert config.task.range is not None
            measured = Measured(answers.value_property or own.value_property, config.task.range, config.task.unit)
        labels = measured_labels(answers.labels, measured, answers.label_day, answers.crs, dated)
        if answers.classes:
            raise SourceError("--class means nothing to a template of measured values; leave it out.")
    elif answers.value_property is not None:
        raise SourceError(
            f"--value {answers.value_property}: say which values are possible, for example --range 0,100; or use a "
            "template of measured values (fuel-moisture)."
        )
    else:
        by = answers.class_property or own.class_property
        found = partners_labels(answers.labels, by, answers.classes, answers.label_day, answers.crs, dated)
        first = [name for name in config.task.class_names if name in found.classes]  # in the template's order
        ordered = {name: found.classes[name] for name in [*first, *(n for n in found.classes if n not in first)]}
        labels = replace(found, classes=ordered, of_windows=config.task.kind == "classification")
    if labels.undated and answers.label_day is None and answers.day is None:
        raise SourceError(
            f"{', '.join(labels.undated)}: says no dates (there is no '{dated}'). Give the day that the labels are "
            "true for with --label-date 2024-05-01, or their property with --date-property."
        )
    return labels


def _with_labels(text: str, config: ProjectConfig, labels: LabelSet, day: date | None) -> str:
    """The sections task and labels, as the label files have it."""
    task = task_keys(labels, {c.name: c.color for c in config.task.classes})
    keep_name = labels.measured is not None and config.task.kind == "regression"
    if keep_name:
        task["name"] = config.task.name
    gone = {key: None for key in ("kind", "classes", "unit", "range") if key not in task}
    keys = label_keys(labels, day or date.min)
    former = config.labels.model_fields_set
    stale = ("class_property", "value_property", "classes", "crs", "date_property", "date", "dates", "area", "windows")
    return set_keys(set_keys(text, "task", gone | task), "labels", {key: None for key in stale if key in former} | keys)


def _catalogue(named: str, root: Path) -> str:
    """As project.yaml names it: a path as seen from the project folder; one that was given absolute and lies far from
    it stays absolute, so that the project may be moved."""
    from olmoearth_core.imagery.presets import PRESETS

    if "://" in named or named.split("@")[0] in PRESETS:
        return named
    path = Path(named).expanduser()
    if path.is_dir():
        path = path / "catalog.json"
    if not path.is_file():
        hint = " Rasters become a catalogue with `olmoearth import`." if path.parent.is_dir() else ""
        raise ProjectError(
            f"--catalogue {named}: no such catalogue; expected {', '.join(PRESETS)}, the URL of a STAC API, or a "
            f"static catalogue's JSON file ({path}).{hint}"
        )
    if not _is_stac(path):
        raise ProjectError(f"--catalogue {named}: {path} is no STAC catalogue (JSON that says its stac_version).")
    near = Path(os.path.relpath(path.resolve(), root.resolve()))
    far = path.is_absolute() and near.parts[:2] == ("..", "..")
    return (path if far else near).as_posix()


def _is_stac(path: Path) -> bool:
    try:
        return "stac_version" in json.loads(path.read_bytes())
    except (ValueError, TypeError):
        return False


def _around(files: Sequence[Path], crs: str | None) -> BaseGeometry | None:
    """The hull of all labels in degrees; None where they lie on both sides of the antimeridian."""
    shapes: list[BaseGeometry] = []
    for path in files:
        if path.suffix.lower() in RASTERS:
            shapes.append(_raster_outline(path))
            continue
        file, _kind = read_label_file(path, crs)
        if file.problems:
            raise SourceError(f"{path}: {file.problems[0].message}. Correct the geometry (in QGIS: Fix Geometries).")
        shapes += [shape for shape in project(file, "EPSG:4326", str(path)) if shape is not None]
    hull = shapely.set_precision(shapely.union_all(shapes).convex_hull, 1e-7)
    if hull.geom_type != "Polygon":
        hull = hull.buffer(MARGIN).envelope
    west, _, east, _ = hull.bounds
    return hull if east - west < 180 else None


def _raster_outline(path: Path) -> BaseGeometry:
    import rasterio
    from rasterio.warp import transform_bounds

    with rasterio.open(path) as file:
        return shapely.box(*transform_bounds(file.crs, "EPSG:4326", *file.bounds))


def _smaller_blocks(text: str, config: ProjectConfig, area: BaseGeometry) -> str:
    """Blocks of a quarter of the labels' extent where the template's are larger, so that each split gets some."""
    split = config.dataset.split
    west, south, east, north = area.bounds
    geod = Geod(ellps="WGS84")
    width = geod.inv(west, (south + north) / 2, east, (south + north) / 2)[2]
    height = geod.inv(west, south, west, north)[2]
    window = config.model.window_size * config.imagery.resolution
    quarter = (width * height) ** 0.5 / 4 // window * window
    if split.kind != "blocks" or quarter >= split.block_size:
        return text
    if "split" not in config.dataset.model_fields_set:
        return set_keys(text, "dataset", {"split": {"block_size": max(quarter, window)}})
    told = {key: getattr(split, key) for key in type(split).model_fields if key in split.model_fields_set}
    return set_keys(text, "dataset", {"split": told | {"block_size": max(quarter, window)}})
