"""The project.yaml that fits an import: classes, labels, catalogue, grid, framing and area filled in."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import shapely
from pyproj import CRS, Geod
from shapely.geometry.base import BaseGeometry

from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.importing.frame import Frame, frame_of
from olmoearth_core.importing.labelling import DATE_PROPERTY, LabelSet
from olmoearth_core.importing.palette import colours
from olmoearth_core.importing.source import Found, corners, to_degrees
from olmoearth_core.labels.raster import SUFFIXES
from olmoearth_core.settings_edit import key_lines

EUROPE = "EPSG:3035"
PATCH = 4
COLOURS = "colours follow the names where these say it (water is blue), else a palette that the colour-blind tell apart"


def starter(name: str, source: str, found: Found, labels: LabelSet, area: BaseGeometry) -> str:
    """The text of a project.yaml.

    Args:
        name: of the project.
        source: the import as seen from the project folder.
        area: what the scenes cover, in degrees.
    """
    grids = [scene.finest for scene in found.scenes]
    crs = grid_crs(grids, area)
    resolution = _resolution(grids)
    frame = frame_for(found, labels)
    anchor = frame.anchor
    window = _window(found, resolution)
    lines = [f"name: {json.dumps(name)}", "task:"]
    lines += [] if labels.measured is not None else [f"  # {COLOURS}"]
    lines += key_lines(task_keys(labels), 2)
    lines += ["labels:", *key_lines(label_keys(labels, anchor, below=f"{source}/"), 2)]
    lines += ["imagery:", f"  catalogue: {json.dumps(source + '/catalog.json')}"]
    lines += [f"  crs: {crs}"] if crs else []
    lines += [f"  resolution: {resolution:g}", f"  # {frame.why}", f"  framing: {frame.text}"]
    lines += ["dataset:", f"  split: {{block_size: {_block_size(grids, resolution * window):g}}}"]
    lines += ["model:", "  encoder: v1.1-nano", f"  patch_size: {PATCH}", f"  window_size: {window}", "training: {}"]
    lines += [
        "map:",
        f"  # {_area_told(area, len(found.scenes))}",
        f"  area: {json.dumps(source + '/area.geojson')}",
        f"  date: {anchor}",
        "  tile_size: 256",
    ]
    return "\n".join(lines) + "\n"


def frame_for(found: Found, labels: LabelSet | None) -> Frame:
    """The framing of an import, by the days of its scenes and of its labels."""
    return frame_of([scene.moment.date() for scene in found.scenes], labels.spans if labels is not None else ())


def _area_told(area: BaseGeometry, scenes: int) -> str:
    """What the file of the area holds, in a comment."""
    pieces = shapely.get_num_geometries(area)
    apart = f", in {pieces:,} pieces that lie apart, all of which are mapped" if pieces > 1 else ""
    return f"the ground of all imagery ({scenes:,} scene{'s' if scenes > 1 else ''}){apart}; draw your own for less"


def task_keys(labels: LabelSet, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The keys of the section task.

    Args:
        known: class -> colour, where it is known better than by its name.
    """
    if labels.measured is None:
        given = known or {}
        found = dict(zip(labels.classes, colours(labels.classes, given), strict=True))
        named = [{"name": name, "color": colour} for name, colour in found.items()]
        return {**({"kind": "classification"} if labels.of_windows else {}), "classes": named}
    measured = labels.measured  # named as its values are, as far as a task may be
    name = re.sub(r"[^a-z0-9_-]+", "_", measured.name.lower()).strip("_-")[:63] or "values"
    unit = {"unit": measured.unit} if measured.unit else {}
    return {"name": name, "kind": "regression", **unit, "range": list(measured.limits)}


def grid_crs(grids: Sequence[SourceGrid], area: BaseGeometry) -> str | None:
    """The CRS of the scenes if they share one in metres; for several, Europe's where they lie in it; else None."""
    codes = {grid.crs for grid in grids}
    if len(codes) == 1:
        (only,) = codes
        crs = CRS.from_user_input(only)
        in_metres = crs.is_projected and all(axis.unit_conversion_factor == 1 for axis in crs.axis_info[:2])
        return (only if only.startswith("EPSG:") else json.dumps(only)) if in_metres else None
    use = CRS.from_user_input(EUROPE).area_of_use
    inside = use is not None and shapely.box(use.west, use.south, use.east, use.north).contains(area)
    return EUROPE if inside else None


def label_keys(labels: LabelSet, anchor: dt.date, *, below: str = "") -> dict[str, Any]:
    """The keys of the section labels that are not as they usually are.

    Args:
        anchor: what labels that say no date are true for, where the partner does not say so.
        below: what stands before the files' places: "source/".
    """
    keys: dict[str, Any] = {"files": [f"{below}{place}" for place in labels.files]}
    if labels.class_property != "class":
        keys["class_property"] = labels.class_property
    vectors = any(Path(place).suffix.lower() not in SUFFIXES for place in labels.files)
    if labels.measured is not None and vectors and labels.measured.name != "value":
        keys["value_property"] = labels.measured.name
    if mapped := {name: values for name, values in labels.classes.items() if values and values != [name]}:
        keys["classes"] = mapped
    if labels.crs is not None:
        keys["crs"] = labels.crs
    if labels.date_property != DATE_PROPERTY:
        keys["date_property"] = labels.date_property
    if labels.undated:
        keys["date"] = labels.day or anchor
    if labels.of_windows:
        keys["windows"] = "centred"
    return keys


def _resolution(grids: Sequence[SourceGrid]) -> float:
    """Edge of a pixel in metres, in the middle of the scenes; a whole number where it is one to 2 %."""
    edge = median(_metres(grid) for grid in grids)
    return float(round(edge)) if abs(edge - round(edge)) < 0.02 * edge else round(edge, 1)


def _metres(grid: SourceGrid) -> float:
    width, height = _size(grid)
    return float((width / grid.width * height / grid.height) ** 0.5)


def _size(grid: SourceGrid) -> tuple[float, float]:
    """Width and height in metres on the ground."""
    x, y = to_degrees(grid.crs).transform(*corners(grid).T)
    _, _, lengths = Geod(ellps="WGS84").inv(x[[0, 1]], y[[0, 1]], x[[1, 2]], y[[1, 2]])
    return float(lengths[0]), float(lengths[1])


def _window(found: Found, resolution: float) -> int:
    """A whole patch up to 64 pixels; 16 pixels of larger scenes."""
    if found.kind != "patches":
        return 16
    edge = median(min(_size(scene.finest)) for scene in found.scenes) / resolution
    return int(min(64, max(PATCH, round(edge) // PATCH * PATCH)))


def _block_size(grids: Sequence[SourceGrid], window: float) -> float:
    """The house's 640 m, less where the scenes are so small that a quarter of them is less, at least a window."""
    quarter = max(min(_size(grid)) for grid in set(grids)) / 4 if len(set(grids)) == 1 else 640.0
    return float(max(min(640.0, quarter // window * window), window))
