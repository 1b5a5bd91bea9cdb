"""`olmoearth validate`: what can be known to be wrong before anything is spent. No pixel is read.

    labels -> windows and classes -> scenes for the labels -> area and scenes of the map

Each check adds findings and lets the next one go on as far as it can, so that a partner sees everything at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CoreError, NoSceneError
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.mask import without_mask
from olmoearth_core.imagery.scene import Scene, read_scenes
from olmoearth_core.imagery.search import freeze_label_scenes, freeze_map_scenes
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.properties import range_of
from olmoearth_core.labels.quality import label_facts
from olmoearth_core.labels.split import SPLITS, block_of, block_pixels, splits_of
from olmoearth_core.labels.tasks import Counted, TaskLabels, check_all, look_at
from olmoearth_core.labels.vector import Problem
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project

SHOWN = 10
"""Problems of one file that are told one by one."""
RARE = 0.01
"""A class with a smaller share of the labelled pixels is told."""


@dataclass(frozen=True)
class Finding:
    """One thing to know before a run.

    Attributes:
        severity: "error" stops the run sooner or later; "warning" does not.
        where: the file, or the key of project.yaml.
    """

    severity: Literal["error", "warning"]
    where: str
    message: str


def validate(project: Project, progress: Progress) -> list[Finding]:
    """As `check`, the findings alone."""
    return check(project, progress)[0]


def check(project: Project, progress: Progress) -> tuple[list[Finding], Counted | None]:
    """Check a project with its labels, its map area and its catalogue.

    Searches are frozen into the project's scenes/ as the stages would do, so that they are not made twice.

    Returns:
        The findings, in the order of the lifecycle, none when all is well; and the labels as they were counted, None
        where they cannot be used.
    """
    labels, problems = check_all(project)
    findings = list(_label_problems(problems))
    counted = None
    if labels is not None:
        counted = look_at(project, labels, progress)
        for name, own in labels.items():
            of = "labels.files" if name == project.config.task.name else f"auxiliary {name}: labels.files"
            findings += _windows_and_classes(project.view(name), own, counted.windows, of, *counted.amounts[name])
        findings += _label_scenes(project, labels, progress)
    findings += _model(project)
    findings += _map_area(project, progress)
    return list(dict.fromkeys(findings)), counted  # a catalogue that is down is told once


def _label_problems(problems: Sequence[Problem]) -> Iterator[Finding]:
    for source in dict.fromkeys(problem.source for problem in problems):
        messages = [problem.message for problem in problems if problem.source == source]
        for message in messages[:SHOWN]:
            yield Finding("error", source, message)
        if (more := len(messages) - SHOWN) > 0:
            yield Finding("error", source, f"{more} more problems like these; features are counted from 0")


def _windows_and_classes(
    project: Project,
    labels: Labels,
    windows: Sequence[TrainingWindow],
    key: str,
    pixels: np.ndarray,
    in_window: np.ndarray,
) -> Iterator[Finding]:
    """What is to say of the labels of one task; `key` is where they stand in project.yaml."""
    config = project.config
    task, names = config.task, config.task.strata
    conflicts = int(in_window.sum())
    used = [window for window, counts in zip(windows, pixels, strict=True) if counts.any()]
    if not used:
        why = (
            f"labels contradict each other on all {conflicts} pixels they cover"
            if conflicts
            else "no label covers a pixel's centre; is imagery.resolution too coarse?"
        )
        yield Finding("error", key, why)
        return
    if task.range and (pixels.sum(axis=0) > 0).sum() == 1:
        (one,) = np.array(names)[pixels.sum(axis=0) > 0]
        yield Finding("warning", key, f"all values lie in {one}, of a range of {range_of(task)}; is it the right one?")
    least = config.dataset.min_samples
    counted = "windows" if task.kind == "classification" else "labelled pixels"
    for name, in_windows, amount in zip(names, (pixels > 0).sum(axis=0), pixels.sum(axis=0), strict=True):
        if task.range:  # parts of it may well be empty
            break
        share = amount / pixels.sum()
        if in_windows < least:
            yield Finding(
                "error",
                key,
                f"class '{name}' is in {in_windows} of {len(used)} training windows; dataset.min_samples asks for "
                f"{least}. Label more places, or take it out of task.classes",
            )
        elif share < RARE:
            yield Finding(
                "warning",
                key,
                f"class '{name}' has {share:.2%} of the {counted}; a model may never predict it",
            )
    if conflicts:
        yield Finding("warning", key, _contradictions(labels, windows, pixels, in_window))
    for remark in label_facts(project, labels, windows, pixels, in_window).remarks:
        where = key if remark.where == "labels.files" else remark.where
        yield Finding("warning", where, remark.message)
    yield from _splits(project, labels, used)


def _contradictions(
    labels: Labels, windows: Sequence[TrainingWindow], pixels: np.ndarray, in_window: np.ndarray
) -> str:
    """What is told of labels that contradict each other, and where most of them are."""
    conflicts, worst = int(in_window.sum()), windows[int(in_window.argmax())]
    most = f"around {_where(labels, worst)} on {worst.date}"
    if labels.kind == "classification":
        count = int((in_window > 0).sum())
        return (
            f"labels of different classes share their middle in {count} windows, which will not be used; one is {most}"
        )
    share = conflicts / (conflicts + pixels.sum())
    what = "values far apart" if labels.kind == "regression" else "different classes"
    return (
        f"labels of {what} overlap on {conflicts} pixels ({share:.2%}), which will not be used; most of "
        f"them ({in_window.max()}) {most}"
    )


def _splits(project: Project, labels: Labels, used: Sequence[TrainingWindow]) -> Iterator[Finding]:
    split = project.config.dataset.split
    wanted = ["train", *split.held_out()]
    if split.kind == "blocks":
        size = block_pixels(split, project.config.model.window_size, labels.grid.resolution)
        blocks = len({block_of(window.centre, size) for window in used})
        if blocks < len(wanted):
            yield Finding(
                "warning",
                "dataset.split.block_size",
                f"the labels lie in {blocks} block(s) of {size * labels.grid.resolution:g} m, too few for "
                f"{len(wanted)} splits: there will be no score on land that was not trained on. Make blocks smaller or "
                "label more places",
            )
        return
    given = splits_of(used, split, None)
    for name in SPLITS:
        if name in wanted and name not in given:
            key = "dataset.split.property" if split.kind == "property" else "dataset.split"
            yield Finding(
                "error" if name == "train" else "warning",
                key,
                f"no label is for {name}" + ("" if split.kind == "property" else ": all dates are in other splits"),
            )


def _where(labels: Labels, window: TrainingWindow) -> str:
    """The middle of a window, in degrees."""
    (point,) = _degrees(labels.grid, np.array([window.box.polygon.centroid], dtype=object))
    return f"{point.x:.4f} E, {point.y:.4f} N"


def _label_scenes(project: Project, labels: TaskLabels, progress: Progress) -> Iterator[Finding]:
    try:
        scenes = read_scenes(freeze_label_scenes(project, progress), project.root)
    except CoreError as error:
        yield Finding("error", "imagery.catalogue", str(error))
        return
    for sentence in without_mask(scenes.scenes, project.config.imagery.cloud_mask):
        yield Finding("warning", "imagery.cloud_mask", sentence)
    places, days, sources, features = _places(labels)
    covered = shapely.intersects(_footprint(scenes.scenes), places)
    for source in dict.fromkeys(sources.tolist()):
        mine = sources == source
        outside = features[mine & ~covered]
        if len(outside):
            which = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
            told = f"{mine.sum()} labels lie outside the imagery (features {which})"
            if outside[0] < 0:
                told = f"{mine.sum()} windows with pixels of this raster lie outside the imagery"
            yield Finding(
                "error" if len(outside) == mine.sum() else "warning",
                str(source),
                f"{len(outside)} of {told}; check the file's CRS, or the catalogue",
            )
    different = np.unique(days)
    blind = []
    for day in different:
        spans = project.config.imagery.framing.spans(day)
        seen = [scene for scene in scenes.scenes if any(map(scene.in_step, spans))]
        if not shapely.intersects(_footprint(seen), places[days == day]).any():
            blind.append(day)
    if blind:
        which = ", ".join(day.isoformat() for day in blind[:5]) + (", ..." if len(blind) > 5 else "")
        yield Finding(
            "error" if len(blind) == len(different) else "warning",
            "imagery.framing",
            f"no scene shows the labels of {len(blind)} of {len(different)} dates ({which}); their windows "
            "will be left out. Check the dates, or give imagery.framing more days",
        )


def _places(labels: TaskLabels) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(place in degrees, date, file, feature) of each label and of each window with pixels of a raster (feature -1)."""
    columns = ("geometry", "date", "source", "feature")
    parts = [tuple(own.frame[name].to_numpy() for name in columns) for own in labels.values()]
    grid = next(iter(labels.values())).grid
    for raster in (raster for own in labels.values() for raster in own.rasters):
        boxes = shapely.box(*raster.cell_bounds.T)
        count = len(boxes)
        same = (np.full(count, value, dtype=object) for value in (raster.date, raster.source))
        parts.append((boxes, *same, np.full(count, -1)))
    places, days, sources, features = (np.concatenate(values) for values in zip(*parts, strict=True))
    return _degrees(grid, places), days, sources, features


def _model(project: Project) -> Iterator[Finding]:
    """The encoder and its weights, as far as this machine can tell: nothing is fetched."""
    from olmoearth_core.models.catalogue import named
    from olmoearth_core.models.sources import locate

    model = project.config.model
    try:
        named(model.encoder).check_reads(project.config.imagery.modalities)
    except CoreError as error:
        yield Finding("error", "model.encoder", str(error))
    if model.weights is not None and "://" not in model.weights:
        try:
            locate(str(project.path(model.weights)))
        except CoreError as error:
            yield Finding("error", "model.weights", str(error))


def _map_area(project: Project, progress: Progress) -> Iterator[Finding]:
    from olmoearth_core.inference.area import load_areas

    config, imagery = project.config, project.config.imagery
    try:
        areas = load_areas(
            project.path(config.map.area), config.map.area, crs=imagery.crs, resolution=imagery.resolution
        )
    except CoreError as error:
        yield Finding("error", "map.area", str(error))
        return
    try:
        scenes = read_scenes(freeze_map_scenes(project, progress), project.root)
    except NoSceneError as error:
        yield Finding("error", "map.area", f"{config.map.area}, {config.map.date}: {error}")
        return
    except CoreError as error:
        yield Finding("error", "imagery.catalogue", str(error))
        return
    outlines = np.array([area.outline for area in areas])
    inside = shapely.intersection(outlines, _footprint(scenes.scenes))
    outside = 1 - float(shapely.area(inside).sum() / shapely.area(outlines).sum())
    if outside > 0.999:
        yield Finding("error", "map.area", f"{config.map.area}: the area lies outside the imagery")
    elif outside > 0.001:
        yield Finding("warning", "map.area", f"{config.map.area}: {outside:.1%} of the area is outside the imagery")
    spans = config.imagery.framing.spans(config.map.date)
    yield from _asked_times(project, spans[0].start, spans[-1].end)
    empty = sum(not any(scene.in_step(span) for scene in scenes.scenes) for span in spans)
    if empty:
        yield Finding(
            "error" if empty == len(spans) else "warning",
            "map.date",
            f"no scene shows {empty} of {len(spans)} timesteps around {config.map.date}; they stay empty"
            + ("" if empty < len(spans) / 2 else ". Is imagery.framing right for this catalogue?"),
        )


def _asked_times(project: Project, start: date, end: date) -> Iterator[Finding]:
    """Whether features of the area ask for other times (`oe_start_time`) than [start, end), which the map will show."""
    from olmoearth_core.importing.outlines import requested_times

    config = project.config.map
    try:
        asked = requested_times(project.path(config.area))
    except CoreError as error:
        yield Finding("warning", "map.area", f"{error}. The map is of map.date alone")
        return
    missed = [times for times in asked if times[1].date() < start or times[0].date() >= end]
    if missed:
        first = missed[0]
        yield Finding(
            "warning",
            "map.date",
            f"{config.date}: the map will show {start} to {end - timedelta(days=1)}, but {len(missed)} of {len(asked)} "
            f"requests in {config.area} are for other times, the first for {first[0]:%Y-%m-%d} to {first[1]:%Y-%m-%d}. "
            "A map is of one date: correct map.date, or map the areas of other times as projects of their own",
        )


def _footprint(scenes: Sequence[Scene]) -> BaseGeometry:
    """The union of the scenes' bounding boxes, in degrees; halves at the antimeridian."""
    boxes = []
    for west, south, east, north in {scene.bbox for scene in scenes}:
        if west <= east:
            boxes.append(shapely.box(west, south, east, north))
        else:
            boxes += [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    footprint = shapely.union_all(boxes)
    shapely.prepare(footprint)
    return footprint


def _degrees(grid: Grid, geometries: np.ndarray) -> np.ndarray:
    """Geometries in the grid's CRS, in degrees."""
    from pyproj import Transformer

    transformer = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    return np.asarray(
        shapely.transform(geometries, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))
    )
