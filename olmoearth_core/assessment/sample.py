"""A reference sample of a map: pixels drawn at random from each mapped class, for people to interpret.

What the interpreter gets (sample.gpkg, sample.csv) does not tell what the map says there; sample.json does, and keeps
the design that the estimates need.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from pydantic import BaseModel, ConfigDict
from pyproj import Transformer
from rasterio.errors import RasterioError

from olmoearth_core.assessment.estimators import allocate, sample_size
from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from olmoearth_core.postprocess.areas import class_areas
from olmoearth_core.store import whole_file, write_json, write_text

DESIGN, LAYERS, TABLE = "sample.json", "sample.gpkg", "sample.csv"
UNSURE = "unsure"
"""The reference class of a unit that nobody can tell: it is left out, and how many there are is told."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Unit(_Part):
    """One pixel of the sample."""

    id: int
    x: float
    """Middle of the pixel in the CRS of its map file."""
    y: float
    longitude: float
    latitude: float
    raster: int
    """Position of its file in `Design.rasters`."""
    mapped: int
    """Value in the map."""


class Raster(_Part):
    """A map file that was sampled."""

    path: str
    """Relative to the folder of the sample."""
    sha256: str
    crs: str
    resolution: float


class Design(_Part):
    """How a sample was drawn."""

    map_id: str
    classes: list[str]
    pixels: list[int]
    """Of each mapped class."""
    hectares: list[float]
    """Likewise, on the ground."""
    kind: str
    """stratified | simple."""
    seed: int
    rasters: list[Raster]
    units: list[Unit]


def draw(
    maps: Sequence[Path],
    out: Path,
    *,
    size: int | None = None,
    error: float = 0.01,
    expected: float = 0.85,
    least: int = 50,
    simple: bool = False,
    seed: int = 0,
) -> Design:
    """Draw a sample from a map of classes, and write the files for its interpreter.

    Blocks are read one by one, so memory does not grow with the map. Equal map, size and seed give equal units.

    Args:
        maps: map.tif, or one file a UTM zone.
        out: folder for sample.gpkg (layers sample and pixels, EPSG:4326), sample.csv and sample.json.
        size: units altogether; by default as many as `error` asks for.
        error: standard error wanted of the overall accuracy.
        expected: user's accuracy that is expected of the classes.
        least: units of a rare class, at least (Olofsson et al.: 50 to 100).
        simple: draw from all mapped pixels alike, not class by class.
        seed: of the draw.

    Raises:
        MappingError: no map of classes, nothing mapped, or there is a sample in `out` that somebody may be working on.
    """
    if (out / DESIGN).exists():
        raise MappingError(f"{out}: holds a sample already, perhaps with answers in it. Name another folder with --to.")
    classes, map_id = _classes(maps)
    areas = [class_areas([path], classes) for path in maps]
    by_raster = np.array([[a.pixels for a in one] for one in areas], np.int64)  # (files, K)
    pixels = by_raster.sum(axis=0)
    if not pixels.any():
        raise MappingError(f"{maps[0]}: not one pixel is mapped, so there is nothing to sample.")
    hectares = np.array([[a.hectares for a in one] for one in areas]).sum(axis=0)
    total = size or sample_size(hectares / hectares.sum(), [expected] * len(classes), error)
    if simple:
        chosen = [np.sort(np.random.default_rng((seed, 256)).choice(int(pixels.sum()), _most(total, pixels), False))]
    else:
        wanted = allocate(total, pixels.tolist(), least)
        chosen = [
            np.sort(np.random.default_rng((seed, value)).choice(int(n), units, replace=False))
            for value, (n, units) in enumerate(zip(pixels, wanted, strict=True))
        ]
    found = _pixels_at(maps, chosen, simple=simple)
    order = np.random.default_rng((seed, 257)).permutation(len(found))  # so that an id tells nothing
    rasters = [_raster(path, out) for path in maps]
    units = [_unit(number, found[k], rasters) for number, k in enumerate(order, 1)]
    design = Design(
        map_id=map_id,
        classes=classes,
        pixels=pixels.tolist(),
        hectares=hectares.tolist(),
        kind="simple" if simple else "stratified",
        seed=seed,
        rasters=rasters,
        units=units,
    )
    _write_layers(out / LAYERS, design)
    _write_table(out / TABLE, design)
    write_json(out / DESIGN, design.model_dump(mode="json"))  # last: with it the sample counts
    return design


def read_design(folder: Path) -> Design:
    """The design of the sample in `folder`.

    Raises:
        MappingError: there is none.
    """
    try:
        return Design.model_validate_json((folder / DESIGN).read_bytes())
    except (OSError, ValueError) as error:
        raise MappingError(
            f"{folder / DESIGN}: no sample of this platform. Draw one with `olmoearth sample`."
        ) from error


def map_files(place: Path) -> list[Path]:
    """The files of a map: of its folder map.tif or one a UTM zone (map_<EPSG>.tif), or the file that is named itself.

    Raises:
        MappingError: there is none.
    """
    if place.is_dir():
        found = sorted(place.glob("map_*.tif")) or sorted(place.glob("map.tif"))
    else:
        found = [place] if place.is_file() else []
    if not found:
        raise MappingError(f"{place}: no map there. Name a map file, or its folder below maps/.")
    return found


def _classes(maps: Sequence[Path]) -> tuple[list[str], str]:
    """(names of the classes by value, map id), as the files' tags tell."""
    told: set[tuple[str, str]] = set()
    for path in maps:
        try:
            with rasterio.open(path) as source:
                tags = source.tags()
        except RasterioError as error:
            raise MappingError(f"{path}: cannot be read as a raster ({error}).") from error
        told.add((tags.get("OLMOEARTH_CLASSES", ""), tags.get("OLMOEARTH_MAP_ID", "")))
    if len(told) != 1:
        named = ", ".join(map(str, maps[:3])) + (", ..." if len(maps) > 3 else "")
        raise MappingError(f"{named}: are files of different maps. A sample is of one map: name one.")
    [(text, map_id)] = told
    if not text:
        raise MappingError(
            f"{maps[0]}: has no tag OLMOEARTH_CLASSES, so it is no map of classes of this platform (or its tags were "
            "stripped). A map of values has no classes to sample."
        )
    names: dict[str, str] = json.loads(text)
    return [names[str(value)] for value in range(len(names))], map_id


def _most(total: int, pixels: np.ndarray) -> int:
    return min(total, int(pixels.sum()))


def _pixels_at(
    maps: Sequence[Path], chosen: Sequence[np.ndarray], *, simple: bool
) -> list[tuple[int, float, float, int]]:
    """(file, x, y, value) of the chosen pixels: positions among all of a class (or of any), counted block by block."""
    passed, found = [0] * len(chosen), []
    for number, path in enumerate(maps):
        with rasterio.open(path) as source:
            for _, window in source.block_windows(1):
                block = source.read(1, window=window)
                for value, positions in enumerate(chosen):
                    here = np.flatnonzero(block != source.nodata) if simple else np.flatnonzero(block == value)
                    first, last = np.searchsorted(positions, (passed[value], passed[value] + len(here)))
                    for at in here[positions[first:last] - passed[value]]:
                        row, column = divmod(int(at), block.shape[1])
                        x, y = source.xy(window.row_off + row, window.col_off + column)
                        found.append((number, float(x), float(y), int(block[row, column])))
                    passed[value] += len(here)
    return found


def _raster(path: Path, out: Path) -> Raster:
    with rasterio.open(path) as source:
        crs, resolution = source.crs.to_string(), float(source.transform.a)
    relative = os.path.relpath(path.absolute(), out.absolute())
    return Raster(path=Path(relative).as_posix(), sha256=sha256_file(path), crs=crs, resolution=resolution)


def _unit(number: int, found: tuple[int, float, float, int], rasters: Sequence[Raster]) -> Unit:
    raster, x, y, value = found
    to_degrees = Transformer.from_crs(rasters[raster].crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    return Unit(id=number, x=x, y=y, longitude=round(lon, 7), latitude=round(lat, 7), raster=raster, mapped=value)


def outline(unit: Unit, rasters: Sequence[Raster]) -> shapely.Polygon:
    """The edge of a unit's pixel in degrees."""
    raster = rasters[unit.raster]
    half = raster.resolution / 2
    box = shapely.box(unit.x - half, unit.y - half, unit.x + half, unit.y + half)
    to_degrees = Transformer.from_crs(raster.crs, "EPSG:4326", always_xy=True)
    return shapely.transform(box, lambda p: np.column_stack(to_degrees.transform(p[:, 0], p[:, 1])))


def _write_layers(path: Path, design: Design) -> None:
    ids = [unit.id for unit in design.units]
    blank: dict[str, Any] = {"id": ids, "reference": [""] * len(ids), "note": [""] * len(ids)}
    points = gpd.points_from_xy([u.longitude for u in design.units], [u.latitude for u in design.units])
    pixels = [outline(unit, design.rasters) for unit in design.units]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.stem}.made.gpkg")  # GDAL wants the proper ending while it writes
    made.unlink(missing_ok=True)
    try:
        with whole_file(path) as partial:
            gpd.GeoDataFrame(blank, geometry=points, crs="EPSG:4326").to_file(made, layer="sample", driver="GPKG")
            gpd.GeoDataFrame({"id": ids}, geometry=pixels, crs="EPSG:4326").to_file(made, layer="pixels", driver="GPKG")
            made.replace(partial)
    finally:
        made.unlink(missing_ok=True)


def _write_table(path: Path, design: Design) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "longitude", "latitude", "reference", "note"])
    table.writerows([unit.id, unit.longitude, unit.latitude, "", ""] for unit in design.units)
    write_text(path, text.getvalue())
