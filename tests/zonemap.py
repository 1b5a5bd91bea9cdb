"""A small project over two UTM zones: real COGs on both sides of 6 degrees east, and specks that keep it from one zone.

The specks have no imagery: tiles of nodata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import Transformer
from rasters import CRS, Layer, StacScene, write_catalogue
from scipy.ndimage import gaussian_filter
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry
from smallmap import BANDS, small_project

from olmoearth_core.project import Project

ZONES = ["EPSG:32631", "EPSG:32632"]
MERIDIAN, SOUTH = 6.0, 80.0
"""So far north a degree is short, and rasters from speck to speck are small."""
SIZE = 516
"""Edge of the imagery in pixels."""
LEFT, TOP = (
    round(edge / 60) * 60.0
    for edge in Transformer.from_crs("EPSG:4326", CRS, always_xy=True).transform(MERIDIAN - 0.13, SOUTH + 0.043)
)
WHOLE = box(MERIDIAN - 0.108, SOUTH + 0.0005, MERIDIAN + 0.108, SOUTH + 0.0385)
"""About 430 pixels a side, in degrees."""
SPECKS = [box(MERIDIAN + d, SOUTH + 0.01, MERIDIAN + d + 0.0015, SOUTH + 0.0103) for d in (-1.02, 1.02)]


def write_degrees(path: Path, *geometries: BaseGeometry) -> None:
    """Write geometries in degrees as the features of a request."""
    request = {"oe_start_time": "2024-05-01T00:00:00+00:00", "oe_end_time": "2024-07-01T00:00:00+00:00"}
    features = [{"type": "Feature", "properties": request, "geometry": mapping(g)} for g in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def zone_project(folder: Path, **settings: Any) -> Project:
    """A project over two zones with a model of random weights; `settings` as of `small_project`."""
    project = small_project(folder, **{"model": {"patch_size": 8, "window_size": 32}, "overlap": 0.25, **settings})
    scenes = [StacScene(name, day, _layers(seed)) for seed, (name, day) in enumerate((("A", "2024-05-11"), ("B", "2024-06-12")))]  # fmt: skip  # noqa: E501
    write_catalogue(folder / "imagery", scenes)
    write_degrees(folder / "area.geojson", WHOLE, *SPECKS)
    return project


def _layers(seed: int) -> dict[str, Layer]:
    random = np.random.default_rng(seed)
    bands = {}
    for name in BANDS:
        field = gaussian_filter(random.normal(size=(SIZE, SIZE)), 6)
        pixels = (1500 + 1200 * field / field.std()).clip(1, 9000).astype(np.uint16)
        bands[name] = Layer(pixels, left=LEFT, top=TOP)
    return {**bands, "SCL": Layer(np.full((SIZE, SIZE), 4, np.uint8), left=LEFT, top=TOP)}
