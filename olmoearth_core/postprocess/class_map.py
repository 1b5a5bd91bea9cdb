"""The products of a map of classes: mosaic, probabilities, confidence, polygons, areas, preview, STAC Item."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.blend import PROBABILITY_STEPS
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.postprocess.areas import ClassArea, class_areas, write_areas
from olmoearth_core.postprocess.derived import CONFIDENCE, write_confidence
from olmoearth_core.postprocess.events import EVENTS_GEOPACKAGE, EVENTS_JSON, with_confidence, write_events
from olmoearth_core.postprocess.item import class_assets
from olmoearth_core.postprocess.mosaic import NODATA, Band, blocks, write_mosaic, write_style
from olmoearth_core.postprocess.polygons import LAYER, Layer, outline, write_geopackage, write_geoparquet
from olmoearth_core.postprocess.preview import write_preview
from olmoearth_core.postprocess.products import ITEM, MAP, OBSERVATIONS, PREVIEW, STYLE, Mapped, Products
from olmoearth_core.postprocess.sets import SETS, set_sizes, write_sets
from olmoearth_core.postprocess.simplify import simplify

PROBABILITIES, AREAS = "probabilities.tif", "areas.csv"
PARQUET, GEOPACKAGE = "polygons.parquet", "polygons.gpkg"
STEPS = 8
"""Products that are made, or found made, one after the other; prediction sets are one more."""


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
    conformal, sets, events = config.map.conformal, plan.model.sets, config.map.events
    if conformal and sets is None:
        raise MappingError(
            "map.conformal: the model was fine-tuned before prediction sets were learned with it. Run `olmoearth "
            "finetune` again, or remove map.conformal from project.yaml."
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

    def make_confidence() -> None:
        write_confidence(run.out / CONFIDENCE, run.out / PROBABILITIES, tags, scratch)
        _same_pixels(run.out / CONFIDENCE, mapped)

    def make_polygons() -> None:
        polygons = outline(map_path, names, min_area=config.map.min_area, scratch=scratch)
        smooth = simplify(polygons, plan.resolution, config.map.simplify)
        write_geopackage(run.out / GEOPACKAGE, [Layer(LAYER, smooth)], plan.anchor, scratch)
        write_geoparquet(run.out / PARQUET, smooth)
        if events:
            chosen = with_confidence(polygons[polygons["class"].isin(events)], run.out / CONFIDENCE)
            write_events(run.out, chosen, (plan.timesteps[0][0], plan.timesteps[-1][1]), plan.anchor, scratch)

    def make_sets() -> None:
        assert conformal is not None
        assert sets is not None
        unknown = [name for name, least in zip(names, sets.needed(conformal.coverage), strict=True) if least == 0]
        if unknown:
            run.progress.note(
                f"Warning: validation holds too few pixels of {', '.join(unknown)} for sets that hold the truth in "
                f"{conformal.coverage:.0%}: no pixel of {SETS} rules them out."
            )
        write_sets(run.out / SETS, run.out / PROBABILITIES, sets, conformal.coverage, names, tags, scratch)
        _same_pixels(run.out / SETS, mapped)

    def make_preview() -> None:
        about = {"title": mapped.title, "subtitle": mapped.subtitle, "footer": mapped.identity}
        write_preview(run.out / PREVIEW, map_path, **about, colours=colours, areas=areas)

    products = Products(run.out, scratch / "products.json", advance)
    products.need([MAP, STYLE], make_map)
    areas = class_areas(map_path, names)
    _same_areas(map_path, areas, mapped.records)
    products.need([PROBABILITIES], make_probabilities)
    products.need([CONFIDENCE], make_confidence)
    products.need([OBSERVATIONS], lambda: mapped.write_observations(len(names) + 2, "uint8"))
    if conformal:
        products.need([SETS], make_sets)
    products.need([PARQUET, GEOPACKAGE, *([EVENTS_JSON, EVENTS_GEOPACKAGE] if events else [])], make_polygons)
    products.need([AREAS], lambda: write_areas(run.out / AREAS, areas))
    products.need([PREVIEW], make_preview)
    coverage = conformal.coverage if conformal else None
    products.need(
        [ITEM], lambda: mapped.write_item(class_assets(classes, scale, plan.resolution, coverage, events=bool(events)))
    )
    told = {a.name: {"pixels": a.pixels, "hectares": a.hectares, "share": round(a.share, 6)} for a in areas}
    sizes = {"sets": {"coverage": coverage, "sizes": set_sizes(run.out / SETS, len(names))}} if conformal else {}
    return {"areas": told, **sizes}


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
