"""Vector files, read and checked: the one door for labels and areas.

A file is read whole or refused: what is wrong is collected feature by feature, so that a partner corrects a file once.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import LabelError
from olmoearth_core.grid import Grid
from olmoearth_core.longitudes import unrolled, within_180

_KIND_IDS = [
    shapely.GeometryType[kind]
    for kind in ("POINT", "MULTIPOINT", "LINESTRING", "MULTILINESTRING", "POLYGON", "MULTIPOLYGON")
]

_POLYGON_IDS = [shapely.GeometryType[kind] for kind in ("POLYGON", "MULTIPOLYGON")]
_MANY = 10_000
"""So many polygons are united island by island, which is quicker; fewer as they always were."""

FLAT = 1e-10
"""Area over squared length of an outline that is a line but for rounding: a kilometre by less than a micrometre."""
_JSON_CRS = re.compile(rb'"crs"\s*:\s*\{[^{}]*\{\s*"name"\s*:\s*"([^"]+)"')


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file, in a sentence."""

    source: str
    """The file as project.yaml names it."""
    message: str


@dataclass(frozen=True)
class VectorFile:
    """What a vector file holds.

    Attributes:
        crs: as pyproj understands it.
        geometries: (N,) shapely geometries in `crs`, two-dimensional, x before y; None where `problems` says why. In
            degrees one that crosses the antimeridian reaches beyond 180.
        columns: property name -> (N,) values; dates and times are ISO 8601 text.
        problems: features that cannot be used as they are.
        rows: it is a table, whose rows a person counts from 1 with the head as the first.
    """

    crs: CRS
    geometries: np.ndarray
    columns: dict[str, np.ndarray]
    problems: tuple[Problem, ...]
    rows: bool = False

    def which(self, feature: int) -> str:
        """The name of a feature, for a person who looks for it."""
        return f"row {feature + 2}" if self.rows else f"feature {feature}"


def summarise(problems: list[Problem], shown: int = 3) -> str:
    """The first few problems of the first file that has any, and how many there are."""
    source = problems[0].source
    here = [p.message for p in problems if p.source == source]
    rest = f"; and {len(here) - shown} more like these" if len(here) > shown else ""
    return f"{source}: {'; '.join(here[:shown])}{rest}."


def read_vector(path: Path, source: str) -> VectorFile:
    """Read any vector file that GDAL knows.

    Args:
        path: the file.
        source: its name in messages (as project.yaml writes it).

    Raises:
        LabelError: missing, no vector file, without features, without a CRS, or with a CRS that cannot be its own.
    """
    if not path.exists():
        raise LabelError(f"{source}: no such file (looked for {path}). Put it there, or correct its name.")
    meta, wkb, values = _read_layer(path, source)
    if wkb is None:
        raise LabelError(f"{source}: holds no geometries. Give a vector file with geometries (GeoJSON, GeoPackage).")
    if len(wkb) == 0:
        raise LabelError(f"{source}: holds no features. Draw some in it, or leave the file out.")
    if not meta["crs"]:
        raise LabelError(
            f"{source}: states no CRS. Save it with one (in QGIS: Export > Save Features As), or as GeoJSON in degrees."
        )
    # where GDAL does not know the CRS that a GeoJSON names, it takes degrees
    stated = (_stated_in_json(path) if meta["crs"] == "EPSG:4326" else None) or meta["crs"]
    try:
        CRS.from_user_input(stated)
        crs = CRS.from_user_input(meta["crs"])
    except CRSError as error:
        raise LabelError(
            f"{source}: states the CRS {stated}, which is no CRS of places on Earth. Save it in degrees (EPSG:4326)."
        ) from error
    with np.errstate(invalid="ignore"):  # coordinates that are no number are told below
        geometries = shapely.from_wkb(wkb, on_invalid="ignore")
    if reason := impossible(crs, geometries):
        raise LabelError(f"{source}: {reason}")
    if crs.is_geographic:
        geometries = unrolled(geometries)
    reasons = broken(geometries, wkb)
    problems = tuple(Problem(source, f"feature {i} {reason}") for i, reason in reasons.items())
    geometries[list(reasons)] = None
    return VectorFile(crs, geometries, dict(zip(meta["fields"], values, strict=True)), problems)


def read_polygons(path: Path, source: str) -> VectorFile:
    """A vector file of polygons without a flaw.

    Raises:
        LabelError: as `read_vector`; or a geometry is broken or is no polygon.
    """
    file = read_vector(path, source)
    if file.problems:
        raise LabelError(f"{summarise(list(file.problems))} Correct the geometry (in QGIS: Fix Geometries).")
    polygons = np.isin(shapely.get_type_id(file.geometries), _POLYGON_IDS)
    if odd := sorted({g.geom_type for g in file.geometries[~polygons]}):
        raise LabelError(f"{source}: an area is made of polygons; found {', '.join(odd)}.")
    return file


def read_area(path: Path, source: str, grid: Grid | None = None) -> BaseGeometry:
    """The union of a file's polygons, in `grid`'s CRS, or in degrees (EPSG:4326) when no grid is given.

    Raises:
        LabelError: as `read_polygons`.
    """
    return union(read_polygons(path, source), source, grid)


def union(file: VectorFile, source: str, grid: Grid | None = None) -> BaseGeometry:
    """The union of polygons, in `grid`'s CRS, or in degrees when no grid is given: then cut at the antimeridian.

    Raises:
        LabelError: a coordinate has no place in the CRS.
    """
    polygons = project(file, "EPSG:4326" if grid is None else grid.crs, source)
    area = shapely.union_all(polygons) if len(polygons) < _MANY else shapely.disjoint_subset_union_all(polygons)
    area = area if area.is_valid else shapely.make_valid(area)
    return within_180(area) if grid is None else area


def project(file: VectorFile, crs: str, source: str) -> np.ndarray:
    """The file's geometries in `crs` (x before y).

    Raises:
        LabelError: a coordinate has no place in `crs`.
    """
    try:
        projected = shapely.transform(file.geometries, _Transform(file.crs, CRS.from_user_input(crs)))
    except ProjError as error:
        raise LabelError(f"{source}: cannot be projected from {file.crs.name} to {crs} ({error}).") from error
    if not np.isfinite(shapely.bounds(projected[file.geometries != None])).all():  # noqa: E711 (elementwise)
        raise LabelError(f"{source}: some coordinates in {file.crs.name} have no place in {crs}; is its CRS right?")
    bent = ~shapely.is_valid(projected) & (file.geometries != None)  # noqa: E711
    projected[bent] = shapely.make_valid(projected[bent])  # a valid outline can touch itself once it is rounded anew
    return np.asarray(projected, dtype=object)


class _Transform:
    """Coordinates (N, 2) from one CRS to another; the same bits when the two are one."""

    def __init__(self, source: CRS, target: CRS) -> None:
        from pyproj import Transformer

        self._transformer = None if source == target else Transformer.from_crs(source, target, always_xy=True)

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        if self._transformer is None:
            return xy
        return np.column_stack(self._transformer.transform(xy[:, 0], xy[:, 1]))


def _read_layer(path: Path, source: str) -> tuple[dict[str, Any], np.ndarray | None, list[np.ndarray]]:
    """(description, WKB of each feature or None where there is no geometry at all, values of each property)."""
    errors = pyogrio.errors
    # Dates of GeoJSON stay text: as dates, one 31 June would make the whole file unreadable without a reason.
    options = {"DATE_AS_STRING": "YES"} if path.suffix.lower() in (".geojson", ".json") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of GDAL's warnings (an open ring) is told in our own words
        try:
            layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
            layer = layers[0] if layers else None
            meta, _, wkb, values = pyogrio.raw.read(
                path, layer=layer, force_2d=True, datetime_as_string=True, **options
            )
        except (errors.DataSourceError, errors.DataLayerError, errors.FeatureError, ValueError) as error:
            raise LabelError(
                f"{source}: not a vector file that can be read ({error}). "
                "Give GeoJSON, GeoPackage, FlatGeobuf or a shapefile."
            ) from error
    if len(layers) > 1:
        raise LabelError(
            f"{source}: holds {len(layers)} layers ({', '.join(layers)}). Save the one to use as its own file."
        )
    return meta, wkb, values


def _stated_in_json(path: Path) -> str | None:
    """The CRS that the head of a GeoJSON file names; None where it names none."""
    if path.suffix.lower() not in (".geojson", ".json"):
        return None
    with path.open("rb") as file:
        found = _JSON_CRS.search(file.read(4096))
    return None if found is None else found[1].decode(errors="replace")


def impossible(crs: CRS, geometries: np.ndarray) -> str:
    """Why the coordinates cannot be in `crs`; empty when they can."""
    with np.errstate(invalid="ignore"):
        left, bottom, right, top = shapely.total_bounds(geometries)
    extent = f"coordinates reach from ({left:.6g}, {bottom:.6g}) to ({right:.6g}, {top:.6g})"
    in_degrees = left >= -180 and right <= 180 and bottom >= -90 and top <= 90
    if crs.is_geographic and not in_degrees and not np.isnan(left):
        if max(-left, right) <= 180 and max(-bottom, top) <= 180:
            beyond = top if top > 90 else bottom
            return (
                f"has the latitude {beyond:.6g}; latitudes are -90 to 90. Correct it, or exchange longitude and "
                "latitude where they are the wrong way round."
            )
        if max(-left, right) <= 360 and max(-bottom, top) <= 90:
            beyond, same = (right, right - 360) if right > 180 else (left, left + 360)
            return (
                f"{extent}, but its CRS {crs.name} has longitudes from -180 to 180. Write those beyond from the other "
                f"side: {same:.6g} in place of {beyond:.6g}."
            )
        return (
            f"{extent}, but its CRS {crs.name} is in degrees (-180 to 180, -90 to 90). "
            "They look like metres: state the CRS they are in, or save the file in degrees (EPSG:4326)."
        )
    if crs.is_projected and in_degrees and crs.axis_info[0].unit_name == "metre":
        return (
            f"{extent}, but its CRS {crs.name} is in metres. "
            "They look like degrees: state EPSG:4326 as the file's CRS, or save it anew."
        )
    return ""


def broken(geometries: np.ndarray, wkb: np.ndarray | None = None) -> dict[int, str]:
    """Position of each feature whose geometry cannot be used -> what is wrong with it.

    Args:
        geometries: (N,), None where there is none.
        wkb: (N,) what they were read from, None where there was nothing; not given where a missing one is told already.
    """
    reasons: dict[int, str] = {}
    missing = np.array([g is None for g in geometries])
    if wkb is not None:
        for i in np.flatnonzero(missing).tolist():
            reasons[i] = (
                "has no geometry"
                if wkb[i] is None
                else "has a geometry with an open or too short ring, or without numbers"
            )
    for i in np.flatnonzero(shapely.is_empty(geometries)).tolist():
        reasons[i] = "has an empty geometry"
    for i in np.flatnonzero(~shapely.is_valid(geometries) & ~missing).tolist():
        reasons[i] = f"has a broken geometry: {shapely.is_valid_reason(geometries[i])}"
    flat = (shapely.get_dimensions(geometries) == 2) & (
        shapely.area(geometries) < FLAT * shapely.length(geometries) ** 2
    )
    for i in np.flatnonzero(flat).tolist():
        reasons.setdefault(i, "has a broken geometry: its outline holds no area")
    kinds = shapely.get_type_id(geometries)
    for i in np.flatnonzero(~np.isin(kinds, _KIND_IDS) & ~missing).tolist():
        if i not in reasons:
            reasons[i] = (
                f"is a {geometries[i].geom_type}; allowed are points, lines and polygons, not a mixture of them "
                "(in QGIS: Multipart to Singleparts takes it apart)"
            )
    return dict(sorted(reasons.items()))
