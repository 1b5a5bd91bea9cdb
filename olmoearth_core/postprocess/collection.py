"""All maps of a project as one STAC Collection, so that a browser of catalogues finds each by place and date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from olmoearth_core.longitudes import around
from olmoearth_core.manifest import MANIFEST
from olmoearth_core.postprocess.products import ITEM
from olmoearth_core.project import Project
from olmoearth_core.store import write_json

COLLECTION = "collection.json"


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
    places = {path: json.loads(path.read_bytes()) for path in found}  # one a map, or one for each of its zones
    places = dict(sorted(places.items(), key=lambda one: (one[1]["properties"]["datetime"], one[1]["id"])))
    items: list[dict[str, Any]] = list(places.values())
    boxes = [item["bbox"] for item in items]
    whole = around(boxes)
    starts = [item["properties"]["start_datetime"] for item in items]
    ends = [item["properties"]["end_datetime"] for item in items]
    name = project.config.name
    links = [
        {
            "rel": "item",
            "href": f"./{path.parent.name}/{path.name}",
            "type": "application/geo+json",
            "title": item["properties"]["title"],
        }
        for path, item in places.items()
    ]
    content = {
        "type": "Collection",
        "stac_version": items[0]["stac_version"],
        "id": name,
        "title": f"Maps of {name}",
        "description": f"The maps made in the project {name}, each with its classes, provenance and checksums.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [whole, *boxes] if len(boxes) > 1 else [whole]},
            "temporal": {"interval": [[min(starts), max(ends)]]},
        },
        "summaries": {"datetime": {"minimum": starts[0], "maximum": max(ends)}} if len(items) > 1 else {},
        "links": [{"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"}, *links],
    }
    write_json(folder / COLLECTION, content)
    return folder / COLLECTION
