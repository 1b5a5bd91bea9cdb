"""From an interpreted sample to numbers that a partner may publish: accuracy, and areas with their errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio

from olmoearth_core.assessment.estimators import Accuracy, Estimate, accuracy
from olmoearth_core.assessment.report import write_report
from olmoearth_core.assessment.sample import LAYERS, TABLE, UNSURE, Design, read_design
from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from olmoearth_core.store import write_json

RESULT, REPORT = "assessment.json", "assessment.html"
MOVED = 0.5
"""Pixels that a point may lie from where it was drawn before it counts as moved."""


def assess(folder: Path, reference: Path | None = None) -> dict[str, Any]:
    """Estimate accuracy and areas from the sample in `folder`, and leave assessment.json and assessment.html there.

    Args:
        folder: what `draw` left.
        reference: the file with the answers (column reference); by default sample.gpkg, or sample.csv where that one
            holds none.

    Returns:
        what assessment.json holds: areas in hectares on the ground, intervals of 95 %.

    Raises:
        MappingError: answers that lack, are no class, or of points that moved; a map that changed since.
    """
    design = read_design(folder)
    notes = _check_maps(folder, design)
    path, answers = _answers(folder, reference)
    told = _references(path, answers, design)
    unsure = sum(answer == UNSURE for answer in told.values())
    if unsure:
        notes.append(f"{unsure} of {len(told)} units are {UNSURE} and left out, as if they were like the others.")
    position = {name: value for value, name in enumerate(design.classes)}
    counts = np.zeros((len(position), len(position)), np.int64)
    for unit in design.units:
        if told[unit.id] != UNSURE:
            counts[unit.mapped, position[told[unit.id]]] += 1
    found = accuracy(counts, design.hectares, design.classes)
    result = _result(design, counts, found, notes, path.name)
    write_json(folder / RESULT, result)
    write_report(folder / REPORT, result)
    return result


def _check_maps(folder: Path, design: Design) -> list[str]:
    """Refuse a map that is not the one that was sampled; what to tell of one that is gone."""
    notes = []
    for raster in design.rasters:
        path = folder / raster.path
        if not path.is_file():
            notes.append(f"{raster.path} is not there any more; the sample is of the file with sha256 {raster.sha256}.")
        elif sha256_file(path) != raster.sha256:
            raise MappingError(
                f"{path}: changed since the sample was drawn, so the sample says nothing of it. Draw a new one with "
                "`olmoearth sample`."
            )
    return notes


def _answers(folder: Path, reference: Path | None) -> tuple[Path, pd.DataFrame]:
    """The file with the answers and its table; the geometry is that of points, where there is one."""
    if reference is not None:
        return reference, _read(reference)
    layers = _read(folder / LAYERS)
    if (layers["reference"].fillna("").astype(str).str.strip() != "").any():
        return folder / LAYERS, layers
    return folder / TABLE, _read(folder / TABLE)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".csv":
            frame = pd.read_csv(path, dtype={"reference": str}, keep_default_na=False)
        elif path.suffix.lower() == ".gpkg" and "sample" in pyogrio.list_layers(path)[:, 0]:
            frame = gpd.read_file(path, layer="sample")
        else:
            frame = gpd.read_file(path)
    except Exception as error:  # GDAL and pandas have many
        raise MappingError(f"{path}: cannot be read ({error}). Give the file that holds the answers.") from error
    lacking = [name for name in ("id", "reference") if name not in frame.columns]
    if lacking:
        raise MappingError(f"{path}: has no column {', '.join(lacking)}; it has {', '.join(map(str, frame.columns))}.")
    return frame


def _references(path: Path, answers: pd.DataFrame, design: Design) -> dict[int, str]:
    """Unit -> its reference class, or UNSURE; every unit has one."""
    numbers = pd.to_numeric(answers["id"], errors="coerce")
    ids = [int(n) if np.isfinite(n) else -1 for n in numbers]
    units = {unit.id: unit for unit in design.units}
    twice = [i for i, times in Counter(ids).items() if times > 1]
    strange = [i for i in ids if i not in units]
    lacking = [i for i in units if i not in set(ids)]
    for what, found in (("appear twice", twice), ("are no units of the sample", strange), ("are missing", lacking)):
        if found:
            raise MappingError(f"{path}: {len(found)} ids {what} ({_some(found)}). Keep the rows as they were drawn.")
    if isinstance(answers, gpd.GeoDataFrame):
        _check_places(path, answers, ids, design)
    told = {i: str(text or "").strip() for i, text in zip(ids, answers["reference"].fillna(""), strict=True)}
    empty = [i for i, text in told.items() if not text]
    if empty:
        raise MappingError(
            f"{path}: {len(empty)} of {len(told)} units have no reference class yet (ids {_some(empty)}). Give each "
            f"the name of a class, or '{UNSURE}'."
        )
    unknown = sorted({text for text in told.values() if text not in design.classes and text != UNSURE})
    if unknown:
        raise MappingError(
            f"{path}: the reference class {', '.join(repr(name) for name in unknown)} is none of the map's. Allowed: "
            f"{', '.join(design.classes)}, {UNSURE}."
        )
    return told


def _check_places(path: Path, answers: gpd.GeoDataFrame, ids: list[int], design: Design) -> None:
    units = {unit.id: unit for unit in design.units}
    moved = []
    places = answers.geometry if answers.crs is None else answers.to_crs("EPSG:4326").geometry
    for i, place in zip(ids, places, strict=True):
        if place is None or place.is_empty:
            continue
        point, unit = place.centroid, units[i]
        metres = 111_320 * np.hypot(
            (point.x - unit.longitude) * np.cos(np.radians(unit.latitude)), point.y - unit.latitude
        )
        if metres > MOVED * design.rasters[unit.raster].resolution:
            moved.append(i)
    if moved:
        raise MappingError(
            f"{path}: {len(moved)} points were moved since they were drawn (ids {_some(moved)}): what stands there now "
            f"is no answer about the sampled pixel. Put them back, or answer in {TABLE}."
        )


def _some(ids: list[int]) -> str:
    first = ", ".join(str(i) for i in sorted(ids)[:5])
    return first if len(ids) <= 5 else f"{first}, ..."


def _result(design: Design, counts: np.ndarray, found: Accuracy, notes: list[str], answers: str) -> dict[str, Any]:
    total = float(sum(design.hectares))
    classes = {}
    for value, name in enumerate(design.classes):
        share = found.shares[value]
        area = Estimate(share.value and share.value * total, share.error and share.error * total)
        classes[name] = {
            "mapped_hectares": design.hectares[value],
            "units": int(counts[value].sum()),
            "area_hectares": _told(area, total),
            "area_share": _told(share),
            "users_accuracy": _told(found.users[value]),
            "producers_accuracy": _told(found.producers[value]),
        }
    return {
        "map_id": design.map_id,
        "design": {"kind": design.kind, "seed": design.seed, "units": len(design.units)},
        "answers": answers,
        "rasters": [raster.model_dump() for raster in design.rasters],
        "hectares": total,
        "overall_accuracy": _told(found.overall),
        "classes": classes,
        "counts": counts.tolist(),
        "proportions": found.proportions.tolist(),
        "notes": notes,
        "method": "Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: stratified estimators",
    }


def _told(estimate: Estimate, most: float = 1.0) -> dict[str, float | None]:
    interval = estimate.interval(0.0, most)
    return {
        "value": estimate.value,
        "standard_error": estimate.error,
        "low": interval and interval[0],
        "high": interval and interval[1],
    }
