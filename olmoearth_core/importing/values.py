"""From the values that a partner stored to ours: reflectance x 10000 as uint16, 0 where there is no data.

A valid value never becomes 0: reflectance at or below zero is dark ground and becomes 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.errors import SourceError

SCALE = 0.0001
"""Reflectance of one unit of what is written."""
MAX_CLASS = 11
"""Largest value of Sen2Cor's scene classification."""
_BRIGHTEST = 10.0
"""No reflectance reaches this; the sun's glint on water stays below it."""


@dataclass(frozen=True)
class Encoding:
    """How stored values tell reflectance: reflectance = value * scale + offset."""

    scale: float | None = None
    """None where nobody says: whole numbers are then reflectance x 10000, fractions reflectance."""
    offset: float = 0.0
    nodata: float | None = None
    """The value that means no data; None where no value does. NaN and infinity never are data."""


@dataclass(frozen=True)
class Stored:
    """Pixels as they are written.

    Attributes:
        values: (H, W) uint16, reflectance x 10000, 0 where there is no data.
        dark: how many valid pixels were 0 or below and became 1.
        notes: what to tell about the conversion.
    """

    values: NDArray[np.uint16]
    dark: int
    notes: tuple[str, ...] = ()


def to_stored(pixels: NDArray[Any], encoding: Encoding, name: str) -> Stored:
    """Convert the pixels (H, W) of one band, of any real dtype.

    Args:
        name: of the raster, in messages.

    Raises:
        SourceError: it cannot be told what the values mean.
    """
    valid = valid_pixels(pixels, encoding.nodata)
    scale, notes = encoding.scale, []
    if scale is None:
        scale = _assumed_scale(pixels, valid, name)
        if scale == 1.0:
            notes.append("fractions are taken for reflectance and stored x 10000")
    values = np.where(valid, pixels, 0).astype(np.float64) * (scale / SCALE) + encoding.offset / SCALE
    values = np.rint(values)
    dark = int((valid & (values <= 0)).sum())
    if (valid & (values > np.iinfo(np.uint16).max)).any():
        highest = float(values[valid].max()) * SCALE
        raise SourceError(
            f"{name}: holds reflectance up to {highest:.4g}, more than can be (6.5535). "
            "Give --scale and --offset (reflectance = value x scale + offset), and --nodata."
        )
    return Stored(np.where(valid, np.maximum(values, 1), 0).astype(np.uint16), dark, tuple(notes))


def to_classes(pixels: NDArray[Any], nodata: float | None, name: str) -> tuple[NDArray[np.uint8], int]:
    """Sen2Cor's scene classification (H, W) as uint8, 0 where there is no data; and how many pixels had no such class.

    Raises:
        SourceError: fractions: somebody interpolated the classes.
    """
    valid = valid_pixels(pixels, nodata)
    if pixels.dtype.kind == "f" and (pixels[valid] != np.rint(pixels[valid])).any():
        raise SourceError(f"{name}: holds fractions; a scene classification is made of whole numbers from 0 to 11")
    known = valid & (pixels >= 0) & (pixels <= MAX_CLASS)
    return np.where(known, pixels, 0).astype(np.uint8), int((valid & ~known).sum())


def cloud_cover(classes: NDArray[np.uint8]) -> float | None:
    """Per cent of the pixels with data that are cloud or cirrus (8, 9, 10); None where nothing has data."""
    present = int((classes != 0).sum())
    return round(100 * float(np.isin(classes, (8, 9, 10)).sum()) / present, 2) if present else None


def valid_pixels(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """(H, W), where a value is a measurement."""
    valid: NDArray[np.bool_] = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, np.bool_)
    if nodata is not None and not np.isnan(nodata):
        valid &= pixels != (pixels.dtype.type(nodata) if pixels.dtype.kind == "f" else nodata)
    return valid


def _assumed_scale(pixels: NDArray[Any], valid: NDArray[np.bool_], name: str) -> float:
    if pixels.dtype.kind not in "iuf":
        raise SourceError(f"{name}: holds {pixels.dtype} values; allowed are whole numbers and fractions")
    if pixels.dtype.itemsize == 1:
        raise SourceError(
            f"{name}: holds values of 8 bits, which look like a picture and not like reflectance. "
            "Give the files with 16 bits, or --scale (reflectance = value x scale + offset)."
        )
    if pixels.dtype.kind in "iu":
        return SCALE
    highest = float(pixels[valid].max()) if valid.any() else 0.0
    if highest > _BRIGHTEST:
        raise SourceError(
            f"{name}: holds fractions up to {highest:.6g}, which is no reflectance (0 to 1). "
            "Give --scale 0.0001 if they are reflectance x 10000, and --nodata if some value means no data."
        )
    return 1.0
