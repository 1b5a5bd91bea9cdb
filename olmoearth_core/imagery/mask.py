"""Which pixels saw the ground: quality assets (Sentinel-2's SCL, Landsat's QA_PIXEL) and nodata, as boolean masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.imagery.modality import MaskRule


def clear_pixels(quality: NDArray[Any], rule: MaskRule, *, clouds: bool = True) -> NDArray[np.bool_]:
    """Where a quality asset (H, W), of whole numbers, tells neither cloud, shadow, defect nor nodata -> (H, W) bool.

    0 hides the ground under either kind of rule: it is what lies outside the asset.

    Args:
        clouds: False to leave the judgement of clouds to somebody else.
    """
    hidden = rule.others | (rule.clouds if clouds else frozenset())
    if rule.kind == "bits":
        flags = quality.dtype.type(sum(1 << bit for bit in hidden))
        clear: NDArray[np.bool_] = (quality != 0) & ((quality & flags) == 0)
        return clear
    return ~np.isin(quality, sorted(hidden | {0}))


def has_data(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where every band of (C, H, W) has a value -> (H, W) bool. One band that is 0 makes the pixel invalid."""
    data: NDArray[np.bool_] = (pixels != 0).all(axis=0)
    return data
