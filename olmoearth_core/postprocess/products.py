"""What all products of a map share: which map it is, its tiles, and what is finished already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import StoreError
from olmoearth_core.grid import PixelBox
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.plan import Plan
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.postprocess.item import Product, map_item, write_item
from olmoearth_core.postprocess.mosaic import Band, blocks, write_mosaic
from olmoearth_core.stage import StageRun
from olmoearth_core.stages import map_id
from olmoearth_core.store import write_json

MAP, STYLE, ITEM, PREVIEW = "map.tif", "map.qml", "item.json", "preview.png"
OBSERVATIONS = "observations.tif"


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

    @property
    def files(self) -> dict[Path, PixelBox]:
        """Tile -> what it covers."""
        folder = self.run.upstream["infer"].folder
        return {folder / f"{tile.name}.tif": self.plan.box(tile) for tile in self.plan.tiles}

    @property
    def mapped_pixels(self) -> int:
        """Pixels that have a class or value."""
        return sum(record.mapped_pixels for record in self.records)

    def write_observations(self, source: int, dtype: str) -> None:
        """Write how many timesteps show each pixel of the area; the band `source` of the tiles, of `dtype`.

        Raises:
            StoreError: the disk is full, or the place cannot be written.
        """
        path, band = self.run.out / OBSERVATIONS, Band("observations", source, dtype=dtype)
        write_mosaic(path, self.files, [band], tags=self.tags, scratch=self.run.scratch)
        counted = sum(int((block != band.nodata).sum()) for block, _ in blocks(path))
        if counted != sum(record.area_pixels for record in self.records):  # GDAL does not tell of every failed write
            path.unlink()
            raise StoreError(
                f"{path}: was not written as it should be (is the disk full?). Run the same command again."
            )

    def write_item(self, assets: dict[str, Product]) -> None:
        """Write the STAC Item of what lies in the folder."""
        plan, source = self.plan, self.run.project.config.map.area
        crs = self.run.project.config.imagery.crs
        (area,) = load_areas(self.run.files[source], source, crs=crs, resolution=plan.resolution)
        item = map_item(
            self.run.out,
            map_id=self.identity,
            title=self.title,
            anchor=plan.anchor,
            span=(plan.timesteps[0][0], plan.timesteps[-1][1]),
            outline=area.outline,
            box=plan.bounds(plan.zones[0]),
            assets=assets,
            provenance=self.provenance,
        )
        write_item(self.run.out / ITEM, item)


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
