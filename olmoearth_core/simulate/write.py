"""Making a small region with known truth, written the way a partner would hand over a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from shapely import set_precision
from shapely.geometry import mapping

from olmoearth_core.errors import CoreError
from olmoearth_core.grid import Grid
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.simulate.land import CLASSES, Land, draw_land
from olmoearth_core.simulate.noise import stream
from olmoearth_core.simulate.scene import COLLECTION, acquire, nominal_moments, write_scene
from olmoearth_core.simulate.season import draw_season
from olmoearth_core.simulate.world import GRID, World, region
from olmoearth_core.store import disk_errors, publish_folder, write_json

_VERSION = 2
"""Raised when the same arguments make another world."""
_RIM = 3
"""Pixels between the edge of the imagery and the area: an area in degrees does not quite follow the grid."""


def simulate_world(
    folder: Path,
    *,
    size: int = 384,
    seed: int = 0,
    year: int = 2023,
    every: int = 10,
    surveyed: float = 0.5,
    progress: Progress | None = None,
) -> World:
    """Write a simulated region into `folder`, or find it there when it was made from the same arguments.

    Leaves `catalog.json` (static STAC catalogue of Sentinel-2 L2A COGs, relative links, values with the offset of 1000
    that ESA adds since 2022), `labels/fields.geojson`, `area.geojson`, `truth.tif` and `world.json`. The same arguments
    give the same bytes.

    Args:
        folder: where to; a world already there is replaced, anything else is left alone.
        size: edge of the region in pixels of 10 m, a multiple of 6, so that the 60 m bands fit.
        seed: another seed is another region.
        year: of the imagery and the labels.
        every: days between two scenes.
        surveyed: share of the fields that the partner has visited.
        progress: listener for the scenes written.

    Raises:
        ValueError: a size that does not fit the 60 m bands.
        CoreError: `folder` holds something that is not a simulated world.
        StoreError: the disk is full.
    """
    if size % 6 or not 96 <= size <= 510:
        raise ValueError(f"size {size} is not allowed: a multiple of 6 from 96 to 510, because of the 60 m bands")
    world = World(folder.resolve())
    about = {"version": _VERSION, "size": size, "seed": seed, "year": year, "every": every, "surveyed": surveyed}
    if world.folder.exists() and any(world.folder.iterdir()):
        if not (world.folder / "world.json").is_file():
            raise CoreError(f"{folder}: holds something that is no simulated world. Name an empty folder.")
        if world.about == about:
            return world
    work = World(world.folder.with_name(f".{world.folder.name}.simulating"))
    try:
        with disk_errors(folder):
            _write(work, about, progress or Silent())
    except BaseException:
        shutil.rmtree(work.folder, ignore_errors=True)
        raise
    publish_folder(work.folder, world.folder, world.folder.with_name(f".{world.folder.name}.old"))
    return World(world.folder)


def _write(world: World, about: dict[str, Any], progress: Progress) -> None:
    shutil.rmtree(world.folder, ignore_errors=True)
    seed, year = about["seed"], about["year"]
    box = region(about["size"])
    land = draw_land(box, stream(seed, "land"))
    season = draw_season(land, stream(seed, "season"))

    catalogue = pystac.Catalog(
        "simulated", "A simulated region near Toulouse with known truth.", title="Simulated region"
    )
    moments = nominal_moments(year, about["every"])
    items = []
    with progress.bar("Simulate scenes", len(moments)) as advance:
        for moment in moments:
            bands, classes = acquire(season, moment, stream(seed, "scene", moment.isoformat()))
            place = world.folder / COLLECTION / f"S2_simulated_{moment:%Y%m%d}"
            items.append(write_scene(place, box, moment, bands, classes))
            advance(1)
    extent = pystac.Extent(pystac.SpatialExtent([items[0].bbox]), pystac.TemporalExtent([[moments[0], moments[-1]]]))
    collection = pystac.Collection(
        COLLECTION, f"Simulated Sentinel-2 L2A, {year}.", extent, title="Sentinel-2 L2A", license="CC0-1.0"
    )
    collection.add_items(items)
    catalogue.add_child(collection)
    catalogue.normalize_hrefs(str(world.catalogue))  # the file: pystac takes a folder with a dot for one
    catalogue.make_all_asset_hrefs_relative()
    catalogue.save(pystac.CatalogType.SELF_CONTAINED)

    _write_truth(world.truth, land)
    _write_geojson(world.labels, _survey(land, about))
    _write_geojson(world.area, [({"name": "simulated"}, box.pad(-_RIM).polygon)])
    write_json(world.folder / "world.json", about)


def _survey(land: Land, about: dict[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """The fields a partner visited, of each class alike; outlines keep 5 m from the border, as is good custom."""
    rng = stream(about["seed"], "survey")
    chosen: list[int] = []
    for kind in range(len(CLASSES)):
        fields = rng.permutation(np.flatnonzero(land.kind == kind))
        chosen += [int(f) for f in fields[: max(2, round(about["surveyed"] * len(fields)))]]
    year = about["year"]
    span = {"start_datetime": f"{year}-01-01T00:00:00Z", "end_datetime": f"{year}-12-31T23:59:59Z"}
    outlines = [(index, land.parcels[index].buffer(-5.0, join_style="mitre")) for index in sorted(chosen)]
    return [
        ({"class": CLASSES[land.kind[i]].name, **span}, o)
        for i, o in outlines
        if o.geom_type == "Polygon" and o.area > 0
    ]


def _write_truth(path: Path, land: Land) -> None:
    height, width = land.box.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype="uint8",
        crs=land.box.grid.crs,
        transform=land.box.transform,
        nodata=255,
        compress="deflate",
    ) as file:
        file.write(land.truth, 1)


def _write_geojson(path: Path, features: list[tuple[dict[str, Any], Any]]) -> None:
    degrees = Grid("EPSG:4326", 1.0)
    write_json(
        path,
        {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "id": number,
                    "properties": properties,
                    "geometry": mapping(set_precision(degrees.project(outline, GRID.crs), 1e-7)),
                }
                for number, (properties, outline) in enumerate(features, 1)
            ],
        },
    )
