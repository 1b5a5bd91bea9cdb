"""What can be known of labels without imagery: balance, crowding, extent, doubles, contradictions, specks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CoreError
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.split import block_of, block_pixels
from olmoearth_core.labels.vector import read_area
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.project import Project
from olmoearth_core.project_labels import STRATA

SHOWN = 10
"""Features or windows that are named one by one."""
FAR = 100_000.0
"""Metres from the map's area: labels farther away tell of another climate, other crops, another season."""
CROWDED = 0.7
"""Share of the labelled pixels in the densest tenth of the blocks, from which on the labels count as one place."""
MANY_BLOCKS = 20
MANY_SPECKS = 0.5
"""Share of a file's labels: outlines have slivers, but mostly slivers means that imagery.resolution is too coarse."""


@dataclass(frozen=True)
class Remark:
    """Something about the labels that a partner should look at."""

    where: str
    """The file, or the key of project.yaml."""
    message: str


@dataclass(frozen=True)
class LabelFacts:
    """What was found.

    Attributes:
        facts: JSON values by subject: files, classes, crowding, extent, conflicts.
        remarks: what of it is worth a warning.
    """

    facts: dict[str, Any]
    remarks: tuple[Remark, ...]


def label_facts(
    project: Project, labels: Labels, windows: Sequence[TrainingWindow], pixels: np.ndarray, conflicts: np.ndarray
) -> LabelFacts:
    """Look at the labels of a task as they are.

    Args:
        project: or a view of it with the task.
        labels: of the task.
        windows: around the labels.
        pixels: (N, K) labelled pixels of each stratum in each window; of a classification windows.
        conflicts: (N,) pixels on which labels contradict each other.
    """
    remarks: list[Remark] = []
    facts = {
        "files": _files(labels, remarks),
        "classes": _classes(project.config.task.strata, labels, pixels),
        "crowding": _crowding(project, labels, windows, pixels, remarks),
        "extent": _extent(project, labels, windows, pixels, remarks),
        "conflicts": _conflicts(windows, pixels, conflicts),
    }
    return LabelFacts(facts, tuple(remarks))


def _files(labels: Labels, remarks: list[Remark]) -> dict[str, Any]:
    """File -> how many labels, doubles, contradictions and specks."""
    frame, pixel = labels.frame, labels.grid.resolution**2
    geometries = frame.geometry.to_numpy()
    places = pd.DataFrame(
        {
            "shape": shapely.to_wkb(shapely.normalize(geometries)),
            "date": frame["date"].to_numpy(),
            "said": frame["value" if labels.kind == "regression" else "class_index"].to_numpy(),
        }
    )
    double = places.duplicated().to_numpy()
    contradicting = ~double & places.duplicated(["shape", "date"], keep=False).to_numpy()
    said = places.groupby(["shape", "date"])["said"]
    contradicting &= ((said.transform("max") - said.transform("min")) > _apart(labels)).to_numpy(bool)
    speck = (shapely.get_dimensions(geometries) == 2) & (shapely.area(geometries) < pixel / 2)
    found: dict[str, Any] = {}
    word = "value" if labels.kind == "regression" else "class"
    for source in frame["source"].unique():
        mine = (frame["source"] == source).to_numpy()
        features = frame["feature"].to_numpy()
        found[str(source)] = {
            "labels": int(mine.sum()),
            "doubles": _named(features[mine & double]),
            "contradictions": _named(features[mine & contradicting]),
            "specks": _named(features[mine & speck]),
        }
        for which, told, few in (
            (double, f"are there more than once (same geometry, {word} and date)", 0.0),
            (contradicting, f"share their geometry and date with a label of another {word}: neither is used", 0.0),
            (speck, "are smaller than half a pixel and may claim none", MANY_SPECKS),
        ):
            if (mine & which).sum() > few * mine.sum():
                names = _listed(features[mine & which])
                remarks.append(Remark(str(source), f"{(mine & which).sum()} of {mine.sum()} labels {told}: {names}"))
    for raster in labels.rasters:
        found[raster.source] = {"pixels": int(raster.amounts.sum()), "unmapped": list(raster.unmapped[:SHOWN])}
    return found


def _apart(labels: Labels) -> float:
    """How far what two labels say must lie apart to contradict each other."""
    limits = None if labels.task is None else labels.task.range
    return 0.0 if limits is None else (limits[1] - limits[0]) / STRATA


def _classes(names: Sequence[str], labels: Labels, pixels: np.ndarray) -> dict[str, Any]:
    """Class (stratum) -> labels, windows, pixels and share of all pixels."""
    total, features = max(int(pixels.sum()), 1), np.bincount(labels.frame["class_index"], minlength=len(names))
    return {
        name: {
            "labels": int(features[k]),
            "windows": int((pixels[:, k] > 0).sum()),
            "pixels": int(pixels[:, k].sum()),
            "share": round(float(pixels[:, k].sum() / total), 6),
        }
        for k, name in enumerate(names)
    }


def _crowding(
    project: Project, labels: Labels, windows: Sequence[TrainingWindow], pixels: np.ndarray, remarks: list[Remark]
) -> dict[str, Any]:
    """How many blocks have labels, and which share of them the densest tenth has."""
    config = project.config
    size = block_pixels(config.dataset.split, config.model.window_size, labels.grid.resolution)
    amounts: dict[tuple[int, int], int] = {}
    for window, amount in zip(windows, pixels.sum(axis=1).tolist(), strict=True):
        if amount:
            block = block_of(window.centre, size)
            amounts[block] = amounts.get(block, 0) + amount
    ordered = sorted(amounts.values(), reverse=True)
    tenth = -(-len(ordered) // 10)
    share = sum(ordered[:tenth]) / max(sum(ordered), 1)
    if len(ordered) >= MANY_BLOCKS and share > CROWDED:
        remarks.append(
            Remark(
                "labels.files",
                f"{share:.0%} of the labelled pixels lie in {tenth} of {len(ordered)} blocks of "
                f"{size * labels.grid.resolution:g} m; scores will be those of these places. Label more places",
            )
        )
    return {"blocks": len(ordered), "block_metres": size * labels.grid.resolution, "densest_tenth": round(share, 4)}


def _extent(
    project: Project, labels: Labels, windows: Sequence[TrainingWindow], pixels: np.ndarray, remarks: list[Remark]
) -> dict[str, Any]:
    """How much of the map's area the windows cover, and how far from it they lie."""
    area = _map_area(project, labels)
    boxes = np.unique([window.box.bounds for window, some in zip(windows, pixels, strict=True) if some.any()], axis=0)
    if area is None or area.area == 0 or len(boxes) == 0:
        return {}
    outlines = shapely.box(*boxes.T)
    shapely.prepare(area)
    distance = shapely.distance(area, outlines)
    inside = outlines[distance == 0]
    covered = float(shapely.union_all(shapely.intersection(inside, area)).area / area.area)
    far = float((distance > FAR).mean())
    if far > 0.5:
        remarks.append(
            Remark(
                "map.area",
                f"{far:.0%} of the labelled windows lie more than {FAR / 1000:g} km from the area to map (the nearest "
                f"{distance.min() / 1000:.0f} km): is it the right area, are longitude and latitude swapped?",
            )
        )
    return {
        "covered": round(covered, 6),
        "far": round(far, 4),
        "median_metres": round(float(np.median(distance)), 1),
        "nearest_metres": round(float(distance.min()), 1),
    }


def _map_area(project: Project, labels: Labels) -> BaseGeometry | None:
    name = project.config.map.area
    try:
        return read_area(project.path(name), name, labels.grid)
    except CoreError:  # told where the area is looked at
        return None


def _conflicts(windows: Sequence[TrainingWindow], pixels: np.ndarray, conflicts: np.ndarray) -> dict[str, Any]:
    """Pixels that labels of different classes claim, and the windows with the most of them."""
    worst = np.argsort(-conflicts, kind="stable")[:SHOWN]
    total = int(conflicts.sum())
    return {
        "pixels": total,
        "share": round(total / max(total + int(pixels.sum()), 1), 6),
        "windows": {windows[k].name: int(conflicts[k]) for k in worst.tolist() if conflicts[k]},
    }


def _named(features: np.ndarray) -> dict[str, Any]:
    return {"count": len(features), "features": features[:SHOWN].tolist()}


def _listed(features: np.ndarray) -> str:
    which = ", ".join(map(str, features[:5].tolist())) + (", ..." if len(features) > 5 else "")
    return f"feature{'s' * (len(features) > 1)} {which}"
