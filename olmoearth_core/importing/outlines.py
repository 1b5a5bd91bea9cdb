"""Outlines in the older form: GeoJSON whose features carry oe_start_time and oe_end_time.

Features with a class are annotations and become labels. Their times may stand with the task they were made in, in a
file of its own. What has neither a class nor a task is what was requested, and becomes the area of the map.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.frame import Frame, frame_of
from olmoearth_core.importing.times import parse_moment
from olmoearth_core.labels.vector import project, read_vector, summarise

START, END, TASK, LABELS, LABEL = "oe_start_time", "oe_end_time", "oe_annotations_task_id", "oe_labels", "oe_label"
FORMER = "es_"
"""How the names of these properties began once."""

Times = tuple[datetime, datetime]


@dataclass(frozen=True)
class Outlines:
    """What such files say.

    Attributes:
        labels: name of a file -> (properties in our form, geometry in degrees) of its annotations.
        spans: start and end of each annotation, UTC.
        requests: start and end of each requested area, UTC.
        area: in degrees: what was requested, else the tasks, else around all annotations.
        counts: class -> annotations; empty where none has one.
    """

    labels: Mapping[str, list[tuple[dict[str, Any], BaseGeometry]]]
    spans: list[Times]
    requests: list[Times]
    area: BaseGeometry
    counts: dict[str, int]

    @property
    def times(self) -> list[Times]:
        """Of what was requested, else of the annotations."""
        return self.requests or self.spans

    @property
    def frame(self) -> Frame:
        """The framing that sees as much as the annotations' times say, from the first day of what was requested on."""
        spans = {(start.date(), end.date()) for start, end in self.spans or self.requests}
        days = [day for span in spans for day in span]
        return replace(frame_of(days, spans), anchor=min(start.date() for start, _ in self.times))


@dataclass(frozen=True)
class _Feature:
    """One feature, in the words of now; its times are None where it says none itself."""

    file: Path
    number: int
    shape: BaseGeometry
    label: str
    task: str
    times: Times | None


def read_outlines(paths: Sequence[Path], class_property: str) -> Outlines:
    """Read GeoJSON files of the older form.

    Args:
        paths: annotations, their tasks, requests, in any order.
        class_property: property with the class; or the key in oe_labels, where there are several.

    Raises:
        SourceError: a feature without its times, or without a class where others of its file have one.
        LabelError: no vector file, or a broken geometry.
    """
    features = [feature for path in paths for feature in _read(path, class_property)]
    of_tasks = {f.task: f.times for f in features if f.task and f.times is not None and not f.label}
    labels: dict[str, list[tuple[dict[str, Any], BaseGeometry]]] = {}
    spans, requests = [], []
    requested, tasks = [], []
    for feature in features:
        times = feature.times or of_tasks.get(feature.task)
        if times is None:
            tasked = f", and no feature of its task {feature.task} has them" if feature.task else ""
            raise SourceError(
                f"{feature.file}: feature {feature.number} has no {START}{tasked}; expected times like "
                "2024-05-01T00:00:00Z. The file of the tasks is named beside it."
            )
        if feature.label:
            said = {"class": feature.label, "start_datetime": _iso(times[0]), "end_datetime": _iso(times[1])}
            labels.setdefault(feature.file.name, []).append((said, feature.shape))
            spans.append(times)
        elif feature.task:
            tasks.append(feature.shape)
        else:
            requested.append(feature.shape)
            requests.append(times)
    counts = Counter(said["class"] for rows in labels.values() for said, _ in rows)
    area = _area(requested or tasks or [shape for rows in labels.values() for _, shape in rows])
    if not spans and not requests:  # tasks alone: what was to be annotated
        requests = [times for times in of_tasks.values() if times is not None]
    return Outlines(labels, spans, requests, area, dict(sorted(counts.items())))


def is_older_form(path: Path) -> bool:
    """Whether a vector file has properties of the older form."""
    if path.suffix.lower() not in (".geojson", ".json") or not path.is_file():
        return False
    return bool({_now(name) for name in read_vector(path, str(path)).columns} & {START, TASK})


def requested_times(path: Path) -> list[Times]:
    """The times (start, end; UTC) that the features of an area ask for; none where they are not of the older form.

    Raises:
        SourceError: times that are none.
    """
    if not is_older_form(path):
        return []
    return sorted({feature.times for feature in _read(path, "") if feature.times is not None})


def _read(path: Path, class_property: str) -> list[_Feature]:
    file = read_vector(path, str(path))
    if file.problems:
        raise SourceError(f"{summarise(list(file.problems))} Correct the geometry (in QGIS: Fix Geometries).")
    columns = {_now(name): [_text(value) for value in values] for name, values in file.columns.items()}
    if not {START, TASK} & columns.keys():
        found = ", ".join(file.columns) or "none"
        raise SourceError(
            f"{path}: has no property {START}; its properties are: {found}. Outlines of our own form need no import: "
            "name the file in labels.files or map.area of project.yaml."
        )
    shapes = shapely.set_precision(project(file, "EPSG:4326", str(path)), 1e-7)
    classes = _classes(columns, class_property, path, len(shapes))
    if any(classes) and not all(classes):
        raise SourceError(f"{path}: feature {classes.index('')} has no {class_property}, others have; give each one")
    nothing = [""] * len(shapes)
    return [
        _Feature(path, i, shape, label, task, _times(path, i, start, end))
        for i, (shape, label, task, start, end) in enumerate(
            zip(shapes, classes, *(columns.get(key, nothing) for key in (TASK, START, END)), strict=True)
        )
    ]


def _classes(columns: Mapping[str, list[str]], class_property: str, path: Path, count: int) -> list[str]:
    """The class of each feature, "" where it has none."""
    if class_property in columns:
        return columns[class_property]
    if LABELS not in columns:
        return columns.get(LABEL, [""] * count)
    found = []
    for i, text in enumerate(columns[LABELS]):
        try:
            said = json.loads(text) if text else {}
            keys = [class_property] if class_property in said else list(said)
        except (ValueError, TypeError):
            raise SourceError(f"{path}: feature {i} has {LABELS} {text[:80]!r}; expected {{name: class}}.") from None
        if len(keys) > 1:
            raise SourceError(
                f"{path}: feature {i} has several {LABELS} ({', '.join(keys)}); choose one with --class-property."
            )
        found.append(_text(said[keys[0]]) if keys else "")
    return found


def _times(path: Path, number: int, start: str, end: str) -> Times | None:
    if not start and not end:
        return None
    first, last = parse_moment(start), parse_moment(end) if end else None
    if first is None or (end and last is None) or (last is not None and last < first):
        raise SourceError(
            f"{path}: feature {number} has {START} '{start}', {END} '{end}'; expected times like 2024-05-01T00:00:00Z, "
            "in order"
        )
    return first, last or first


def _area(shapes: Sequence[BaseGeometry]) -> BaseGeometry:
    """The ground of all polygons, in degrees; around points and lines their convex hull."""
    polygons = [shape for shape in shapes if shapely.get_dimensions(shape) == 2]
    joined: BaseGeometry = shapely.union_all(polygons) if polygons else shapely.union_all(shapes).convex_hull
    return joined


def _now(name: str) -> str:
    return f"oe_{name.removeprefix(FORMER)}" if name.startswith(FORMER) else name


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
