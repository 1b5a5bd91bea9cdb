"""A STAC Item as a scene of a modality: which assets are its bands, what its stored values mean, what is refused.

Whatever decides how pixels are read is decided here, once, from the item's metadata, and kept with the scene.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from olmoearth_core.errors import CatalogueError, WrongProductError
from olmoearth_core.imagery.address import join, relative
from olmoearth_core.imagery.catalogue import FoundItem
from olmoearth_core.imagery.harmonise import holders, sentinel2_offset
from olmoearth_core.imagery.modality import Modality
from olmoearth_core.imagery.scene import Scene, Stored
from olmoearth_core.imagery.version import declared_version

Json = dict[str, Any]


def make_scene(found: FoundItem, modality: Modality, catalogue: str) -> Scene | None:
    """The scene that a STAC Item describes; None for an item of another modality.

    Args:
        catalogue: address of the catalogue's file; addresses in the scene are relative to its folder.

    Raises:
        WrongProductError: it is of the right sensor, and of a product that the encoders were not made for.
        CatalogueError: the item contradicts itself or has no readable date.
    """
    item, properties = found.item, found.item["properties"]
    platform = str(properties.get("platform") or properties.get("constellation") or "").lower()
    if platform and not platform.startswith(modality.platforms):
        return None
    named = {band: _first(names, item["assets"]) for band, names in modality.bands.items()}
    names = {band: name for band, name in named.items() if name is not None}
    if not names:
        return None
    stored, offset, reason = _stored(item, modality, list(names.values()))
    mask = None if modality.mask is None else _first(modality.mask.assets, item["assets"])
    west, south, east, north = _flat(item["bbox"])

    def address(asset: str) -> str:
        href = item["assets"][asset]["href"]
        if not isinstance(href, str) or "\0" in href:
            raise WrongProductError(f"item {item['id']}: asset {asset} has the address {href!r}, which is none")
        return relative(join(found.href, href), catalogue)

    return Scene(
        id=str(item["id"]),
        modality=modality.name,
        collection=item.get("collection"),
        datetime=_datetime(item),
        cloud_cover=_per_cent(properties.get("eo:cloud_cover")),
        assets={band: address(name) for band, name in names.items()},
        mask=None if mask is None else address(mask),
        stored=stored,
        offset=offset,
        nodata=_nodata(item, names.values()),
        reason=reason,
        bbox=(west, south, east, north),
        version=declared_version(item, [*names.values(), *([mask] if mask else [])]),
        checksums=_checksums(item, {**names, **({} if mask is None else {"mask": mask})}),
    )


def _checksums(item: Json, assets: Mapping[str, str]) -> dict[str, str]:
    """Multihashes (`file:checksum`) of the assets that tell one."""
    told = {name: item["assets"][asset].get("file:checksum") for name, asset in assets.items()}
    return {name: value for name, value in told.items() if isinstance(value, str) and value}


def _stored(item: Json, modality: Modality, assets: Sequence[str]) -> tuple[Stored, int, str]:
    """What the stored values are, what is to be subtracted from them, and which metadata says so."""
    match modality.name:
        case "sentinel2_l2a":
            offset, reason = sentinel2_offset(item, assets)
            return "numbers", offset, reason
        case "sentinel1":
            stored, reason = _backscatter(item, assets)
            return stored, 0, reason
        case "landsat":
            return "numbers", 0, _level_1(item)
        case name:
            raise WrongProductError(f"item {item['id']}: nothing is known of the stored values of modality '{name}'")


def _backscatter(item: Json, assets: Sequence[str]) -> tuple[Stored, str]:
    """Whether a Sentinel-1 item stores power or decibels.

    Raises:
        WrongProductError: it is not terrain corrected (ground range, GRD), or stores amplitudes.
    """
    kind = str(item["properties"].get("sar:product_type") or "").upper()
    # Planetary Computer's RTC items name the product that they were made of: GRD
    names = (str(item["id"]), str(item.get("collection") or ""), *assets)
    corrected = any("rtc" in name.lower() or name.lower().startswith("gamma0") for name in names)
    if kind in ("GRD", "SLC", "RAW", "OCN") and not corrected:
        raise WrongProductError(
            f"item {item['id']}: is a Sentinel-1 {kind} product, not terrain corrected (RTC): its pixels lie on no map "
            "grid and its backscatter is not gamma nought. Use a collection of RTC scenes, such as sentinel-1-rtc of "
            "the catalogue planetary-computer."
        )
    units = {unit for name in assets for unit in _units(item["assets"][name])}
    if any("amplitude" in unit for unit in units):
        raise CatalogueError(
            f"item {item['id']}: stores amplitudes ({', '.join(sorted(units))}); allowed are power and dB"
        )
    if any(unit in ("db", "decibel", "decibels") for unit in units):
        return "decibels", f"the assets declare the unit {', '.join(sorted(units))}"
    return "power", f"the assets declare {', '.join(sorted(units)) or 'no unit'}: linear power"


def _units(asset: Json) -> Iterable[str]:
    for holder in holders(asset):
        for key in ("unit", "raster:unit"):
            if isinstance(unit := holder.get(key), str):
                yield unit.lower()


def _level_1(item: Json) -> str:
    """Which metadata says that a Landsat item is of Level 1.

    Raises:
        WrongProductError: it is of Level 2, or does not say.
    """
    properties = item["properties"]
    found = {
        key: str(properties[key])
        for key in ("landsat:correction", "landsat:product_level", "processing:level", "landsat:processing_level")
        if properties.get(key)
    }
    found["id"] = str(item["id"])
    found["collection"] = str(item.get("collection") or "")
    for key, value in found.items():
        text = value.upper().replace("-", "").replace("_", " ")
        if any(sign in text for sign in ("L2SP", "L2SR", "C2L2", "LEVEL2")) or text == "L2":
            raise WrongProductError(
                f"item {item['id']}: is Landsat Level 2 ({key}: {value}), surface reflectance. OlmoEarth was trained "
                "on Collection 2 Level 1, whose numbers are others: its normalisation would be wrong. Use a Level 1 "
                "collection, such as landsat-c2l1 of the catalogue usgs."
            )
    for key, value in found.items():
        text = value.upper().replace("-", "").replace("_", " ")
        if any(sign in text for sign in ("L1TP", "L1GT", "L1GS", "C2L1", "LEVEL1")) or text == "L1":
            return f"Level 1, says {key}: {value}"
    raise WrongProductError(
        f"item {item['id']}: does not say whether it is Landsat Level 1 or 2; OlmoEarth takes Level 1 only. "
        "State landsat:correction (L1TP) in the item."
    )


def _first(names: Iterable[str], assets: Json) -> str | None:
    return next((name for name in names if name in assets), None)


def _datetime(item: Json) -> dt.datetime:
    text = item["properties"].get("datetime") or item["properties"]["start_datetime"]
    try:
        moment = dt.datetime.fromisoformat(text)
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (TypeError, ValueError, OverflowError):
        raise CatalogueError(
            f"item {item['id']}: datetime {text!r} is none; allowed is ISO 8601, as in 2024-05-01T10:40:00Z. "
            "Correct the catalogue"
        ) from None


def _flat(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """The four numbers of a bbox, without the heights that STAC allows."""
    west, south, east, north = (bbox[0], bbox[1], bbox[3], bbox[4]) if len(bbox) == 6 else bbox
    return float(west), float(south), float(east), float(north)


def _per_cent(value: Any) -> float | None:
    """A share in per cent; None where it is none (-1 stands for "not computed" in Landsat's items)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return float(value)


def _nodata(item: Json, assets: Iterable[str]) -> float | None:
    """What the assets' metadata declares as nodata, where all that declare one agree on it, and it is not 0."""
    declared = {
        float(holder[key])
        for name in assets
        for holder in holders(item["assets"][name])
        for key in ("nodata", "raster:nodata")
        if isinstance(holder.get(key), int | float)
    }
    return declared.pop() if len(declared) == 1 and 0 not in declared else None
