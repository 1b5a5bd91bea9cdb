"""The Sentinel-2 offset, subtracted exactly once: what a catalogue's metadata says of the values it stores.

Since processing baseline 04.00 (25 January 2022) ESA adds 1000 to every value. Some catalogues store that, some have
subtracted it already, and only an item's metadata tells. In the order of trust:

    1. earthsearch:boa_offset_applied      true: nothing is left to subtract; false: 1000 since baseline 04.00
    2. an offset in the assets' metadata   raster:bands[].offset or raster:offset, in units of scale
    3. the processing baseline             04.00 or later: 1000
    4. none of these                       nothing is subtracted, and the reason says so

Sources: https://sentiwiki.copernicus.eu/web/s2-processing, https://github.com/Element84/earth-search/issues/23.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from olmoearth_core.errors import CatalogueError, WrongProductError

OFFSET = 1000
MOST = 10_000
"""Offsets beyond this are no offsets of reflectance."""
FIRST_BASELINE = 4.0
_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")


def sentinel2_offset(item: dict[str, Any], assets: Iterable[str]) -> tuple[int, str]:
    """What to subtract from the stored values of an item, and which metadata says so.

    Args:
        item: STAC Item as JSON.
        assets: names of its reflectance assets.

    Raises:
        CatalogueError: its assets declare different offsets.
        WrongProductError: they declare one that Sentinel-2 does not have.
    """
    properties = item["properties"]
    baseline = _baseline(item)
    for flag in _FLAGS:
        if isinstance(applied := properties.get(flag), bool):
            if applied:
                return 0, f"{flag} is true"
            return _by_baseline(baseline, f"{flag} is false")
    declared = {value for name in assets if (value := _declared(item["assets"][name])) is not None}
    if len(declared) > 1:
        raise CatalogueError(
            f"item {item['id']}: its bands declare different offsets {sorted(declared)}; allowed is one"
        )
    if declared:
        (value,) = declared
        if not 0 <= value <= MOST:
            raise WrongProductError(
                f"item {item['id']}: its assets declare an offset of {-value}; Sentinel-2 has 0 or -{OFFSET}"
            )
        return value, f"the assets declare an offset of {-value}"
    if baseline is None:
        return 0, "neither an offset nor a processing baseline is given; none is assumed"
    return _by_baseline(baseline, "no offset is declared")


def _by_baseline(baseline: float | None, why: str) -> tuple[int, str]:
    if baseline is None:
        return OFFSET, f"{why}, the processing baseline is not given"
    return OFFSET if baseline >= FIRST_BASELINE else 0, f"{why}, processing baseline {baseline:05.2f}"


def _declared(asset: dict[str, Any]) -> int | None:
    """The offset to subtract that an asset declares, as a whole number of stored units."""
    for holder in holders(asset):
        for prefix in ("", "raster:"):
            offset, scale = holder.get(f"{prefix}offset"), holder.get(f"{prefix}scale", asset.get("raster:scale"))
            if isinstance(offset, int | float):
                stored = -offset / (scale if isinstance(scale, int | float) and scale else 1)
                return round(stored) if math.isfinite(stored) else None
    return None


def holders(asset: dict[str, Any]) -> list[dict[str, Any]]:
    """Where an asset may say something of its values: its bands, under both names that STAC gives them, and itself."""
    listed = [asset.get(key) for key in ("raster:bands", "bands")]
    bands = [band for bands in listed if isinstance(bands, list) for band in bands if isinstance(band, dict)]
    return [*bands, asset]


def _baseline(item: dict[str, Any]) -> float | None:
    properties = item["properties"]
    for key in _BASELINES:
        try:
            return float(properties[key])
        except (KeyError, TypeError, ValueError):
            continue
    # the product's own name carries it: S2A_MSIL2A_20230815T095031_N0509_R079_...
    for name in (properties.get("s2:product_uri"), item.get("id")):
        if isinstance(name, str) and (found := re.search(r"_N(\d{2})(\d{2})_", name)):
            return float(f"{found[1]}.{found[2]}")
    return None
