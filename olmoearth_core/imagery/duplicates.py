"""Items that show the same: copies, reprocessed versions, and the tiles of one overpass.

Catalogues keep what was processed anew beside what it replaces, cut one overpass into tiles that overlap, and list some
items twice. One look at the ground must count once: copies and older versions are dropped, with the reason told; tiles
of one overpass are all kept, as each adds ground, and share an `acquisition`, so that a pixel in two of them is one
observation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olmoearth_core.imagery.footprint import footprint_of

Json = dict[str, Any]

_TILE_KEYS = ("grid:code", "s2:mgrs_tile", "mgrs:tile")
_PRODUCT = re.compile(
    # S2B_MSIL2A_20240505T104619_N0510_R051_T31TDH_20240505T135421: satellite, sensing of the datatake, baseline, orbit,
    # tile, and when it was processed (or which part of a tile it is, where a datatake is cut within one)
    r"(?P<satellite>S2[A-D])_MSI(?P<level>L[12][AC])_(?P<sensed>\d{8}T\d{6})_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})_T(?P<tile>\w{5})"
    r"_(?P<made>\d{8}T\d{6})"
)
_STRIP = re.compile(r"_S(\d{8}T\d{6})_")
"""In the name of a datastrip: the start of its sensing."""
SAME_GROUND = 0.5
"""Share of the smaller footprint that versions of one item have in common; parts of a tile that was cut have less."""
_DATATAKE = re.compile(r"GS(?P<satellite>2[A-D])_(?P<sensed>\d{8}T\d{6})_")


@dataclass(frozen=True)
class Dropped:
    """An item that is not used, and why."""

    item: str
    reason: str

    def to_json(self) -> Json:
        """JSON values."""
        return {"item": self.item, "reason": self.reason}


def acquisition_of(item: Json) -> str:
    """What names the overpass that an item is a part of: satellite and start of its datatake; empty where unknown.

    Read from `s2:datatake_id` or the product's name (Sentinel-2), `sat:absolute_orbit` (Sentinel-1), or WRS path and
    day (Landsat: the scenes along one path).
    """
    properties = item["properties"]
    if found := _DATATAKE.match(str(properties.get("s2:datatake_id", ""))):
        return f"S{found['satellite']}_{found['sensed']}"
    if found := _product(item):
        return f"{found['satellite']}_{found['sensed']}"
    satellite = str(properties.get("platform", "")).lower()
    if satellite and (orbit := properties.get("sat:absolute_orbit")) is not None:
        return f"{satellite}_orbit{orbit}"
    day = _moment(item)[:10]
    if satellite and day and (path := properties.get("landsat:wrs_path")) is not None:
        return f"{satellite}_path{path}_{day}"
    return ""


def without_duplicates(items: Sequence[Json]) -> tuple[list[Json], list[Dropped]]:
    """The items that are left when each look at each tile is there once, in their order; and the others, with why.

    Of several versions the one of the newest processing baseline stays, then the one made last, then the last by name.
    Items are versions of each other that agree in satellite, tile, start of sensing and ground; what does not say its
    tile is compared by orbit, time and footprint, and what does not say its orbit by name. Of items that share a name
    and nothing else the first stays.
    """
    looks: dict[tuple[str, ...], list[Json]] = {}
    dropped = []
    for item in items:
        same = looks.setdefault(_look(item), [])
        other = next((known for known in same if known["id"] == item["id"] or _same_ground(known, item)), None)
        if other is None:
            same.append(item)
            continue
        newer, older = (item, other) if _version(item) > _version(other) else (other, item)
        same[same.index(other)] = newer
        dropped.append(Dropped(str(older["id"]), _reason(older, newer)))
    kept = {id(item) for same in looks.values() for item in same}
    left, names = [], set()
    for item in items:
        if id(item) in kept and item["id"] in names:
            dropped.append(Dropped(str(item["id"]), "has the name of another item that is used; correct the catalogue"))
        elif id(item) in kept:
            names.add(item["id"])
            left.append(item)
    return left, sorted(dropped, key=lambda drop: (drop.item, drop.reason))


def _look(item: Json) -> tuple[str, ...]:
    """What two items have in common that may show the same ground at the same moment."""
    properties = item["properties"]
    product = _product(item)
    tile = product["tile"] if product else next((str(properties[k]) for k in _TILE_KEYS if properties.get(k)), "")
    overpass = acquisition_of(item)
    if tile and overpass:
        level = product["level"] if product else str(properties.get("processing:level", ""))
        strip = _STRIP.search(str(properties.get("s2:datastrip_id", "")))
        return "tile", tile.removeprefix("MGRS-").removeprefix("T"), overpass, level, strip[1] if strip else ""
    if scene := str(properties.get("landsat:scene_id") or ""):
        # LC80390352023123LGN00: satellite, path, row and day; then the station and its version of the scene
        return "landsat", scene[:16], str(item.get("collection"))
    if overpass:
        footprint = ",".join(f"{float(edge):.4f}" for edge in item["bbox"])
        return "place", str(item.get("collection")), overpass, _moment(item), footprint, _kind(item)
    return "name", str(item["id"]), _moment(item)


def _same_ground(one: Json, other: Json) -> bool:
    first, second = (footprint_of(item) for item in (one, other))
    smaller = min(first.area, second.area)
    return smaller == 0 or bool(first.intersection(second).area >= SAME_GROUND * smaller)


def _kind(item: Json) -> str:
    """The names of the assets: radar in two polarisations and in one, of one moment, are not versions."""
    return ",".join(sorted(item["assets"]))


def _version(item: Json) -> tuple[str, str, str]:
    """Sorts versions, the one to keep last: processing baseline, then when it was made, then its name."""
    properties = item["properties"]
    baseline = properties.get("s2:processing_baseline") or properties.get("processing:version")
    product = _product(item)
    if not baseline and product:
        baseline = f"{product['baseline'][:2]}.{product['baseline'][2:]}"
    made = product["made"] if product else ""
    stamp = "".join(c for c in str(properties.get("created") or properties.get("updated") or "") if c.isdigit())
    return str(baseline or ""), "".join(c for c in made if c.isdigit()) or stamp, str(item["id"])


def _reason(older: Json, newer: Json) -> str:
    if older["id"] == newer["id"]:
        return "listed more than once"
    one, other = _version(older), _version(newer)
    if one[0] != other[0]:
        return f"processed again: {newer['id']} has baseline {other[0]}, this one {one[0] or 'none'}"
    if one[1] != other[1]:
        return f"processed again: {newer['id']} was made later"
    return f"shows the same as {newer['id']}"


def _product(item: Json) -> re.Match[str] | None:
    """The parts of the product's name, where the item says it."""
    properties = item["properties"]
    for name in (properties.get("s2:product_uri"), properties.get("title"), item.get("id")):
        if found := _PRODUCT.match(str(name or "")):
            return found
    return None


def _moment(item: Json) -> str:
    properties = item["properties"]
    return str(properties.get("datetime") or properties.get("start_datetime") or "")
