"""Layers that follow from the probabilities, pixel by pixel: confidence, prediction sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio

from olmoearth_core.inference.blend import PROBABILITY_STEPS
from olmoearth_core.postprocess.mosaic import BLOCK, NODATA, Band, box_of, gdal_errors, write_mosaic
from olmoearth_core.store import whole_file

CONFIDENCE = "confidence.tif"


def write_derived(
    path: Path,
    probabilities: Path,
    bands: Sequence[Band],
    derive: Callable[[np.ndarray], np.ndarray],
    *,
    tags: Mapping[str, str],
    scratch: Path,
) -> None:
    """Write a COG of what `derive` makes of probabilities.tif, block by block; nodata where that has nodata.

    Args:
        path: what to write.
        probabilities: of the map.
        bands: of the new file.
        derive: stored probabilities (C, h, w) uint8 to (bands, h, w) uint8; what it says of nodata is not used.
        tags: metadata of the file.
        scratch: folder for what is in between.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    flat = scratch / f"{path.stem}-flat.tif"
    with rasterio.open(probabilities) as source:
        box = box_of(source)
        profile = {
            "driver": "GTiff",
            "dtype": "uint8",
            "nodata": NODATA,
            "count": len(bands),
            "crs": source.crs,
            "transform": source.transform,
            "width": source.width,
            "height": source.height,
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "compress": "deflate",
            "bigtiff": "if_safer",
        }
        with whole_file(flat) as partial, gdal_errors(flat), rasterio.open(partial, "w", **profile) as target:
            for _, window in source.block_windows(1):
                stored = source.read(window=window)
                layers = derive(stored)
                layers[:, (stored == NODATA).any(axis=0)] = NODATA
                target.write(layers, window=window)
    write_mosaic(path, {flat: box}, bands, tags=tags, scratch=scratch)
    flat.unlink()


def write_confidence(path: Path, probabilities: Path, tags: Mapping[str, str], scratch: Path) -> None:
    """Write a COG of the probability of the class that the map shows; uint8, times 0.004, 255 nodata.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    band = Band("probability of the class shown", 1, 1 / PROBABILITY_STEPS)
    write_derived(
        path, probabilities, [band], lambda stored: stored.max(axis=0, keepdims=True), tags=tags, scratch=scratch
    )
