"""From what an asset stores to what is sampled, and from what was sampled to physical values.

    numbers    stored + offset  -> sampled as uint16 with the offset removed      -> as they are
    power      gamma nought     -> sampled as linear float32 (speckle left alone) -> dB
    decibels   10 log10 of it   -> sampled as linear float32, as averages of dB would be biased -> dB

0 is nodata in what is stored and in what is sampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.errors import ImageryError
from olmoearth_core.imagery.modality import Modality
from olmoearth_core.imagery.scene import Scene

Pixels = NDArray[Any]


def linear(stored: Pixels, scene: Scene, modality: Modality) -> Pixels:
    """What can be averaged: `stored` (h, w) in the modality's dtype; 0 stays 0, and no other number becomes 0.

    Raises:
        ImageryError: the asset holds other numbers than the item says.
    """
    dtype = np.dtype(modality.dtype)
    if scene.nodata is not None:
        stored = np.where(stored == scene.nodata, stored.dtype.type(0), stored)
    if scene.stored == "numbers":
        return _numbers(stored, scene.offset, dtype)
    values = stored.astype(dtype)
    if scene.stored == "decibels":
        values = np.where(values == 0, 0, 10 ** (values / np.float32(10)))
    # no power at all (noise that was subtracted, undeclared nodata) is no observation
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(0))


def physical(sampled: Pixels, modality: Modality) -> None:
    """Turn `sampled` (..., H, W) into what a cube holds, in place; 0 stays 0."""
    if modality.values == "backscatter":
        seen = sampled > 0
        np.log10(sampled, out=sampled, where=seen)
        sampled *= np.float32(10)


def _numbers(stored: Pixels, offset: int, dtype: np.dtype[Any]) -> Pixels:
    if stored.dtype != dtype:
        if stored.dtype.kind not in "ui":
            raise ImageryError(f"holds {stored.dtype} values; whole numbers (reflectance x 10000) are expected")
        limits = np.iinfo(dtype)
        stored = np.clip(stored, limits.min, limits.max).astype(dtype)
    if offset:
        # reflectance at or below zero is dark ground, not nodata: it becomes 1
        stored = np.where(stored == 0, 0, np.maximum(stored, offset + 1) - offset).astype(dtype)
    return stored
