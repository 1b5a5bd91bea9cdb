"""What changes in a training window while its labels stay true: the view, the haze, the dates that are lost.

A map has no up, so each of the eight views of a window is as true as the first. Another year has other haze and other
clouds, so a window is shown a little brighter or darker, and sometimes without one of its timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

VIEWS = 8
"""The symmetries of a square: four right-angle turns, each mirrored or not."""
GAIN = 0.03
"""Standard deviation of the brightness of a timestep, and of a band in it: what atmospheric correction leaves."""
DECIBELS = 0.33
"""The same of radar backscatter: Sentinel-1's absolute accuracy is 1 dB at three standard deviations."""
DROP = 0.1
"""Share of the timesteps that are hidden."""


def view(array: np.ndarray, index: int) -> np.ndarray:
    """One of the eight views of a square window, without a copy.

    Args:
        array: (..., N, N), rows and columns last.
        index: 0 to 7; 0 is the window as it is.
    """
    turned = np.rot90(array, index % 4, axes=(-2, -1))
    return turned[..., ::-1] if index >= 4 else turned


def brighten(cube: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Windows with a brightness of their own for each timestep, and for each band in it.

    Args:
        cube: (B, T, C, H, W), 0 where there is no data: unsigned whole numbers (reflectance, counts), which are
            multiplied; or float32 in dB, to which is added.

    Returns:
        the same shape and dtype; 0 stays 0, and of whole numbers nothing else becomes 0.
    """
    b, t, c = cube.shape[:3]
    in_decibels = cube.dtype.kind == "f"
    deviation = (DECIBELS if in_decibels else GAIN) / np.sqrt(2)
    change = random.normal(0, deviation, (b, t, 1)) + random.normal(0, deviation, (b, t, c))
    change = change[..., None, None].astype(np.float32)
    if in_decibels:
        shown = cube + change
    else:
        shown = np.clip(np.rint(cube * (1 + change)), 1, np.iinfo(cube.dtype).max)
    changed: np.ndarray = np.where(cube == 0, 0, shown).astype(cube.dtype)
    return changed


def hide_timesteps(
    valid: Mapping[str, np.ndarray], labelled: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Windows without some of their timesteps; none where that would hide a labelled pixel altogether.

    Args:
        valid: modality -> (B, T, H, W) bool; a timestep is hidden in all modalities.
        labelled: (B, H, W) bool.

    Returns:
        modality -> (B, T, H, W) bool.
    """
    b, t = next(iter(valid.values())).shape[:2]
    kept = random.random((b, t)) >= DROP
    seen = np.zeros(labelled.shape, bool)
    for mask in valid.values():
        seen |= (mask & kept[:, :, None, None]).any(axis=1)
    kept[np.any(labelled & ~seen, axis=(1, 2))] = True
    return {modality: mask & kept[:, :, None, None] for modality, mask in valid.items()}
