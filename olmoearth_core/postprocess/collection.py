"""All maps of a project as one STAC Collection, so that a browser of catalogues finds each by place and date."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.longitudes import around
from olmoearth_core.manifest import MANIFEST
from olmoearth_core.postprocess.products import ITEM
from olmoearth_core.project import Project
from olmoearth_core.store import write_json

COLLECTION = "collection.json"
MAX_BOXES = 100
"""Items with more extents than these are told by the extent of all."""


@dataclass(frozen=True)
class Listed:
    """What a Collection says of an Item.

    Attributes:
        href: of the Item, relative to the Collection.
        identity: its id.
        title: for people.
        bbox: west, south, east, north, as GeoJSON has it.
        day: its datetime; this, `start` and `end` as STAC writes times.
        start: of the imagery.
        end: of the imagery.
        stac_version: of the Item.
    """

    href: str
    identity: str
    title: str
    bbox: tuple[float, ...]
    day: str
    start: str
    end: str
    stac_version: str

    @classmethod
    def of(cls, href: str, item: dict[str, Any]) -> Listed:
        """From the JSON of an Item."""
        told = item["properties"]
        times = told["datetime"], told["start_datetime"], told["end_datetime"]
        return cls(href, item["id"], told["title"], tuple(item["bbox"]), *times, item["stac_version"])


def write_collection(project: Project) -> Path | None:
    """Write maps/collection.json over the finished maps of a project; None where there is none.

    Its links are relative: the folder maps/ may be moved, or put on a web server, as a whole.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    folder = project.root / "maps"
    found = sorted(path for path in folder.glob(f"*/{Path(ITEM).stem}*.json") if (path.parent / MANIFEST).exists())
    if not found:
        return None
    listed = [Listed.of(f"./{path.parent.name}/{path.name}", json.loads(path.read_bytes())) for path in found]
    name = project.config.name
    content = collection_of(
        sorted(listed, key=lambda one: (one.day, one.identity)),  # one a map, or one for each of its zones
        identity=name,
        title=f"Maps of {name}",
        description=f"The maps made in the project {name}, each with its classes, provenance and checksums.",
    )
    write_json(folder / COLLECTION, content)
    return folder / COLLECTION


def collection_of(items: Sequence[Listed], *, identity: str, title: str, description: str) -> dict[str, Any]:
    """A STAC Collection over Items, in their order, for a file `COLLECTION` that their hrefs are relative to.

    Args:
        items: at least one.
        identity: its id.
        title: for people.
        description: for people.
    """
    boxes = [item.bbox for item in items]
    start, end = min(item.start for item in items), max(item.end for item in items)
    links = [{"rel": "item", "href": item.href, "type": "application/geo+json", "title": item.title} for item in items]
    return {
        "type": "Collection",
        "stac_version": items[0].stac_version,
        "id": identity,
        "title": title,
        "description": description,
        "license": "other",
        "extent": {
            "spatial": {"bbox": [around(boxes), *(boxes if 1 < len(boxes) <= MAX_BOXES else [])]},
            "temporal": {"interval": [[start, end]]},
        },
        "summaries": {"datetime": {"minimum": start, "maximum": end}} if len(items) > 1 else {},
        "links": [{"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"}, *links],
    }
