"""Patches of some classes told as events: each a point and a box, with its size and how sure the model is of it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from rasterio import Affine
from rasterio.features import rasterize

from olmoearth_core.inference.blend import PROBABILITY_STEPS
from olmoearth_core.postprocess.mosaic import CACHE, NODATA
from olmoearth_core.postprocess.polygons import Layer, write_geopackage
from olmoearth_core.store import write_text

EVENTS_JSON, EVENTS_GEOPACKAGE = "events.geojson", "events.gpkg"
DECIMALS = 7
"""Of degrees: about a centimetre."""


def with_confidence(patches: gpd.GeoDataFrame, confidence: Path) -> gpd.GeoDataFrame:
    """Patches (along pixel edges) with a column more: the mean probability, 0..1, over their pixels.

    Args:
        patches: in the CRS of the map; no two overlap.
        confidence: confidence.tif of the map, read block by block.
    """
    sums, counts = np.zeros(len(patches) + 1), np.zeros(len(patches) + 1, np.int64)
    shapes = patches.geometry.to_numpy()
    tree = shapely.STRtree(shapes)
    with rasterio.Env(GDAL_CACHEMAX=CACHE), rasterio.open(confidence) as source:
        for _, window in source.block_windows(1):
            placed = source.transform @ Affine.translation(window.col_off, window.row_off)
            (left, top), (right, bottom) = placed @ (0, 0), placed @ (window.width, window.height)
            here = np.sort(tree.query(shapely.box(left, bottom, right, top)))
            if not len(here):
                continue
            stored = source.read(1, window=window)
            numbered = rasterize(
                [(shapes[k], int(k) + 1) for k in here],
                stored.shape,
                transform=placed,
                dtype="int32",
            )
            numbered[stored == NODATA] = 0
            sums += np.bincount(numbered.ravel(), stored.ravel(), minlength=len(sums))
            counts += np.bincount(numbered.ravel(), minlength=len(sums))
    mean = sums[1:] / np.maximum(counts[1:], 1) / PROBABILITY_STEPS
    return patches.assign(confidence=np.round(mean, 4))


def write_events(folder: Path, patches: gpd.GeoDataFrame, span: tuple[date, date], day: date, scratch: Path) -> None:
    """Write events.geojson (points in degrees, each with its bbox) and events.gpkg (layers points and boxes).

    Args:
        folder: where to.
        patches: columns class, value, area_m2, confidence.
        span: [start, end) of the imagery.
        day: that the GeoPackage says it was changed on.
        scratch: folder for what is in between.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    points = patches.set_geometry(patches.geometry.representative_point())
    boxes = patches.set_geometry(patches.geometry.envelope)
    write_geopackage(
        folder / EVENTS_GEOPACKAGE, [Layer("points", points, "Point"), Layer("boxes", boxes, "Polygon")], day, scratch
    )
    degrees = points.to_crs("EPSG:4326")
    bounds = patches.to_crs("EPSG:4326").bounds.to_numpy()
    features = [
        {
            "type": "Feature",
            "id": number,
            "bbox": [round(edge, DECIMALS) for edge in bbox.tolist()],
            "properties": {
                "class": row["class"],
                "area_m2": round(row["area_m2"], 1),
                "confidence": row["confidence"],
                "start_datetime": f"{span[0].isoformat()}T00:00:00Z",
                "end_datetime": f"{span[1].isoformat()}T00:00:00Z",
            },
            "geometry": {"type": "Point", "coordinates": [round(point.x, DECIMALS), round(point.y, DECIMALS)]},
        }
        for number, ((_, row), point, bbox) in enumerate(
            zip(patches.iterrows(), degrees.geometry, bounds, strict=True), 1
        )
    ]
    write_text(
        folder / EVENTS_JSON, json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
    )
