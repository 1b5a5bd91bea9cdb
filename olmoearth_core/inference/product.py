"""A tile on disk: `<tile>.tif`, and `<tile>.json` that vouches for it. Without the second the first does not count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from rasterio.io import MemoryFile

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import StoreError
from olmoearth_core.inference.blend import NODATA, PROBABILITY_STEPS
from olmoearth_core.inference.tile import MappedTile
from olmoearth_core.store import write_bytes, write_json


class TileRecord(BaseModel):
    """What `<tile>.json` says of `<tile>.tif`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    windows_seen: int
    """Windows that the model saw; the others had nothing to see."""
    area_pixels: int
    """Pixels that belong to the area."""
    class_pixels: list[int]
    """How many of these are mapped as each class. The rest had no valid observation."""

    @property
    def mapped_pixels(self) -> int:
        """Pixels that have a class."""
        return sum(self.class_pixels)


def write_tile(folder: Path, name: str, tile: MappedTile, class_names: Sequence[str]) -> TileRecord:
    """Write a tile, whole or not at all, and then its record.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    content = encode_tile(tile, class_names)
    record = TileRecord(
        sha256=hashlib.sha256(content).hexdigest(),
        windows_seen=tile.windows_seen,
        area_pixels=tile.area_pixels,
        class_pixels=np.bincount(tile.classes[tile.classes != NODATA], minlength=len(class_names)).tolist(),
    )
    write_bytes(folder / f"{name}.tif", content)
    write_json(folder / f"{name}.json", record.model_dump(mode="json"))
    return record


def finished_tile(folder: Path, name: str) -> TileRecord | None:
    """The record of a tile that is complete; None where it has to be computed, or its file is not what was written."""
    try:
        record = TileRecord.model_validate_json((folder / f"{name}.json").read_bytes())
        return record if sha256_file(folder / f"{name}.tif") == record.sha256 else None
    except (FileNotFoundError, ValidationError):
        return None


def encode_tile(tile: MappedTile, class_names: Sequence[str]) -> bytes:
    """A tile as the bytes of a GeoTIFF: band 1 class, bands 2... probabilities, all uint8 with nodata 255.

    Made in memory, so that the file system's answer to writing it is Python's to judge, not GDAL's.
    """
    bands = np.concatenate([tile.classes[None], tile.probabilities])
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=len(bands),
            height=tile.box.height,
            width=tile.box.width,
            dtype="uint8",
            crs=tile.box.grid.crs,
            transform=tile.box.transform,
            nodata=NODATA,
            tiled=True,
            blockxsize=256,
            blockysize=256,
            interleave="band",
            compress="deflate",
            photometric="minisblack",  # or four bands would pass for red, green, blue, alpha
            alpha="no",
        ) as target:
            target.write(bands)
            target.descriptions = ("class", *(f"probability of {name}" for name in class_names))
            target.scales = (1.0, *(1 / PROBABILITY_STEPS for _ in class_names))
        return bytes(memory.read())


def verify_tile(folder: Path, name: str) -> TileRecord:
    """The record of a tile whose bytes are those that were written.

    Raises:
        StoreError: the tile is missing, or changed.
    """
    record = finished_tile(folder, name)
    if record is None:
        raise StoreError(
            f"{folder / name}.tif: missing, or not the file that was written (its sha256 differs from {name}.json). "
            "Run `olmoearth infer` again; it computes the tile anew."
        )
    return record
