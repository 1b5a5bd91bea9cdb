"""Which pixels saw the ground: the scene classification and nodata, as one boolean mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.imagery.modality import Modality


def clear_pixels(classes: NDArray[Any], modality: Modality) -> NDArray[np.bool_]:
    """Where a classification (H, W) tells neither cloud, shadow, defect nor nodata -> (H, W) bool."""
    return ~np.isin(classes, sorted(modality.masked_classes))


def has_data(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where every band of (C, H, W) has a value -> (H, W) bool. One band that is 0 makes the pixel invalid."""
    data: NDArray[np.bool_] = (pixels != 0).all(axis=0)
    return data
