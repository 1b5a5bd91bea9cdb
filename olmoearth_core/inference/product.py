"""A tile on disk: `<tile>.tif`, and `<tile>.json` that vouches for it. Without the second the first does not count."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from rasterio.io import MemoryFile

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import StoreError
from olmoearth_core.inference.blend import NO_VALUE, NODATA, PROBABILITY_STEPS, VALUE_STEPS
from olmoearth_core.inference.plan import PlannedModel
from olmoearth_core.inference.tile import MappedTile
from olmoearth_core.store import same_file, write_bytes, write_json

OBSERVATIONS = "observations"
"""Name of a tile's last band."""


class TileRecord(BaseModel):
    """What `<tile>.json` says of `<tile>.tif`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """Of everything that decides its bytes (keys.py)."""
    sha256: str
    windows_seen: int
    """Windows that the model saw; the others had nothing to see."""
    area_pixels: int
    """Pixels that belong to the area."""
    class_pixels: list[int]
    """How many of these are mapped as each class; of a regression, how many have a value. The rest had no valid
    observation."""

    @property
    def mapped_pixels(self) -> int:
        """Pixels that have a class."""
        return sum(self.class_pixels)


def write_tile(folder: Path, name: str, tile: MappedTile, model: PlannedModel, key: str) -> TileRecord:
    """Write a tile, whole or not at all, and then its record.

    Args:
        folder: where the files go.
        name: of the tile.
        tile: to write.
        model: of the plan.
        key: of the tile.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    content = encode_tile(tile, model)
    record = TileRecord(
        key=key,
        sha256=hashlib.sha256(content).hexdigest(),
        windows_seen=tile.windows_seen,
        area_pixels=tile.area_pixels,
        class_pixels=np.bincount(tile.classes[tile.classes != NODATA], minlength=model.outputs).tolist(),
    )
    write_bytes(folder / f"{name}.tif", content)
    write_record(folder, name, record)
    return record


def take_tile(source: Path, target: Path, name: str, record: TileRecord) -> None:
    """Have a finished tile of one folder in another as well, whole or not at all, and then its record.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    same_file(source / f"{name}.tif", target / f"{name}.tif")
    write_record(target, name, record)


def write_record(folder: Path, name: str, record: TileRecord) -> None:
    """Write what makes a tile count, whole or not at all."""
    write_json(folder / f"{name}.json", record.model_dump(mode="json"))


def finished_tile(folder: Path, name: str) -> TileRecord | None:
    """The record of a tile that is complete; None where it has to be computed, or its file is not what was written."""
    try:
        record = TileRecord.model_validate_json((folder / f"{name}.json").read_bytes())
        return record if sha256_file(folder / f"{name}.tif") == record.sha256 else None
    except (FileNotFoundError, ValidationError):
        return None


def encode_tile(tile: MappedTile, model: PlannedModel) -> bytes:
    """A tile as the bytes of a GeoTIFF: class, a probability a class, observations; uint8, nodata 255.

    Of a regression its values and observations, uint16 with nodata 65535; scale and offset of the first make values of
    its unit. Observations are the timesteps in which a pixel was seen: 0 where never, nodata outside the area.

    Made in memory, so that the file system's answer to writing it is Python's to judge, not GDAL's.
    """
    counted = np.full(tile.box.shape, NODATA, np.uint8) if tile.observations is None else tile.observations
    if tile.values is None:
        bands, nodata = np.concatenate([tile.classes[None], tile.probabilities, counted[None]]), NODATA
        names = ["class", *(f"probability of {name}" for name in model.classes), OBSERVATIONS]
        scales = [1.0, *(1 / PROBABILITY_STEPS for _ in model.classes), 1.0]
        offsets = [0.0] * len(names)
    else:
        wide = counted.astype(np.uint16)
        wide[counted == NODATA] = NO_VALUE
        bands, nodata, names = np.stack([tile.values, wide]), NO_VALUE, [model.name, OBSERVATIONS]
        scale, offset = value_scale(model)
        scales, offsets = [scale, 1.0], [offset, 0.0]
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=len(bands),
            height=tile.box.height,
            width=tile.box.width,
            dtype=bands.dtype,
            crs=tile.box.grid.crs,
            transform=tile.box.transform,
            nodata=nodata,
            tiled=True,
            blockxsize=256,
            blockysize=256,
            interleave="band",
            compress="deflate",
            photometric="minisblack",  # or four bands would pass for red, green, blue, alpha
            alpha="no",
        ) as target:
            target.write(bands)
            target.descriptions, target.scales, target.offsets = names, scales, offsets
        return bytes(memory.read())


def value_scale(model: PlannedModel) -> tuple[float, float]:
    """(scale, offset): a regression's value is its stored number times scale plus offset."""
    assert model.range is not None
    low, high = model.range
    return (high - low) / VALUE_STEPS, low


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
