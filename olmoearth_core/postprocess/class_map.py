"""The products of a map of classes: mosaic, probabilities, polygons, areas, preview, STAC Item."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.blend import PROBABILITY_STEPS
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.postprocess.areas import ClassArea, class_areas, write_areas
from olmoearth_core.postprocess.item import class_assets
from olmoearth_core.postprocess.mosaic import NODATA, Band, blocks, write_mosaic, write_style
from olmoearth_core.postprocess.polygons import outline, write_geopackage, write_geoparquet
from olmoearth_core.postprocess.preview import write_preview
from olmoearth_core.postprocess.products import ITEM, MAP, PREVIEW, STYLE, Mapped, Products

PROBABILITIES, AREAS = "probabilities.tif", "areas.csv"
PARQUET, GEOPACKAGE = "polygons.parquet", "polygons.gpkg"
STEPS = 6
"""Products that are made, or found made, one after the other."""


def make_class_products(mapped: Mapped, advance: Callable[[int], None]) -> dict[str, Any]:
    """Make what is not finished yet; the stage's summary.

    Raises:
        StoreError: the disk is full; products that are finished are kept.
        MappingError: the tiles are of other classes than the project's.
    """
    run, plan = mapped.run, mapped.plan
    config, scratch, scale = run.project.config, run.scratch, 1 / PROBABILITY_STEPS
    classes, names, colours = config.task.classes, config.task.class_names, [c.color for c in config.task.classes]
    if plan.model.classes != names:
        raise MappingError(
            f"{run.upstream['infer'].folder}: the tiles hold {', '.join(plan.model.classes)}, but task.classes in "
            f"project.yaml are {', '.join(names)}. Run `olmoearth infer` again."
        )
    tags = mapped.tags | {"OLMOEARTH_CLASSES": json.dumps(dict(enumerate(names)), ensure_ascii=False)}
    map_path = run.out / MAP

    def make_map() -> None:
        write_mosaic(map_path, mapped.files, [Band("class", 1, colours=colours)], tags=tags, scratch=scratch)
        write_style(run.out / STYLE, names, colours)

    def make_probabilities() -> None:
        bands = [Band(f"probability of {name}", value + 2, scale) for value, name in enumerate(names)]
        write_mosaic(run.out / PROBABILITIES, mapped.files, bands, tags=tags, scratch=scratch)
        _same_pixels(run.out / PROBABILITIES, mapped)

    def make_polygons() -> None:
        polygons = outline(map_path, names, min_area=config.map.min_area, scratch=scratch)
        write_geopackage(run.out / GEOPACKAGE, polygons, plan.anchor, scratch)
        write_geoparquet(run.out / PARQUET, polygons)

    def make_preview() -> None:
        about = {"title": mapped.title, "subtitle": mapped.subtitle, "footer": mapped.identity}
        write_preview(run.out / PREVIEW, map_path, **about, colours=colours, areas=areas)

    products = Products(run.out, scratch / "products.json", advance)
    products.need([MAP, STYLE], make_map)
    areas = class_areas(map_path, names)
    _same_areas(map_path, areas, mapped.records)
    products.need([PROBABILITIES], make_probabilities)
    products.need([PARQUET, GEOPACKAGE], make_polygons)
    products.need([AREAS], lambda: write_areas(run.out / AREAS, areas))
    products.need([PREVIEW], make_preview)
    products.need([ITEM], lambda: mapped.write_item(class_assets(classes, scale, plan.resolution)))
    return {"areas": {a.name: {"pixels": a.pixels, "hectares": a.hectares, "share": round(a.share, 6)} for a in areas}}


def _same_areas(path: Path, areas: Sequence[ClassArea], records: Sequence[TileRecord]) -> None:
    """Refuse a mosaic that holds other pixels than its tiles: GDAL does not tell of every write that failed."""
    counted = [area.pixels for area in areas]
    expected = [sum(column) for column in zip(*(record.class_pixels for record in records), strict=True)]
    if counted != expected:
        path.unlink()
        raise StoreError(f"{path}: was not written as it should be (is the disk full?). Run the same command again.")


def _same_pixels(path: Path, mapped: Mapped) -> None:
    """As `_same_areas`, for the probabilities."""
    counted = sum(int((block != NODATA).sum()) for block, _ in blocks(path))
    if counted != mapped.mapped_pixels:
        path.unlink()
        raise StoreError(f"{path}: was not written as it should be (is the disk full?). Run the same command again.")
