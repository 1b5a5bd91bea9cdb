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
from olmoearth_core.postprocess.events import EVENTS_GEOPACKAGE, EVENTS_JSON, write_events
from olmoearth_core.postprocess.item import class_assets
from olmoearth_core.postprocess.mosaic import NODATA, Band, write_mosaic, write_style
from olmoearth_core.postprocess.patches import patches_of
from olmoearth_core.postprocess.polygons import LAYER, Layer, write_flatgeobuf, write_geopackage, write_geoparquet
from olmoearth_core.postprocess.preview import write_preview
from olmoearth_core.postprocess.products import MAP, PREVIEW, STYLE, Mapped, Products, Zone, check_pixels
from olmoearth_core.postprocess.sets import SETS, set_sizes, write_sets
from olmoearth_core.postprocess.tile_index import index_name

PROBABILITIES, AREAS = "probabilities.tif", "areas.csv"
PARQUET, GEOPACKAGE, FLATGEOBUF = "polygons.parquet", "polygons.gpkg", "polygons.fgb"
RASTERS = 4
"""Of each zone; prediction sets are one more."""


def steps(mapped: Mapped) -> int:
    """How many products are made, or found made, one after the other."""
    rasters, zones = RASTERS + (mapped.run.project.config.map.conformal is not None), len(mapped.zones)
    return rasters * zones + zones + 3 + (rasters + 1) * (zones > 1)


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

    def make_map(zone: Zone) -> None:
        path = run.out / zone.named(MAP)
        write_mosaic(path, zone.tiles, [Band("class", 1, colours=colours)], tags=tags, scratch=scratch)
        write_style(run.out / zone.named(STYLE), names, colours)
        _same_areas(path, class_areas([path], names), zone.records)

    def make_probabilities(zone: Zone) -> None:
        bands = [Band(f"probability of {name}", value + 2, scale) for value, name in enumerate(names)]
        path = run.out / zone.named(PROBABILITIES)
        write_mosaic(path, zone.tiles, bands, tags=tags, scratch=scratch)
        check_pixels(path, zone.mapped_pixels, NODATA)

    def make_confidence(zone: Zone) -> None:
        path = run.out / zone.named(CONFIDENCE)
        write_confidence(path, run.out / zone.named(PROBABILITIES), tags, scratch)
        check_pixels(path, zone.mapped_pixels, NODATA)

    def make_polygons() -> None:
        exact, smooth = patches_of(mapped, names, with_sureness=bool(events))
        write_geopackage(run.out / GEOPACKAGE, [Layer(LAYER, smooth)], plan.anchor, scratch)
        write_geoparquet(run.out / PARQUET, smooth)
        write_flatgeobuf(run.out / FLATGEOBUF, smooth, scratch)
        if events:
            chosen = exact[exact["class"].isin(events)]
            write_events(run.out, chosen, (plan.timesteps[0][0], plan.timesteps[-1][1]), plan.anchor, scratch)

    def make_sets(zone: Zone) -> None:
        assert conformal is not None
        assert sets is not None
        unknown = [name for name, least in zip(names, sets.needed(conformal.coverage), strict=True) if least == 0]
        if unknown:
            run.progress.note(
                f"Warning: validation holds too few pixels of {', '.join(unknown)} for sets that hold the truth in "
                f"{conformal.coverage:.0%}: no pixel of {SETS} rules them out."
            )
        path, probabilities = run.out / zone.named(SETS), run.out / zone.named(PROBABILITIES)
        write_sets(path, probabilities, sets, conformal.coverage, names, tags, scratch)
        check_pixels(path, zone.mapped_pixels, NODATA)

    def make_preview() -> None:
        about = {"title": mapped.title, "subtitle": mapped.subtitle, "footer": mapped.identity}
        write_preview(run.out / PREVIEW, maps, **about, colours=colours, areas=areas)

    products = Products(run.out, scratch / "products.json", advance)
    mapped.need_of_zones(products, [MAP, STYLE], make_map)
    maps = [run.out / zone.named(MAP) for zone in mapped.zones]
    if len(maps) > 1:
        style = index_name(MAP).removesuffix(".gpkg") + ".qml"
        products.need([style], lambda: write_style(run.out / style, names, colours))
    areas = class_areas(maps, names)
    mapped.need_of_zones(products, [PROBABILITIES], make_probabilities)
    mapped.need_of_zones(products, [CONFIDENCE], make_confidence)
    mapped.need_observations(products, len(names) + 2, "uint8")
    if conformal:
        mapped.need_of_zones(products, [SETS], make_sets)
    told_events = [EVENTS_JSON, EVENTS_GEOPACKAGE] if events else []
    products.need([PARQUET, GEOPACKAGE, FLATGEOBUF, *told_events], make_polygons)
    products.need([AREAS], lambda: write_areas(run.out / AREAS, areas))
    products.need([PREVIEW], make_preview)
    coverage = conformal.coverage if conformal else None
    mapped.need_items(products, class_assets(classes, scale, plan.resolution, coverage, events=bool(events)))
    told = {a.name: {"pixels": a.pixels, "hectares": a.hectares, "share": round(a.share, 6)} for a in areas}
    if not conformal:
        return {"areas": told}
    sizes = set_sizes([run.out / zone.named(SETS) for zone in mapped.zones], len(names))
    return {"areas": told, "sets": {"coverage": coverage, "sizes": sizes}}


def _same_areas(path: Path, areas: Sequence[ClassArea], records: Sequence[TileRecord]) -> None:
    """Refuse a mosaic that holds other pixels than its tiles: GDAL does not tell of every write that failed."""
    counted = [area.pixels for area in areas]
    expected = [sum(column) for column in zip(*(record.class_pixels for record in records), strict=True)]
    if counted != expected:
        path.unlink()
        raise StoreError(f"{path}: was not written as it should be (is the disk full?). Run the same command again.")
