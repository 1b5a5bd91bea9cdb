"""Outlines in the older form: a GeoJSON whose features carry oe_start_time and oe_end_time.

Features with a class become labels; without one they are the area of a request.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.times import parse_moment
from olmoearth_core.labels.vector import project, read_vector, summarise

START, END = "oe_start_time", "oe_end_time"


@dataclass(frozen=True)
class Outlines:
    """What such a file says.

    Attributes:
        features: (properties in our form, geometry in degrees).
        spans: start and end of each feature, UTC.
        counts: class -> features; empty where none has one.
    """

    features: list[tuple[dict[str, Any], BaseGeometry]]
    spans: list[tuple[datetime, datetime]]
    counts: dict[str, int]

    @property
    def area(self) -> BaseGeometry:
        """The ground of all polygons, in degrees; around points and lines their convex hull."""
        shapes = [shape for _, shape in self.features]
        polygons = [shape for shape in shapes if shapely.get_dimensions(shape) == 2]
        joined: BaseGeometry = shapely.union_all(polygons) if polygons else shapely.union_all(shapes).convex_hull
        return joined


def read_outlines(path: Path, class_property: str) -> Outlines:
    """Read a GeoJSON of the older form.

    Raises:
        SourceError: a feature without its times, or with a class while others have none.
        LabelError: no vector file, or a broken geometry.
    """
    file = read_vector(path, str(path))
    if file.problems:
        raise SourceError(f"{summarise(list(file.problems))} Correct the geometry (in QGIS: Fix Geometries).")
    if START not in file.columns:
        found = ", ".join(file.columns) or "none"
        raise SourceError(
            f"{path}: has no property {START}; its properties are: {found}. Outlines of our own form need no import: "
            "name the file in labels.files or map.area of project.yaml."
        )
    shapes = shapely.set_precision(project(file, "EPSG:4326", str(path)), 1e-7)
    classes = [_text(value) for value in file.columns.get(class_property, np.full(len(shapes), None, dtype=object))]
    if any(classes) and not all(classes):
        raise SourceError(f"{path}: feature {classes.index('')} has no {class_property}, others have; give each one")
    features, spans = [], []
    for i, (shape, label) in enumerate(zip(shapes, classes, strict=True)):
        start, end = (
            parse_moment(_text(file.columns[key][i])) if key in file.columns else None for key in (START, END)
        )
        if start is None or (end is not None and end < start):
            told = ", ".join(f"{key} '{_text(file.columns[key][i])}'" for key in (START, END) if key in file.columns)
            raise SourceError(f"{path}: feature {i} has {told}; expected times like 2024-05-01T00:00:00Z, in order")
        spans.append((start, end or start))
        properties = {"start_datetime": _iso(start), "end_datetime": _iso(end or start)}
        features.append(({"class": label, **properties} if label else properties, shape))
    return Outlines(features, spans, dict(sorted(Counter(label for label in classes if label).items())))


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
