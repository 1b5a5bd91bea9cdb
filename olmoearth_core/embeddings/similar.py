"""Places like some examples, from embeddings alone: no labels, no training, seconds instead of hours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from olmoearth_core.embeddings.code import decode
from olmoearth_core.embeddings.embed import ABOUT
from olmoearth_core.embeddings.tile import patch_box
from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.grid import PixelBox
from olmoearth_core.inference.plan import Plan, Tile, read_plan
from olmoearth_core.postprocess.mosaic import Band, write_mosaic
from olmoearth_core.postprocess.preview import write_value_preview
from olmoearth_core.postprocess.tile_index import index_name, write_index
from olmoearth_core.progress import Progress
from olmoearth_core.store import write_bytes, write_json

STEPS, NOTHING = 250, 255
"""A similarity s (0..1; what is below 0 counts as 0) is stored as round(250 s); 255 is nodata."""
ENOUGH = 20
"""Patches from which a mean is known."""
PLACES, RASTER, PICTURE, REPORT = "places.gpkg", "similarity", "similarity.png", "similar.json"


@dataclass(frozen=True)
class Query:
    """What to look for.

    Attributes:
        like: (longitude, latitude) in degrees of examples; a patch is as similar as it is to the nearest of them.
        unlike: of counterexamples; a patch nearer to one of these than to any example counts as 0.
        top: how many places to list.
        apart: metres that two listed places are apart, at least.
    """

    like: Sequence[tuple[float, float]]
    unlike: Sequence[tuple[float, float]] = ()
    top: int = 100
    apart: float = 200.0


def similar(folder: Path, query: Query, out: Path, progress: Progress) -> dict[str, Any]:
    """Compare every patch of the embeddings in `folder` with the examples.

    All directions that an encoder gives have much in common, so that any two are alike. What is compared is what is
    left when what they have in common is taken away: the cosine of the angle between that.

    Leaves in `out`: similarity_<zone>.tif (COG, uint8), places.gpkg (the most similar places, EPSG:4326),
    similarity.png and similar.json. Tile by tile, so memory does not grow with the area.

    Returns:
        what similar.json holds.

    Raises:
        MappingError: no examples, or one that lies outside the area or where nothing was seen.
        StoreError: a tile is missing, or the disk is full.
    """
    if not query.like:
        raise MappingError("No examples: give at least one point with --like LON,LAT or --points FILE.")
    if not (folder / ABOUT).is_file():
        raise MappingError(f"{folder}: holds no embeddings ({ABOUT} is missing). Make them with `olmoearth embed`.")
    plan = read_plan(folder)
    places = [_vector_at(folder, plan, point) for point in (*query.like, *query.unlike)]
    with progress.bar("looking for what all have in common", len(plan.tiles)) as advance:
        common = _Common(folder, plan, advance)
    examples = np.stack([common.without(v[:, None, None], row, column)[:, 0, 0] for v, row, column in places])
    like, unlike = examples[: len(query.like)], examples[len(query.like) :] if query.unlike else None
    scratch = out / ".scratch"
    scored: dict[str, dict[Path, PixelBox]] = {}
    best = _Best(query.top, query.apart)
    with progress.bar("comparing tiles", len(plan.tiles)) as advance:
        for tile, box, vectors in _tiles(folder, plan):
            scores = _scores(common.without(vectors, box.row, box.column), like, unlike)
            path = scratch / f"{tile.name}.tif"
            write_bytes(path, _encode(scores, box))
            scored.setdefault(box.grid.crs, {})[path] = box
            best.add(scores, box)
            advance(1)
    rasters = []
    for crs, tiles in scored.items():
        name = f"{RASTER}_{crs.rsplit(':', 1)[-1]}.tif"
        write_mosaic(out / name, tiles, [Band("similarity", 1, 1 / STEPS)], tags={}, scratch=scratch)
        rasters.append(name)
    if len(rasters) > 1:
        write_index(out / index_name(f"{RASTER}.tif"), [out / name for name in rasters], plan.anchor, scratch)
    for tiles in scored.values():
        for path in tiles:
            path.unlink()
    scratch.rmdir()
    listed = best.places()
    _write_places(out / PLACES, listed)
    text = f"Examples: {len(query.like)}, counterexamples: {len(query.unlike)}"
    write_value_preview(
        out / PICTURE,
        [out / name for name in rasters],
        title=f"Similar places, {plan.anchor.isoformat()}",
        subtitle=text,
        footer=folder.name,
        unit="",
        limits=(0.0, 1.0),
    )
    report = {
        "embeddings": json.loads((folder / ABOUT).read_bytes()),
        "like": [list(point) for point in query.like],
        "unlike": [list(point) for point in query.unlike],
        "places": len(listed),
        "best": float(listed["similarity"].max()) if len(listed) else None,
        "rasters": rasters,
    }
    write_json(out / REPORT, report)
    return report


def read_points(path: Path) -> list[tuple[float, float]]:
    """(longitude, latitude) of the points of a vector file; of other geometries a point inside them.

    Raises:
        MappingError: the file cannot be read, or has no CRS.
    """
    try:
        frame = gpd.read_file(path)
    except Exception as error:  # pyogrio and GDAL have many
        raise MappingError(f"{path}: cannot be read as a vector file ({error}).") from error
    if not isinstance(frame, gpd.GeoDataFrame) or frame.crs is None:
        raise MappingError(
            f"{path}: has no points, or no CRS to tell where they are. Save it as GeoJSON or GeoPackage."
        )
    inside = frame.to_crs("EPSG:4326").representative_point()
    return [(float(point.x), float(point.y)) for point in inside if not point.is_empty]


def _tiles(folder: Path, plan: Plan) -> Iterator[tuple[Tile, PixelBox, np.ndarray]]:
    for tile in plan.tiles:
        box = patch_box(plan.box(tile), plan.layout.patch_size)
        yield tile, box, decode(_read(folder / f"{tile.name}.tif"))


def _read(path: Path, window: Any = None) -> np.ndarray:
    try:
        with rasterio.open(path) as source:
            stored: np.ndarray = source.read(window=window)
            return stored
    except RasterioError as error:
        raise StoreError(f"{path}: cannot be read ({error}). Run `olmoearth embed` again.") from error


class _Common:
    """What the directions of an area have in common, by where in the lattice of windows a patch lies.

    An encoder adds to a patch's feature where in its window it lies, alike in all windows; so the mean is taken apart
    for each place in the lattice's period, where there are patches enough to know it.
    """

    def __init__(self, folder: Path, plan: Plan, advance: Callable[[int], None]) -> None:
        self._period = plan.layout.stride // plan.layout.patch_size
        total, count = np.zeros(1), np.zeros((self._period, self._period))
        for _, box, vectors in _tiles(folder, plan):
            rows, columns = self._places(box.row, box.column, vectors.shape[1:])
            known = np.isfinite(vectors[0])
            if total.ndim == 1:
                total = np.zeros((self._period, self._period, len(vectors)))
            np.add.at(total, (rows[known], columns[known]), vectors[:, known].T)
            np.add.at(count, (rows[known], columns[known]), 1)
            advance(1)
        whole = total.sum(axis=(0, 1)) / max(count.sum(), 1)
        enough = (count >= ENOUGH)[..., None]
        self._means = np.where(enough, total / np.maximum(count, 1)[..., None], whole)  # (P, P, D)

    def _places(self, row: int, column: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        rows = (row + np.arange(shape[0])) % self._period
        columns = (column + np.arange(shape[1])) % self._period
        return np.broadcast_to(rows[:, None], shape), np.broadcast_to(columns, shape)

    def without(self, vectors: np.ndarray, row: int, column: int) -> np.ndarray:
        """(D, h, w) float32: what of `vectors`, from absolute (row, column) on, is not common; of length 1, or zero."""
        left = vectors - np.moveaxis(self._means[self._places(row, column, vectors.shape[1:])], 2, 0)
        length = np.linalg.norm(left, axis=0, keepdims=True)
        return np.asarray(left / np.where(length > 1e-6, length, 1), np.float32)


def _vector_at(folder: Path, plan: Plan, point: tuple[float, float]) -> tuple[np.ndarray, int, int]:
    """(D,) direction of the patch at a point in degrees, and the patch's absolute row and column."""
    for tile in plan.tiles:
        pixels = plan.box(tile)
        box = patch_box(pixels, plan.layout.patch_size)
        x, y = Transformer.from_crs("EPSG:4326", box.grid.crs, always_xy=True).transform(*point)
        left, bottom, right, top = pixels.bounds
        if not (left <= x < right and bottom < y <= top):
            continue
        column, row = (int(np.floor(v)) for v in ~box.transform @ (x, y))
        vector = decode(_read(folder / f"{tile.name}.tif", ((row, row + 1), (column, column + 1))))[:, 0, 0]
        if np.isfinite(vector).all():
            return vector, box.row + row, box.column + column
    raise MappingError(
        f"The point {point[0]:g}, {point[1]:g} (longitude, latitude) lies outside the embeddings in {folder}, or "
        "nothing was seen there. Choose another."
    )


def _scores(vectors: np.ndarray, like: np.ndarray, unlike: np.ndarray | None) -> np.ndarray:
    """(h, w) float32 similarity of the patches, 0 where a counterexample is nearer; NaN where nothing was seen."""
    near = np.einsum("nd,dhw->nhw", like, vectors).max(axis=0)
    if unlike is not None:
        near = np.where(np.einsum("nd,dhw->nhw", unlike, vectors).max(axis=0) > near, 0, near)
    return np.asarray(np.clip(near, 0, 1), np.float32)


def _encode(scores: np.ndarray, box: PixelBox) -> bytes:
    stored = np.where(np.isnan(scores), NOTHING, np.rint(np.nan_to_num(scores) * STEPS)).astype(np.uint8)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=1,
            height=box.height,
            width=box.width,
            dtype="uint8",
            crs=box.grid.crs,
            transform=box.transform,
            nodata=NOTHING,
            compress="deflate",
        ) as target:
            target.write(stored, 1)
        return bytes(memory.read())


class _Place(NamedTuple):
    """A patch that may be listed: its middle in its zone's CRS, and in metres from the Earth's middle."""

    score: float
    x: float
    y: float
    crs: str
    on_earth: tuple[float, float, float]


class _Best:
    """The best places so far, no two of them close together."""

    def __init__(self, top: int, apart: float) -> None:
        self._top, self._apart = top, apart
        self._found: list[_Place] = []

    def add(self, scores: np.ndarray, box: PixelBox) -> None:
        """Consider the patches of a tile: (h, w) scores, NaN where there is none."""
        known = np.nan_to_num(scores, nan=0.0).ravel()
        # so many that thinning out cannot leave too few: a place keeps at most this many patches from being listed
        around = int(np.pi * (self._apart / box.grid.resolution + 1) ** 2) + 1
        most = min(len(known), self._top * around)
        first = np.argpartition(-known, most - 1)[:most]
        x, y = box.centres
        rows, columns = np.divmod(first, box.width)
        from_middle = Transformer.from_crs(box.grid.crs, "EPSG:4978", always_xy=True)
        on_earth = np.stack(from_middle.transform(x[columns], y[rows], np.zeros(len(first))), axis=1).tolist()
        here = [
            _Place(float(known[i]), float(x[c]), float(y[r]), box.grid.crs, tuple(place))
            for i, r, c, place in zip(first, rows, columns, on_earth, strict=True)
            if known[i] > 0
        ]
        self._found = self._thinned([*self._found, *here])

    def _thinned(self, found: list[_Place]) -> list[_Place]:
        kept: list[_Place] = []
        for place in sorted(found, key=lambda p: (-p.score, p.crs, p.x, p.y)):
            if not any(_metres(place, other) < self._apart for other in kept):
                kept.append(place)
            if len(kept) == self._top:
                break
        return kept

    def places(self) -> gpd.GeoDataFrame:
        """Columns rank (from 1), similarity, geometry (points in EPSG:4326)."""
        rows = []
        for rank, (score, x, y, crs, _) in enumerate(self._found, 1):
            lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
            rows.append((rank, round(score, 4), lon, lat))
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
        return gpd.GeoDataFrame(
            {"rank": table[:, 0].astype(np.int64), "similarity": table[:, 1]},
            geometry=gpd.points_from_xy(table[:, 2], table[:, 3]),
            crs="EPSG:4326",
        )


def _metres(one: _Place, two: _Place) -> float:
    """How far two places are apart; those of two zones as the crow flies through the Earth."""
    if one.crs == two.crs:
        return float(np.hypot(one.x - two.x, one.y - two.y))
    return float(np.linalg.norm(np.subtract(one.on_earth, two.on_earth)))


def _write_places(path: Path, places: gpd.GeoDataFrame) -> None:
    from olmoearth_core.store import whole_file

    made = path.with_name(f".{path.name}.made.gpkg")  # GDAL wants the proper ending while it writes
    made.unlink(missing_ok=True)
    try:
        with whole_file(path) as partial:
            places.to_file(made, layer="places", driver="GPKG")
            made.replace(partial)
    finally:
        made.unlink(missing_ok=True)
