"""Small real rasters and static STAC catalogues for tests: Cloud Optimized GeoTIFFs on disk, linked by relative paths.

scene = StacScene("A", "2024-05-01", {"B02": Layer(array)}, cloud_cover=10.0)
catalogue = write_catalogue(tmp_path / "imagery", [scene])      # .../imagery/catalog.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_geom
from shapely.geometry import box, mapping, shape

from olmoearth_core.imagery.scene import SceneList
from olmoearth_core.imagery.search import Query, search
from olmoearth_core.progress import Silent

CRS = "EPSG:32631"
LEFT, TOP = 500_040.0, 4_690_020.0
"""Upper left corner of the rasters where none is given: a multiple of 10, 20, 60 and 120 m."""


@dataclass(frozen=True)
class Layer:
    """One asset: pixels (H, W) and where they lie."""

    pixels: NDArray[Any]
    resolution: float = 10.0
    left: float = LEFT
    top: float = TOP
    crs: str = CRS

    @property
    def transform(self) -> Affine:
        return Affine(self.resolution, 0, self.left, 0, -self.resolution, self.top)

    @property
    def footprint(self) -> dict[str, Any]:
        """The outline as GeoJSON in longitude and latitude."""
        height, width = self.pixels.shape
        right, bottom = self.left + width * self.resolution, self.top - height * self.resolution
        outline: dict[str, Any] = transform_geom(
            self.crs, "EPSG:4326", mapping(box(self.left, bottom, right, self.top)), precision=7
        )
        return outline


@dataclass(frozen=True)
class StacScene:
    """One STAC Item; `date` is YYYY-MM-DD (10:40 UTC is added) or a whole ISO time."""

    id: str
    date: str
    layers: Mapping[str, Layer]
    cloud_cover: float | None = 0.0
    properties: Mapping[str, Any] = field(default_factory=dict)
    asset_fields: Mapping[str, Any] = field(default_factory=dict)
    """Added to every asset, e.g. {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}."""


def write_cog(path: Path, layer: Layer, *, nodata: float | None = 0, blocksize: int = 64) -> Path:
    """Write `layer` as a Cloud Optimized GeoTIFF (deflate, square blocks, no overviews)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = layer.pixels.shape
    options = {"compress": "deflate", "blocksize": blocksize, "overviews": "NONE"}
    with rasterio.open(
        path, "w", driver="COG", count=1, height=height, width=width, dtype=layer.pixels.dtype,
        crs=layer.crs, transform=layer.transform, nodata=nodata, **options,
    ) as target:  # fmt: skip
        target.write(layer.pixels, 1)
    return path


def stac_item(scene: StacScene, hrefs: Mapping[str, str], collection: str = "test") -> dict[str, Any]:
    """The STAC 1.0 Item of `scene` as JSON; `hrefs` says where each layer's file is."""
    outline = next(iter(scene.layers.values())).footprint
    properties = {
        "datetime": scene.date if "T" in scene.date else f"{scene.date}T10:40:00Z",
        **({} if scene.cloud_cover is None else {"eo:cloud_cover": scene.cloud_cover}),
        **scene.properties,
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": scene.id,
        "geometry": outline,
        "bbox": list(shape(outline).bounds),
        "properties": properties,
        "collection": collection,
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
        ],
        "assets": {name: {"href": hrefs[name], "type": "image/tiff", **scene.asset_fields} for name in scene.layers},
    }


def write_catalogue(folder: Path, scenes: Sequence[StacScene], *, blocksize: int = 64) -> Path:
    """Write a static STAC catalogue with every scene's COGs; return the path of its catalog.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        for name, layer in scene.layers.items():
            write_cog(folder / scene.id / f"{name}.tif", layer, blocksize=blocksize)
        item = stac_item(scene, {name: f"./{name}.tif" for name in scene.layers})
        (folder / scene.id / f"{scene.id}.json").write_text(json.dumps(item, indent=1))
    links = [{"rel": "item", "href": f"./{s.id}/{s.id}.json", "type": "application/geo+json"} for s in scenes]
    catalogue = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "test",
        "description": "A small catalogue for tests.",
        "links": [{"rel": "root", "href": "./catalog.json", "type": "application/json"}, *links],
    }
    path = folder / "catalog.json"
    path.write_text(json.dumps(catalogue, indent=1))
    return path


SENTINEL2_RESOLUTIONS = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10.0),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), 20.0),
    **dict.fromkeys(("B01", "B09"), 60.0),
}


def sentinel2_layers(
    seed: int = 0,
    *,
    size: float = 960.0,
    bands: Sequence[str] = tuple(SENTINEL2_RESOLUTIONS),
    left: float = LEFT,
    top: float = TOP,
    crs: str = CRS,
    nodata: float = 0.0,
    cloud: float = 0.0,
) -> dict[str, Layer]:
    """Random Sentinel-2 assets of `size` metres (a multiple of 60) at their native resolutions.

    Args:
        nodata: share of band pixels that are 0.
        cloud: share of SCL pixels that are cloud (9); the others are vegetation (4).
    """
    random = np.random.default_rng(seed)
    layers = {}
    for name in bands:
        resolution = SENTINEL2_RESOLUTIONS[name]
        edge = round(size / resolution)
        chance = random.random((edge, edge))
        if name == "SCL":
            pixels = np.where(chance < cloud, 9, 4).astype(np.uint8)
        else:
            pixels = random.integers(1, 10_000, (edge, edge)).astype(np.uint16)
            pixels[chance < nodata] = 0
        layers[name] = Layer(pixels, resolution, left, top, crs)
    return layers


def open_scenes(catalogue: Path, modalities: Sequence[str] = ("sentinel2_l2a",)) -> SceneList:
    """Every scene of a static catalogue, as a search would find it."""
    query = Query(
        catalogue=catalogue.name,
        collections=(),
        modalities=tuple(modalities),
        area=box(-180, -90, 180, 90),
        spans=((date(2000, 1, 1), date(2100, 1, 1)),),
        max_cloud_cover=100.0,
    )
    return search(query, catalogue.parent, Silent())


def small(left: float = LEFT) -> dict[str, Layer]:
    """A band and the scene classification of a square of 960 m, all clear."""
    return {"B02": Layer(np.ones((96, 96), np.uint16), left=left), "SCL": Layer(np.full((48, 48), 4, np.uint8), 20.0)}


def edit_item(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an Item of a catalogue that `write_catalogue` wrote."""
    path = folder / name / f"{name}.json"
    item = json.loads(path.read_text())
    change(item)
    path.write_text(json.dumps(item))
