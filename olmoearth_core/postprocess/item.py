"""A map, or another product, as a STAC Item: where, when, which classes, made of what, the checksum of each file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pystac
import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from olmoearth_core.digest import sha256_file
from olmoearth_core.grid import PixelBox
from olmoearth_core.longitudes import bbox, hull
from olmoearth_core.postprocess.mosaic import NODATA
from olmoearth_core.project import ClassConfig
from olmoearth_core.store import write_json

EXTENSIONS = [
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
]
PROVENANCE = "./provenance.json"
"""Written beside the map once the registry knows it (registry/chain/anchors.py), with the head of its chain."""
MAX_POINTS = 2000
"""An outline with more points than this is told by its convex hull."""


Product = tuple[str, str, list[str], dict[str, Any]]
"""File, title, roles, and further fields of an asset, its media type as "type" among them."""
INDEX_TYPE = {"type": pystac.MediaType.GEOPACKAGE}
OBSERVED = "Number of timesteps that show a pixel"
STYLE: Product = ("map.qml", "Style of the map for QGIS", ["metadata"], {"type": "application/xml"})
PREVIEW: Product = ("preview.png", "Preview", ["overview", "thumbnail"], {"type": pystac.MediaType.PNG})


def map_item(
    folder: Path,
    *,
    map_id: str,
    title: str,
    anchor: date,
    span: tuple[date, date],
    outline: BaseGeometry,
    box: PixelBox,
    assets: Mapping[str, Product],
    provenance: Mapping[str, str],
) -> pystac.Item:
    """Describe the products of a map; as `product_item`, with a link to its provenance.

    Args:
        folder: with the files that the Item names.
        map_id: its id.
        title: for people.
        anchor: the date that the map is for.
        span: [start, end) of the imagery.
        outline: of the area, in degrees.
        box: extent of the rasters.
        assets: key -> product, as `class_assets` or `value_assets` gives them.
        provenance: project, stage key, digest of the weights, as in the tags of the map.
    """
    item = product_item(
        folder,
        identity=map_id,
        title=title,
        anchor=anchor,
        span=span,
        outline=outline,
        box=box,
        assets=assets,
        lineage="Composites of satellite imagery, seen window by window by a fine-tuned encoder, blended where windows "
        "overlap. `olmoearth audit map.tif` tells the scenes, data and model.",
        provenance=provenance,
    )
    item.add_link(pystac.Link("describedby", PROVENANCE, "application/vnd.in-toto+json", "Signed provenance"))
    return item


def product_item(
    folder: Path,
    *,
    identity: str,
    title: str,
    anchor: date,
    span: tuple[date, date],
    outline: BaseGeometry,
    box: PixelBox,
    assets: Mapping[str, Product],
    lineage: str,
    provenance: Mapping[str, str],
) -> pystac.Item:
    """Describe files in `folder`; hrefs are relative to it, no time of making is told.

    Args:
        folder: with the files that the Item names.
        identity: its id.
        title: for people.
        anchor: the date that it is for.
        span: [start, end) of the imagery.
        outline: of what is described, in degrees, within -180 to 180.
        box: extent of the rasters.
        assets: key -> product; its checksum is taken here where its fields do not hold it.
        lineage: how it was made, for people.
        provenance: what it was made of, as properties `olmoearth:<key>`.
    """
    geometry = outline if shapely.get_num_coordinates(outline) <= MAX_POINTS else hull(outline)
    geometry = shapely.orient_polygons(shapely.set_precision(geometry, 1e-7))  # about a centimetre
    item = pystac.Item(
        id=identity,
        geometry=_plain(mapping(geometry)),
        bbox=bbox(geometry),
        datetime=_midnight(anchor),
        start_datetime=_midnight(span[0]),
        end_datetime=_midnight(span[1]) - timedelta(seconds=1),
        properties={
            "title": title,
            "attribution": f"Contains modified Copernicus Sentinel data {_years(span)}",
            "processing:level": "L4",
            "processing:lineage": lineage,
            **_projection(box),
            **{f"olmoearth:{key}": value for key, value in provenance.items()},
        },
        stac_extensions=EXTENSIONS,
    )
    for key, (name, asset_title, roles, fields) in assets.items():
        path = folder / name
        media_type = str(fields["type"])
        told = {name: value for name, value in fields.items() if name != "type"}
        told["file:size"] = path.stat().st_size
        if "file:checksum" not in told:
            told["file:checksum"] = multihash(sha256_file(path))
        item.add_asset(key, pystac.Asset(f"./{name}", asset_title, None, media_type, roles, told))
    return item


def class_assets(
    classes: Sequence[ClassConfig],
    probability_scale: float,
    resolution: float,
    coverage: float | None = None,
    *,
    events: bool = False,
) -> dict[str, Product]:
    """The products of a map of classes.

    Args:
        classes: of the map; a class's position is its value.
        probability_scale: probability of one step of probabilities.tif.
        resolution: of the rasters.
        coverage: of the prediction sets; None where there are none.
        events: whether patches are told as events too.
    """
    raster = _raster("uint8", NODATA, resolution)
    members = [{"name": "classes in the set"}, *({"name": f"may be {c.name}"} for c in classes)]
    title = f"Classes that are not ruled out (sets that should hold the truth in {coverage or 0:.0%})"
    sets: dict[str, Product] = {"sets": ("sets.tif", title, ["data"], {**raster, "bands": members})}
    told_events: dict[str, Product] = {
        "events": ("events.geojson", "Events as points", ["data"], {"type": pystac.MediaType.GEOJSON}),
        "events_gpkg": (
            "events.gpkg",
            "Events as points and boxes (GeoPackage)",
            ["data"],
            {"type": pystac.MediaType.GEOPACKAGE},
        ),
    }
    sure = [{"name": "probability of the class shown", "raster:scale": probability_scale}]
    bands = [{"name": f"probability of {c.name}", "raster:scale": probability_scale} for c in classes]
    return {
        "map": ("map.tif", "Classes", ["data"], {**raster, "classification:classes": _classes(classes)}),
        "style": STYLE,
        "probabilities": ("probabilities.tif", "Probability of each class", ["data"], {**raster, "bands": bands}),
        "confidence": ("confidence.tif", "Probability of the class shown", ["data"], {**raster, "bands": sure}),
        "observations": ("observations.tif", OBSERVED, ["data"], raster),
        **(sets if coverage is not None else {}),
        **(told_events if events else {}),
        "polygons": (
            "polygons.parquet",
            "Patches of equal class (GeoParquet)",
            ["data"],
            {"type": "application/vnd.apache.parquet"},
        ),
        "polygons_gpkg": (
            "polygons.gpkg",
            "Patches of equal class (GeoPackage)",
            ["data"],
            {"type": pystac.MediaType.GEOPACKAGE},
        ),
        "polygons_fgb": (
            "polygons.fgb",
            "Patches of equal class (FlatGeobuf)",
            ["data"],
            {"type": pystac.MediaType.FLATGEOBUF},
        ),
        "areas": ("areas.csv", "Area of each class", ["metadata"], {"type": "text/csv"}),
        "preview": PREVIEW,
    }


def value_assets(
    name: str, unit: str, scale: float, offset: float, nodata: int, resolution: float
) -> dict[str, Product]:
    """The products of a map of measured values; a stored number times `scale` plus `offset` is a value in `unit`."""
    band = {"name": name, "raster:scale": scale, "raster:offset": offset} | ({"unit": unit} if unit else {})
    raster = _raster("uint16", nodata, resolution)
    return {
        "map": ("map.tif", f"Values of {name}", ["data"], {**raster, "bands": [band]}),
        "style": STYLE,
        "observations": ("observations.tif", OBSERVED, ["data"], raster),
        "values": ("values.csv", "Mean and spread over the area", ["metadata"], {"type": "text/csv"}),
        "preview": PREVIEW,
    }


def multihash(sha256: str) -> str:
    """A sha256 as `file:checksum` has it."""
    return f"1220{sha256}"


def _raster(dtype: str, nodata: int, resolution: float) -> dict[str, Any]:
    return {
        "type": pystac.MediaType.COG,
        "data_type": dtype,
        "nodata": nodata,
        "raster:spatial_resolution": resolution,
    }


def write_item(path: Path, item: pystac.Item) -> None:
    """Write the Item as JSON, without links to a place."""
    write_json(path, item.to_dict(include_self_link=False, transform_hrefs=False))


def _projection(box: PixelBox) -> dict[str, Any]:
    from pyproj import CRS

    crs = CRS.from_user_input(box.grid.crs)
    authority = crs.to_authority()
    return {
        **({"proj:code": ":".join(authority)} if authority else {"proj:wkt2": crs.to_wkt()}),
        "proj:shape": list(box.shape),
        "proj:transform": list(box.transform)[:6],
        "proj:bbox": list(box.bounds),
    }


def _classes(classes: Sequence[ClassConfig]) -> list[dict[str, Any]]:
    named = [
        {
            "value": value,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "-", c.name).strip("-") or f"class-{value}",
            "title": c.name,
            "color_hint": c.color[1:].upper(),
        }
        for value, c in enumerate(classes)
    ]
    return [*named, {"value": NODATA, "name": "nodata", "title": "no valid observation", "nodata": True}]


def _years(span: tuple[date, date]) -> str:
    """The years of the imagery in [start, end), as the Copernicus licence asks for them."""
    first, last = span[0].year, (span[1] - timedelta(days=1)).year
    return str(first) if first == last else f"{first}-{last}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _plain(value: Any) -> Any:
    """Tuples to lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
