"""The products of a map of measured values: mosaic, table of values, preview, STAC Item."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio
from matplotlib import colormaps
from matplotlib.colors import to_hex

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import areal_scale
from olmoearth_core.inference.blend import NO_VALUE, VALUE_STEPS
from olmoearth_core.inference.plan import PlannedModel
from olmoearth_core.inference.product import value_scale
from olmoearth_core.postprocess.item import value_assets
from olmoearth_core.postprocess.mosaic import Band, blocks, write_mosaic
from olmoearth_core.postprocess.preview import RAMP, write_value_preview
from olmoearth_core.postprocess.products import MAP, PREVIEW, STYLE, Mapped, Products, Zone, check_pixels
from olmoearth_core.postprocess.tile_index import index_name
from olmoearth_core.store import write_text

VALUES = "values.csv"
PERCENTILES = (0, 2, 25, 50, 75, 98, 100)


def steps(mapped: Mapped) -> int:
    """How many products are made, or found made, one after the other."""
    zones = len(mapped.zones)
    return 3 * zones + 2 + 3 * (zones > 1)


def make_value_products(mapped: Mapped, advance: Callable[[int], None]) -> dict[str, Any]:
    """Make what is not finished yet; the stage's summary.

    Raises:
        StoreError: the disk is full; products that are finished are kept.
        MappingError: the tiles hold other values than the project's.
    """
    run, model = mapped.run, mapped.plan.model
    task = run.project.config.task
    if (model.name, model.unit, model.range) != (task.name, task.unit, task.range):
        raise MappingError(
            f"{run.upstream['infer'].folder}: the tiles hold {model.name} {model.range} {model.unit}, but task in "
            f"project.yaml is {task.name} {task.range} {task.unit}. Run `olmoearth infer` again."
        )
    scale, offset = value_scale(model)
    tags = mapped.tags | {"OLMOEARTH_VALUES": model.name, "OLMOEARTH_UNIT": model.unit}

    def make_map(zone: Zone) -> None:
        path, band = run.out / zone.named(MAP), Band(model.name, 1, scale, offset=offset, dtype="uint16")
        write_mosaic(path, zone.tiles, [band], tags=tags, scratch=run.scratch)
        _write_style(run.out / zone.named(STYLE), model)
        check_pixels(path, zone.mapped_pixels, NO_VALUE)

    def make_preview() -> None:
        about = {"title": mapped.title, "subtitle": mapped.subtitle, "footer": mapped.identity}
        write_value_preview(run.out / PREVIEW, maps, **about, unit=model.unit, limits=_limits(table, model))

    products = Products(run.out, run.scratch / "products.json", advance)
    mapped.need_of_zones(products, [MAP, STYLE], make_map)
    maps = [run.out / zone.named(MAP) for zone in mapped.zones]
    if len(maps) > 1:
        style = index_name(MAP).removesuffix(".gpkg") + ".qml"
        products.need([style], lambda: _write_style(run.out / style, model, stored=True))
    table = value_table(maps)
    mapped.need_observations(products, 2, "uint16")
    products.need([VALUES], lambda: _write_table(run.out / VALUES, table, model.unit))
    products.need([PREVIEW], make_preview)
    assets = value_assets(model.name, model.unit, scale, offset, NO_VALUE, mapped.plan.resolution)
    mapped.need_items(products, assets)
    return {"values": {"unit": model.unit, **table}}


def value_table(paths: Sequence[Path]) -> dict[str, Any]:
    """What a map of values, one file a zone, comes to: pixels, hectares, and (None where nothing is mapped) mean, std
    and percentiles.

    Mean and std are over the ground: each block's pixels count by the areal scale of the CRS in the block's middle.
    """
    counts, square_metres = np.zeros(NO_VALUE + 1, np.int64), np.zeros(NO_VALUE + 1)
    for path in paths:
        with rasterio.open(path) as source:
            crs, pixel = source.crs, abs(source.transform.a * source.transform.e)
            scale, offset = source.scales[0], source.offsets[0]
        for block, (x, y) in blocks(path):
            here = np.bincount(block.ravel(), minlength=NO_VALUE + 1)
            counts += here
            square_metres += here * pixel / areal_scale(crs, np.array([x]), np.array([y]))
    counts, square_metres = counts[:-1], square_metres[:-1]  # the last is nodata
    table: dict[str, Any] = {"pixels": int(counts.sum()), "hectares": round(float(square_metres.sum()) / 1e4, 4)}
    if not counts.any():
        return table | dict.fromkeys(["mean", "std", *(f"p{p}" for p in PERCENTILES)])
    value = np.arange(len(counts)) * scale + offset
    mean = float((square_metres * value).sum() / square_metres.sum())
    spread = float((square_metres * (value - mean) ** 2).sum() / square_metres.sum()) ** 0.5
    rank = np.maximum(np.array(PERCENTILES) / 100 * counts.sum(), 1)
    found = value[np.searchsorted(np.cumsum(counts), rank)]
    told = {f"p{p}": float(f"{v:.6g}") for p, v in zip(PERCENTILES, found.tolist(), strict=True)}
    return table | {"mean": float(f"{mean:.6g}"), "std": float(f"{spread:.6g}"), **told}


def _write_table(path: Path, table: dict[str, Any], unit: str) -> None:
    """Write values.csv: statistic, value, unit; p50 is the median, p0 and p100 the least and largest value."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["statistic", "value", "unit"])
    units = {"pixels": "", "hectares": "ha"}
    for name, value in table.items():
        rows.writerow([name, "" if value is None else value, units.get(name, unit)])
    write_text(path, text.getvalue())


def _limits(table: dict[str, Any], model: PlannedModel) -> tuple[float, float]:
    """The values that the picture's colours run between: nearly all that the map holds."""
    assert model.range is not None
    low, high = table["p2"], table["p98"]
    return model.range if low is None or low >= high else (low, high)


def _write_style(path: Path, model: PlannedModel, *, stored: bool = False) -> None:
    """Write a QGIS style: colours over the range, with the values as labels; of a tile index, over `stored` numbers."""
    assert model.range is not None
    low, high = model.range
    first, last = (0, VALUE_STEPS) if stored else model.range
    steps = np.linspace(0, 1, 11)
    items = "".join(
        f'<item value="{first + step * (last - first):.10g}" color="{to_hex(colormaps[RAMP](step))}" alpha="255" '
        f"label={quoteattr(f'{low + step * (high - low):.4g} {model.unit}'.strip())}/>"
        for step in steps.tolist()
    )
    write_text(
        path,
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        f'<qgis version="3.28"><pipe><rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
        f'classificationMin="{first:.10g}" classificationMax="{last:.10g}"><rastershader>'
        f'<colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0">{items}</colorrampshader>'
        "</rastershader></rasterrenderer></pipe></qgis>\n",
    )
