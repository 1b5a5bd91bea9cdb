"""How a direction is stored in bytes: small numbers finely, large ones coarsely.

Most of the D numbers of a unit vector are small (about 1 / sqrt(D)), so the square root is stored, not the number: the
idea of the int8 files of AlphaEarth's satellite embeddings (Earth Engine, "Satellite Embedding V1", 2025: it decodes
((q / 127.5) ** 2) * sign(q)); ours has 127 for 1, so that -1, 0 and 1 come back exactly.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Dtype = Literal["int8", "float16"]
STEPS = 127
NODATA = {"int8": -128.0, "float16": float("nan")}
"""What every band holds where the encoder saw nothing."""


def encode(vectors: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Unit vectors (D, H, W) float, NaN where there is none, as stored numbers (D, H, W) of `dtype`."""
    if dtype == "float16":
        return vectors.astype(np.float16)
    stored = np.rint(np.sign(vectors) * np.sqrt(np.abs(vectors)) * STEPS)
    return np.where(np.isnan(vectors), NODATA["int8"], stored).astype(np.int8)


def decode(stored: np.ndarray) -> np.ndarray:
    """Stored numbers (D, ...) as unit vectors (D, ...) float32; NaN where there is none.

    What rounding did to the length is mended: vectors come back with length 1.
    """
    values = stored.astype(np.float32)
    if stored.dtype == np.int8:
        values = np.where(stored == NODATA["int8"], np.nan, np.sign(values) * (values / STEPS) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(values / np.linalg.norm(values, axis=0, keepdims=True), np.float32)
