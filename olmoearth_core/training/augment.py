"""What changes in a training window while its labels stay true: the view, the haze, dates and sensors that are lost.

A map has no up, so each of the eight views of a window is as true as the first. Another year has other haze and other
clouds, so a window is shown a little brighter or darker, and sometimes without one of its timesteps or sensors.

Whatever is random about a window follows from its own seed, so that it does not matter who shares its batch or in which
process it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from olmoearth_core.project_training import AugmentConfig

VIEWS = 8
"""The symmetries of a square: four right-angle turns, each mirrored or not."""
DECIBELS = 11.0
"""Radar's change in dB for each unit of brightness: 0.03 gives Sentinel-1's absolute accuracy, 1 dB at three standard
deviations."""


def view(array: np.ndarray, index: int) -> np.ndarray:
    """One of the eight views of a square window, without a copy.

    Args:
        array: (..., N, N), rows and columns last.
        index: 0 to 7; 0 is the window as it is.
    """
    turned = np.rot90(array, index % 4, axes=(-2, -1))
    return turned[..., ::-1] if index >= 4 else turned


def drawn_view(config: AugmentConfig, random: np.random.Generator) -> int:
    """Which view a window is shown in."""
    return int(random.integers(VIEWS)) if config.turns else 0


def brighten(cube: np.ndarray, config: AugmentConfig, random: np.random.Generator) -> np.ndarray:
    """A window with a brightness of its own for each timestep and each band in it, and noise where that is asked for.

    Args:
        cube: (T, C, H, W), 0 where there is no data: unsigned whole numbers (reflectance, counts), which are
            multiplied; or float32 in dB, to which is added.
        config: how much.
        random: of this window.

    Returns:
        the same shape and dtype; 0 stays 0, and of whole numbers nothing else becomes 0.
    """
    if not config.brightness and not config.noise:
        return cube
    t, c = cube.shape[:2]
    in_decibels = cube.dtype.kind == "f"
    scale = DECIBELS if in_decibels else 1.0
    deviation = scale * config.brightness / np.sqrt(2)
    change = random.normal(0, deviation, (t, 1)) + random.normal(0, deviation, (t, c))
    change = change[..., None, None].astype(np.float32)
    if config.noise:
        change = change + random.standard_normal(cube.shape, np.float32) * np.float32(scale * config.noise)
    if in_decibels:
        return np.where(cube == 0, 0, cube + change).astype(cube.dtype)
    shown = cube * (1 + change)  # float32
    shown += 0.5
    np.clip(shown, 1, np.iinfo(cube.dtype).max, out=shown)
    changed = shown.astype(cube.dtype)  # cuts off: + 0.5 before made it rounding
    changed[cube == 0] = 0
    return changed


def hide(
    valid: Mapping[str, np.ndarray], labelled: np.ndarray, config: AugmentConfig, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """A window without some of its timesteps or modalities; whole where that would hide a labelled pixel, or all of it.

    Args:
        valid: modality -> (T, H, W) bool; a timestep is hidden in all modalities.
        labelled: (H, W) bool.
        config: how often.
        random: of this window.

    Returns:
        modality -> (T, H, W) bool.
    """
    steps = len(next(iter(valid.values())))
    shown = random.random(steps) >= config.timestep_drop
    kept = random.random(len(valid)) >= config.modality_drop
    kept[int(random.integers(len(valid)))] = True
    less = {m: mask & shown[:, None, None] & k for (m, mask), k in zip(valid.items(), kept, strict=True)}
    seen = np.any([mask.any(axis=0) for mask in less.values()], axis=0)
    return dict(valid) if (labelled & ~seen).any() or not seen.any() else less
