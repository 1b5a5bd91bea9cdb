"""Which pixels saw the ground: quality assets (Sentinel-2's SCL, Landsat's QA_PIXEL) and nodata, as boolean masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.imagery.modality import MaskRule, get_modality
from olmoearth_core.imagery.scene import Scene


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
    values = sorted(hidden | {0})
    if quality.dtype != np.uint8:
        return ~np.isin(quality, values)
    shows = np.ones(256, np.bool_)
    shows[values] = False
    seen: NDArray[np.bool_] = shows[quality]  # a table is quicker than comparing
    return seen


def has_data(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where every band of (C, H, W) has a value -> (H, W) bool. One band that is 0 makes the pixel invalid."""
    data: NDArray[np.bool_] = (pixels != 0).all(axis=0)
    return data


def without_mask(scenes: Sequence[Scene], cloud_mask: str) -> Iterator[str]:
    """A sentence for each modality with scenes whose clouds nothing tells, though `cloud_mask` asks for it."""
    for name in dict.fromkeys(scene.modality for scene in scenes):
        rule = get_modality(name).mask
        told_otherwise = cloud_mask == "none" or (cloud_mask == "s2cloudless" and name == "sentinel2_l2a")
        mine = [scene for scene in scenes if scene.modality == name]
        bare = sum(scene.mask is None for scene in mine)
        if rule is not None and bare and not told_otherwise:
            found = "s2cloudless to find them, or to " if name == "sentinel2_l2a" else ""
            yield (
                f"{bare} of {len(mine)} scenes of {name} carry no quality asset ({rule.assets[0]}): clouds in them are "
                f"not masked. Set imagery.cloud_mask to {found}none if there are none"
            )
