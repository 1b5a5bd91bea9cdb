"""What all products of a map share: which map it is, its tiles, and what is finished already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import StoreError
from olmoearth_core.grid import PixelBox
from olmoearth_core.inference.area import Area, load_areas
from olmoearth_core.inference.plan import Plan
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.inference.zones import Strip
from olmoearth_core.postprocess.item import INDEX_TYPE, Product, map_item, write_item
from olmoearth_core.postprocess.mosaic import Band, blocks, write_mosaic
from olmoearth_core.postprocess.tile_index import index_name, write_index
from olmoearth_core.stage import StageRun
from olmoearth_core.stages import map_id
from olmoearth_core.store import write_json

MAP, STYLE, ITEM, PREVIEW = "map.tif", "map.qml", "item.json", "preview.png"
OBSERVATIONS = "observations.tif"


@dataclass(frozen=True)
class Zone:
    """The part of a map on one grid.

    Attributes:
        crs: of the grid.
        only: it is the whole map.
        tiles: file -> what it covers.
        records: of the tiles.
        box: extent of its rasters.
        strip: where others go on in a neighbouring zone, the longitudes that are this one's.
    """

    crs: str
    only: bool
    tiles: dict[Path, PixelBox]
    records: Sequence[TileRecord]
    box: PixelBox
    strip: Strip | None

    def named(self, file: str) -> str:
        """A file of this zone: map.tif, or map_32631.tif where there are others."""
        path = Path(file)
        return file if self.only else f"{path.stem}_{self.code}{path.suffix}"

    @property
    def code(self) -> str:
        """The zone in names of files."""
        return self.crs.rsplit(":", 1)[-1].lower()

    @property
    def mapped_pixels(self) -> int:
        """Pixels that have a class or value."""
        return sum(record.mapped_pixels for record in self.records)


@dataclass(frozen=True)
class Mapped:
    """A map in the making.

    Attributes:
        run: of the stage postprocess.
        plan: of the tiles.
        records: of the tiles, each compared with its file.
    """

    run: StageRun
    plan: Plan
    records: Sequence[TileRecord]

    @property
    def identity(self) -> str:
        """The map's id."""
        return map_id(self.run.project, self.run.key)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.run.project.config.name}, {self.plan.anchor.isoformat()}"

    @property
    def subtitle(self) -> str:
        """Which imagery it was made from."""
        first, last = self.plan.timesteps[0][0], self.plan.timesteps[-1][1] - timedelta(days=1)
        days = f"of {first}" if first == last else f"from {first} to {last}"
        return f"Imagery {days}, {', '.join(self.plan.zones)}, {self.plan.resolution:g} m"

    @property
    def provenance(self) -> dict[str, str]:
        """What tags and STAC Item say of where it came from."""
        weights = self.plan.model.weights_sha256
        return {"project": self.run.project.config.name, "provenance": self.run.key, "model": weights}

    @property
    def tags(self) -> dict[str, str]:
        """Metadata of the map's files."""
        named = {f"OLMOEARTH_{key.upper()}": value for key, value in self.provenance.items()}
        return {"OLMOEARTH_MAP_ID": self.identity, **named}

    @cached_property
    def areas(self) -> tuple[Area, ...]:
        """What was mapped, zone by zone."""
        config = self.run.project.config
        source = config.map.area
        return load_areas(self.run.files[source], source, crs=config.imagery.crs, resolution=self.plan.resolution)

    @cached_property
    def zones(self) -> list[Zone]:
        """The grids of the map."""
        plan, folder = self.plan, self.run.upstream["infer"].folder
        records = {tile.name: record for tile, record in zip(plan.tiles, self.records, strict=True)}
        strips = {area.grid.crs: area.strip for area in self.areas}
        return [
            Zone(
                crs,
                len(plan.zones) == 1,
                {folder / f"{tile.name}.tif": plan.box(tile) for tile in plan.tiles_of(crs)},
                [records[tile.name] for tile in plan.tiles_of(crs)],
                plan.bounds(crs),
                strips.get(crs),
            )
            for crs in plan.zones
        ]

    @property
    def mapped_pixels(self) -> int:
        """Pixels that have a class or value."""
        return sum(record.mapped_pixels for record in self.records)

    def need_of_zones(self, products: Products, names: Sequence[str], make: Callable[[Zone], None]) -> None:
        """Have products made zone by zone; of several zones a tile index over each raster as well."""
        for zone in self.zones:
            products.need([zone.named(name) for name in names], partial(make, zone))
        if len(self.zones) == 1:
            return
        for raster in (name for name in names if name.endswith(".tif")):
            paths = [self.run.out / zone.named(raster) for zone in self.zones]
            index = self.run.out / index_name(raster)
            products.need([index.name], partial(write_index, index, paths, self.plan.anchor, self.run.scratch))

    def need_observations(self, products: Products, source: int, dtype: str) -> None:
        """Have it told how many timesteps show each pixel of the area; the band `source` of the tiles, of `dtype`.

        Raises:
            StoreError: the disk is full, or the place cannot be written.
        """
        band = Band("observations", source, dtype=dtype)

        def make(zone: Zone) -> None:
            path = self.run.out / zone.named(OBSERVATIONS)
            write_mosaic(path, zone.tiles, [band], tags=self.tags, scratch=self.run.scratch)
            check_pixels(path, sum(record.area_pixels for record in zone.records), band.nodata)

        self.need_of_zones(products, [OBSERVATIONS], make)

    def need_items(self, products: Products, assets: dict[str, Product]) -> None:
        """Have a STAC Item written of each zone; what is of all zones is an asset of each."""
        plan = self.plan
        outlines = {area.grid.crs: area.outline for area in self.areas}

        def make(zone: Zone) -> None:
            item = map_item(
                self.run.out,
                map_id=self.identity if zone.only else f"{self.identity}-{zone.code}",
                title=self.title if zone.only else f"{self.title}, {zone.crs}",
                anchor=plan.anchor,
                span=(plan.timesteps[0][0], plan.timesteps[-1][1]),
                outline=outlines[zone.crs],
                box=zone.box,
                assets=assets if zone.only else _of_zone(assets, zone),
                provenance={"map_id": self.identity, **self.provenance},
            )
            write_item(self.run.out / zone.named(ITEM), item)

        for zone in self.zones:
            products.need([zone.named(ITEM)], partial(make, zone))


def _of_zone(assets: dict[str, Product], zone: Zone) -> dict[str, Product]:
    """The products of one zone, and the index over all zones' rasters beside each."""
    told: dict[str, Product] = {}
    for key, (name, title, roles, fields) in assets.items():
        of_zone = name.endswith((".tif", ".qml"))
        told[key] = (zone.named(name) if of_zone else name, title, roles, fields)
        if name.endswith(".tif"):
            told[f"{key}_index"] = (index_name(name), f"{title}: all zones (GDAL tile index)", ["data"], INDEX_TYPE)
    return told


def check_pixels(path: Path, expected: int, nodata: int) -> None:
    """Refuse a mosaic that does not hold as many pixels as it should: GDAL does not tell of every write that failed.

    Raises:
        StoreError: the file, which is gone then.
    """
    if sum(int((block != nodata).sum()) for block, _ in blocks(path)) != expected:
        path.unlink()
        raise StoreError(f"{path}: was not written as it should be (is the disk full?). Run the same command again.")


class Products:
    """Makes what is not finished yet; a journal of checksums tells what is, also after a kill."""

    def __init__(self, folder: Path, journal: Path, advance: Callable[[int], None]) -> None:
        self._folder, self._journal, self._advance = folder, journal, advance
        self._finished: dict[str, str] = json.loads(journal.read_bytes()) if journal.exists() else {}

    def need(self, names: Sequence[str], make: Callable[[], None]) -> None:
        """Call `make` unless all files `names` are what it once made."""
        paths = {name: self._folder / name for name in names}
        if not all(path.exists() and sha256_file(path) == self._finished.get(name) for name, path in paths.items()):
            make()
            self._finished |= {name: sha256_file(path) for name, path in paths.items()}
            write_json(self._journal, self._finished)
        self._advance(1)
