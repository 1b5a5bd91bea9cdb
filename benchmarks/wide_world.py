"""A simulated region made wider: its imagery repeated side by side, for areas larger than what is simulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform_geom
from shapely.geometry import mapping, shape

from olmoearth_core.grid import Grid, PixelBox

RIM = 3
"""Pixels between the edge of the imagery and the area, as in the simulated region."""


def widen(world: Path, times: int, assets: tuple[str, ...]) -> None:
    """Repeat the `assets` of each scene of a simulated `world` `times` x `times`; its other assets are dropped.

    Blocks and compression stay as they were, so that reading costs as before. Labels are left where they are.
    """
    whole: PixelBox | None = None
    for path in sorted(world.glob("sentinel-2-l2a/*/*.json")):
        item = json.loads(path.read_text())
        if item["type"] != "Feature":
            continue
        item["assets"] = {name: asset for name, asset in item["assets"].items() if name in assets}
        for asset in item["assets"].values():
            asset["proj:shape"] = [edge * times for edge in asset["proj:shape"]]
            whole = _repeat(path.parent / asset["href"], times, whole)
        assert whole is not None
        item["geometry"] = _in_degrees(whole)
        item["bbox"] = list(shape(item["geometry"]).bounds)
        path.write_text(json.dumps(item))
    assert whole is not None
    area = {"type": "Feature", "properties": {}, "geometry": _in_degrees(whole.pad(-RIM))}
    (world / "area.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))


def _repeat(path: Path, times: int, whole: PixelBox | None) -> PixelBox:
    with rasterio.open(path) as file:
        pixels, profile, bounds = file.read(1), file.profile, file.bounds
    if whole is None:
        width = (bounds.right - bounds.left) * times
        height = (bounds.top - bounds.bottom) * times
        whole = Grid(str(profile["crs"])).around((bounds.left, bounds.top - height, bounds.left + width, bounds.top))
    height, width = (edge * times for edge in pixels.shape)
    with rasterio.open(path, "w", **{**profile, "height": height, "width": width}) as file:
        file.write(np.tile(pixels, (times, times)), 1)
    return whole


def _in_degrees(box: PixelBox) -> dict[str, Any]:
    outline: dict[str, Any] = transform_geom(box.grid.crs, "EPSG:4326", mapping(box.polygon))
    return outline
