"""The stage postprocess: tiles become a map that a partner can publish."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.area import load_area
from olmoearth_core.inference.blend import PROBABILITY_STEPS
from olmoearth_core.inference.plan import Plan, read_plan
from olmoearth_core.inference.product import TileRecord, verify_tile
from olmoearth_core.postprocess.areas import ClassArea, class_areas, write_areas
from olmoearth_core.postprocess.item import map_item, write_item
from olmoearth_core.postprocess.mosaic import NODATA, Band, blocks, write_mosaic, write_style
from olmoearth_core.postprocess.polygons import outline, write_geopackage, write_geoparquet
from olmoearth_core.postprocess.preview import write_preview
from olmoearth_core.stage import StageRun
from olmoearth_core.stages import map_id
from olmoearth_core.store import write_json

MAP, STYLE, PROBABILITIES = "map.tif", "map.qml", "probabilities.tif"
PARQUET, GEOPACKAGE = "polygons.parquet", "polygons.gpkg"
AREAS, ITEM, PREVIEW = "areas.csv", "item.json", "preview.png"


def postprocess(run: StageRun) -> dict[str, Any]:
    """Make the mosaic, its probabilities, polygons, area table, preview and STAC Item.

    Raises:
        StoreError: a tile changed since it was made, or the disk is full; products that are finished are kept.
        MappingError: the tiles are of other classes than the project's.
    """
    config, tiles = run.project.config, run.upstream["infer"].folder
    plan = read_plan(tiles)
    classes, names, colours = config.task.classes, config.task.class_names, [c.color for c in config.task.classes]
    if plan.model.classes != names:
        raise MappingError(
            f"{tiles}: the tiles hold {', '.join(plan.model.classes)}, but task.classes in project.yaml are "
            f"{', '.join(names)}. Run `olmoearth infer` again."
        )
    identity, title = map_id(run.project, run.key), f"{config.name}, {plan.anchor.isoformat()}"
    provenance = {"project": config.name, "provenance": run.key, "model": plan.model.weights_sha256}
    tags = {
        "OLMOEARTH_MAP_ID": identity,
        **{f"OLMOEARTH_{key.upper()}": value for key, value in provenance.items()},
        "OLMOEARTH_CLASSES": json.dumps(dict(enumerate(names)), ensure_ascii=False),
    }
    files = {tiles / f"{tile.name}.tif": plan.box(tile) for tile in plan.tiles}
    source, scratch, scale = config.map.area, run.scratch, 1 / PROBABILITY_STEPS
    map_path = run.out / MAP

    def make_map() -> None:
        write_mosaic(map_path, files, [Band("class", 1, colours=colours)], tags=tags, scratch=scratch)
        write_style(run.out / STYLE, names, colours)

    def make_probabilities() -> None:
        bands = [Band(f"probability of {name}", value + 2, scale) for value, name in enumerate(names)]
        write_mosaic(run.out / PROBABILITIES, files, bands, tags=tags, scratch=scratch)
        _same_pixels(run.out / PROBABILITIES, records)

    def make_polygons() -> None:
        polygons = outline(map_path, names, min_area=config.map.min_area, scratch=scratch)
        write_geopackage(run.out / GEOPACKAGE, polygons, plan.anchor, scratch)
        write_geoparquet(run.out / PARQUET, polygons)

    def make_preview() -> None:
        first, last = plan.timesteps[0][0], plan.timesteps[-1][1] - timedelta(days=1)
        days = f"of {first}" if first == last else f"from {first} to {last}"
        subtitle = f"Imagery {days}, {plan.crs}, {plan.resolution:g} m"
        write_preview(
            run.out / PREVIEW, map_path, title=title, subtitle=subtitle, footer=identity, colours=colours, areas=areas
        )

    def make_item() -> None:
        item = map_item(
            run.out,
            map_id=identity,
            title=title,
            anchor=plan.anchor,
            span=(plan.timesteps[0][0], plan.timesteps[-1][1]),
            outline=load_area(run.files[source], source, crs=plan.crs, resolution=plan.resolution).outline,
            box=plan.bounds,
            classes=classes,
            probability_scale=scale,
            provenance=provenance,
        )
        write_item(run.out / ITEM, item)

    with run.progress.bar("making the products", 7) as advance:
        records = _verified(plan, tiles)
        advance(1)
        products = Products(run.out, run.scratch / "products.json", advance)
        products.need([MAP, STYLE], make_map)
        areas = class_areas(map_path, names)
        _same_areas(map_path, areas, records)
        products.need([PROBABILITIES], make_probabilities)
        products.need([PARQUET, GEOPACKAGE], make_polygons)
        products.need([AREAS], lambda: write_areas(run.out / AREAS, areas))
        products.need([PREVIEW], make_preview)
        products.need([ITEM], make_item)
    return {
        "map_id": identity,
        "area_pixels": sum(record.area_pixels for record in records),
        "mapped_pixels": sum(record.mapped_pixels for record in records),
        "areas": {a.name: {"pixels": a.pixels, "hectares": a.hectares, "share": round(a.share, 6)} for a in areas},
    }


class Products:
    """Makes what is not finished yet; a journal of checksums tells what is, also after a kill."""

    def __init__(self, folder: Path, journal: Path, advance: Callable[[int], None]) -> None:
        self._folder, self._journal, self._advance = folder, journal, advance
        self._finished: dict[str, str] = json.loads(journal.read_bytes()) if journal.exists() else {}

    def need(self, names: Sequence[str], make: Callable[[], None]) -> None:
        """Call `make` unless all files `names` are what it once made."""
        paths = {name: self._folder / name for name in names}
        if not all(path.exists() and sha256_file(path) == self._finished.get(name) for name, path in paths.items()):
            make()
            self._finished |= {name: sha256_file(path) for name, path in paths.items()}
            write_json(self._journal, self._finished)
        self._advance(1)


def _verified(plan: Plan, tiles: Path) -> list[TileRecord]:
    """The records of all tiles, after each file was compared with its own."""
    return [verify_tile(tiles, tile.name) for tile in plan.tiles]


def _same_areas(path: Path, areas: Sequence[ClassArea], records: Sequence[TileRecord]) -> None:
    """Refuse a mosaic that holds other pixels than its tiles: GDAL does not tell of every write that failed."""
    counted = [area.pixels for area in areas]
    expected = [sum(column) for column in zip(*(record.class_pixels for record in records), strict=True)]
    if counted != expected:
        path.unlink()
        raise StoreError(f"{path}: was not written as it should be (is the disk full?). Run the same command again.")


def _same_pixels(path: Path, records: Sequence[TileRecord]) -> None:
    """As `_same_areas`, for the probabilities."""
    counted = sum(int((block != NODATA).sum()) for block, _ in blocks(path))
    if counted != sum(record.mapped_pixels for record in records):
        path.unlink()
        raise StoreError(f"{path}: was not written as it should be (is the disk full?). Run the same command again.")
