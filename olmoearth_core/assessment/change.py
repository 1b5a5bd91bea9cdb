"""Two maps of one area to a map of change: what was, what is, and how much of each became what."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from olmoearth_core.grid import areal_scale
from olmoearth_core.postprocess.areas import class_areas
from olmoearth_core.postprocess.mosaic import NODATA, Band, box_of, gdal_errors, write_mosaic, write_style
from olmoearth_core.postprocess.preview import write_preview
from olmoearth_core.postprocess.tile_index import index_name, write_index
from olmoearth_core.store import whole_file, write_bytes, write_json, write_text

MAP, MATRIX, PICTURE, PREVIEW, REPORT = "map.tif", "matrix.csv", "matrix.png", "preview.png", "change.json"
PROBABILITIES = "probabilities.tif"
UNCERTAIN = "uncertain change"
MOST = 254
"""Kinds of change that a map can hold: 255 is nodata."""


@dataclass(frozen=True)
class _Map:
    path: Path
    classes: list[str]
    colours: list[str]
    map_id: str


def change(
    old: Path | Sequence[Path],
    new: Path | Sequence[Path],
    out: Path,
    *,
    min_confidence: float = 0.0,
    resample: bool = False,
) -> dict[str, Any]:
    """Compare two maps of classes, where both know a class, on the grid of the newer one; block by block.

    Leaves in `out`: map.tif (COG; its classes are "stable forest", "forest to water", ..., so that `sample` and
    `assess` give these areas their errors), map.qml, matrix.csv (hectares on the ground: rows old, columns new),
    matrix.png, preview.png, change.json. Of several zones a map each (map_32631.tif, ...) and a tile index over them.

    Args:
        old: map.tif of the earlier map, or its files, one a zone.
        new: of the later one.
        out: folder.
        min_confidence: pixels that differ count as "uncertain change" where the highest probability of either map
            (probabilities.tif beside it) is lower.
        resample: take the old map's nearest pixel where the grids differ, instead of refusing.

    Returns:
        what change.json holds.

    Raises:
        MappingError: no maps of classes, other classes, other grids, no common ground, or probabilities that lack.
        StoreError: the disk is full.
    """
    pairs = _pairs([old] if isinstance(old, Path) else old, [new] if isinstance(new, Path) else new, resample=resample)
    before, after = _read_all([one for one, _ in pairs]), _read_all([two for _, two in pairs])
    if before.classes != after.classes:
        raise MappingError(
            f"{before.path} has the classes {', '.join(before.classes)}, {after.path} has {', '.join(after.classes)}: "
            "two maps are compared class by class. Map the area again with one model for both dates."
        )
    if not 0 <= min_confidence <= 1:
        raise MappingError(f"The minimum confidence is {min_confidence:g}; give a probability from 0 to 1.")
    size = len(after.classes)
    counts, square_metres = np.zeros(size * size, np.int64), np.zeros(size * size)
    for one, two in pairs:
        with rasterio.open(two) as source:
            crs, pixel = source.crs, abs(source.transform.a * source.transform.e)
        for _, pair, sure, (x, y) in _blocks(one, two, min_confidence, resample):
            here = np.bincount(pair[sure], minlength=size * size)
            counts += here
            square_metres += here * pixel / areal_scale(crs, np.array([x]), np.array([y]))
    kinds = [int(kind) for kind in np.flatnonzero(counts)]
    names = [_name(kind, after.classes) for kind in kinds] + ([UNCERTAIN] if min_confidence > 0 else [])
    if not kinds:
        raise MappingError(
            f"{before.path} and {after.path} have no pixel in common that both know. Compare maps of one area."
        )
    if len(names) > MOST:
        raise MappingError(f"The maps differ in {len(names)} ways; a map of change holds {MOST}. Merge some classes.")
    colours = [_colour(kind, after.colours) for kind in kinds] + ["#9e9e9e"] * (min_confidence > 0)
    identity = f"{before.map_id}..{after.map_id}"
    maps = []
    for one, two in pairs:
        tags = {
            "OLMOEARTH_MAP_ID": identity,
            "OLMOEARTH_CLASSES": json.dumps(dict(enumerate(names)), ensure_ascii=False),
            "OLMOEARTH_OLD": f"{before.map_id} {sha256_file(one)}",
            "OLMOEARTH_NEW": f"{after.map_id} {sha256_file(two)}",
        }
        maps.append(out / (MAP if len(pairs) == 1 else f"{Path(MAP).stem}_{_code(two)}.tif"))
        _write_map(maps[-1], one, two, kinds, colours, tags, min_confidence, resample)
        write_style(maps[-1].with_suffix(".qml"), names, colours)
    if len(maps) > 1:
        write_index(out / index_name(MAP), maps, date(2000, 1, 1), out)
        write_style(out / index_name(MAP).replace(".gpkg", ".qml"), names, colours)
    hectares = (square_metres / 1e4).reshape(size, size)
    _write_matrix(out / MATRIX, hectares, after.classes)
    write_bytes(out / PICTURE, _picture(hectares, after.classes))
    areas = class_areas(maps, names)
    about = {"title": "Change", "subtitle": f"{before.map_id} to {after.map_id}", "footer": identity}
    write_preview(out / PREVIEW, maps, **about, colours=colours, areas=areas)
    report = {
        "map_id": identity,
        "old": {"map_id": before.map_id, **_checksums([one for one, _ in pairs])},
        "new": {"map_id": after.map_id, **_checksums([two for _, two in pairs])},
        "min_confidence": min_confidence,
        "classes": after.classes,
        "hectares": [[round(float(value), 4) for value in row] for row in hectares],
        "kinds": {area.name: {"pixels": area.pixels, "hectares": area.hectares} for area in areas},
        "changed_hectares": round(float(hectares.sum() - hectares.trace()), 4),
    }
    write_json(out / REPORT, report)
    return report


def _pairs(old: Sequence[Path], new: Sequence[Path], *, resample: bool) -> list[tuple[Path, Path]]:
    """The files of two maps that lie on one grid, in the order of the newer map's."""
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    zones = {_code(path): path for path in old}
    if resample and len(old) > 1 and not all(_code(path) in zones for path in new):
        zones = dict.fromkeys(map(_code, new), old[0].with_name(index_name(MAP)))  # it knows all zones
    elif resample and len(old) == 1:
        zones = dict.fromkeys(map(_code, new), old[0])
    pairs = [(zones[_code(path)], path) for path in new if _code(path) in zones]
    if len(pairs) < max(len(new), len(old)) and not resample:
        raise MappingError(
            f"{old[0].parent} has the zones {', '.join(zones)}, {new[0].parent} has {', '.join(map(_code, new))}. Map "
            "both on one grid, or take nearest pixels with --resample."
        )
    return pairs


def _code(path: Path) -> str:
    """The zone of a map file, as names of files tell it."""
    try:
        with rasterio.open(path) as source:
            return str(source.crs.to_string().rsplit(":", 1)[-1])
    except RasterioError as error:
        raise MappingError(f"{path}: cannot be read as a raster ({error}).") from error


def _checksums(paths: Sequence[Path]) -> dict[str, Any]:
    if len(paths) == 1:
        return {"sha256": sha256_file(paths[0])}
    return {"sha256": {path.name: sha256_file(path) for path in dict.fromkeys(paths)}}


def _read_all(paths: Sequence[Path]) -> _Map:
    """What the files of a map say of it; an index says nothing, so a zone beside it is asked."""
    if paths[0].name == index_name(MAP):
        paths = sorted(paths[0].parent.glob(f"{Path(MAP).stem}_*.tif"))
    maps = [_read(path) for path in paths]
    if len({(m.map_id, *m.classes) for m in maps}) > 1:
        raise MappingError(f"{', '.join(path.name for path in paths)}: are files of different maps.")
    return maps[0]


def _read(path: Path) -> _Map:
    try:
        with rasterio.open(path) as source:
            tags = source.tags()
            table = source.colormap(1) if source.count == 1 and source.colorinterp[0].name == "palette" else {}
    except RasterioError as error:
        raise MappingError(f"{path}: cannot be read as a raster ({error}).") from error
    if not tags.get("OLMOEARTH_CLASSES"):
        raise MappingError(f"{path}: has no tag OLMOEARTH_CLASSES, so it is no map of classes of this platform.")
    named: dict[str, str] = json.loads(tags["OLMOEARTH_CLASSES"])
    classes = [named[str(value)] for value in range(len(named))]
    grey = (128, 128, 128, 255)
    colours = [to_hex([part / 255 for part in table.get(k, grey)[:3]]) for k in range(len(classes))]
    return _Map(path, classes, colours, tags.get("OLMOEARTH_MAP_ID", path.stem))


def _blocks(
    old: Path, new: Path, min_confidence: float, resample: bool
) -> Iterator[tuple[Window, np.ndarray, np.ndarray, tuple[float, float]]]:
    """By block of the new map: its window; old * K + new, (h, w) int64, -1 where one of them knows nothing; (h, w)
    bool, which of these are known and sure; and the block's middle in the CRS."""
    with ExitStack() as files:
        later = files.enter_context(rasterio.open(new))
        earlier = files.enter_context(rasterio.open(old))
        if not resample:
            _same_grid(earlier, later, old, new)
        grid = {"crs": later.crs, "transform": later.transform, "width": later.width, "height": later.height}
        there = files.enter_context(WarpedVRT(earlier, **grid, resampling=Resampling.nearest, nodata=NODATA))
        size = len(json.loads(later.tags()["OLMOEARTH_CLASSES"]))
        chances = []
        if min_confidence > 0:
            chances = [
                files.enter_context(WarpedVRT(files.enter_context(_probabilities(path)), **grid, nodata=NODATA))
                for path in (old, new)
            ]
        for _, window in later.block_windows(1):
            now, then = later.read(1, window=window), there.read(1, window=window)
            known = (now < size) & (then < size)
            pair = np.where(known, then.astype(np.int64) * size + now, -1)
            sure = known.copy()
            for source in chances:
                stored = source.read(window=window)
                best = np.where(stored == NODATA, 0, stored).max(axis=0) * source.src_dataset.scales[0]
                sure &= (now == then) | (best >= min_confidence)
            x, y = later.transform @ (window.col_off + window.width / 2, window.row_off + window.height / 2)
            yield window, pair, sure, (x, y)


def _probabilities(path: Path) -> Any:
    beside = path.with_name(path.name.replace("map", "probabilities", 1))
    if not beside.is_file():
        raise MappingError(f"{beside}: not there, so nobody knows how sure {path.name} is. Leave the confidence out.")
    return rasterio.open(beside)


def _same_grid(earlier: Any, later: Any, old: Path, new: Path) -> None:
    one, two = earlier.transform, later.transform
    shift = [(one.c - two.c) / two.a, (one.f - two.f) / two.e]
    alike = earlier.crs == later.crs and (one.a, one.b, one.d, one.e) == (two.a, two.b, two.d, two.e)
    if not alike or any(abs(s - round(s)) > 1e-6 for s in shift):
        raise MappingError(
            f"{old} and {new} lie on different grids ({earlier.crs}, {one.a:g} m and {later.crs}, {two.a:g} m). Map "
            "both on one grid, or take nearest pixels with --resample."
        )


def _name(kind: int, classes: Sequence[str]) -> str:
    before, after = divmod(kind, len(classes))
    return f"stable {classes[after]}" if before == after else f"{classes[before]} to {classes[after]}"


def _colour(kind: int, colours: Sequence[str]) -> str:
    """What changed has the full colour of what it became, the rest a pale one."""
    before, after = divmod(kind, len(colours))
    if before != after:
        return colours[after]
    parts = [int(colours[after][i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * 0.75):02x}" for part in parts)


def _write_map(
    path: Path,
    old: Path,
    new: Path,
    kinds: Sequence[int],
    colours: Sequence[str],
    tags: dict[str, str],
    min_confidence: float,
    resample: bool,
) -> None:
    value = np.full(max(kinds) + 2, NODATA, np.uint8)  # the last is of -1
    value[list(kinds)] = np.arange(len(kinds))
    scratch = path.parent / ".scratch"
    flat = scratch / "change.tif"
    with rasterio.open(new) as source:
        profile = {"crs": source.crs, "transform": source.transform, "width": source.width, "height": source.height}
        box = box_of(source)
    tiled = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    with (
        whole_file(flat) as partial,
        gdal_errors(flat),
        rasterio.open(partial, "w", **profile, **tiled, count=1, dtype="uint8", nodata=NODATA) as target,
    ):
        for window, pair, sure, _ in _blocks(old, new, min_confidence, resample):
            block = value[np.where(sure, pair, -1)]
            block[(pair >= 0) & ~sure] = len(kinds)  # uncertain
            target.write(block, 1, window=window)
    write_mosaic(path, {flat: box}, [Band("change", 1, colours=colours)], tags=tags, scratch=scratch)
    flat.unlink()
    scratch.rmdir()


def _write_matrix(path: Path, hectares: np.ndarray, classes: Sequence[str]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["from \\ to, hectares", *classes, "all"])
    for name, row in zip(classes, hectares, strict=True):
        table.writerow([name, *(f"{value:.4f}" for value in row), f"{row.sum():.4f}"])
    table.writerow(["all", *(f"{value:.4f}" for value in hectares.sum(axis=0)), f"{hectares.sum():.4f}"])
    write_text(path, text.getvalue())


def _picture(hectares: np.ndarray, classes: Sequence[str]) -> bytes:
    """The matrix as a PNG: shades are shares of what was of a class, numbers hectares."""
    shares = hectares / np.maximum(hectares.sum(axis=1, keepdims=True), 1e-12)
    with rc_context(rcParamsDefault):
        edge = 2.2 + 0.9 * len(classes)
        figure = Figure(figsize=(edge, edge), dpi=120)
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(hectares):
            ink = "white" if shares[row, column] > 0.6 else "#222222"
            axes.text(column, row, f"{value:,.1f}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(classes)), list(classes), rotation=30, ha="right")
        axes.set_yticks(range(len(classes)), list(classes))
        axes.set_xlabel("became, hectares")
        axes.set_ylabel("was")
        figure.tight_layout()
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()
