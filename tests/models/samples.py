"""Random inputs with physical values, and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.models.modalities import MODALITIES

S2, S1, LANDSAT = "sentinel2_l2a", "sentinel1", "landsat"


def cubes(modalities: tuple[str, ...], b: int, t: int, h: int, w: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """By modality (B, T, C, H, W): values spread as in the pretraining data; Sentinel-2 as uint16, as it is stored."""
    random = np.random.default_rng(seed)
    out: dict[str, NDArray[Any]] = {}
    for m in modalities:
        bands = MODALITIES[m].bands
        mean, std = (np.array([getattr(band, k) for band in bands])[:, None, None] for k in ("mean", "std"))
        values = random.normal(mean, std, (b, t, len(bands), h, w))
        out[m] = values.clip(0, 65535).astype(np.uint16) if m == S2 else values.astype(np.float32)
    return out


def days(b: int, t: int, *, every: int = 29, start: str = "2019-01-20") -> NDArray[np.datetime64]:
    """(B, T) dates, other ones for every sample, so that months and years turn."""
    return np.datetime64(start, "D") + every * np.arange(t) + 77 * np.arange(b)[:, None]


def ragged(modalities: tuple[str, ...], b: int, t: int, *, seed: int = 0) -> dict[str, NDArray[np.bool_]]:
    """By modality (B, T): timesteps missing here and there, other counts in every sample, never all."""
    random = np.random.default_rng(seed)
    masks = {m: random.random((b, t)) < 0.6 for m in modalities}
    for mask in masks.values():
        mask[np.arange(b), random.integers(t, size=b)] = True
    if t > 1:
        masks[modalities[0]][0], masks[modalities[0]][-1] = True, np.arange(t) == t // 2
    return masks


def clouds(
    modalities: tuple[str, ...], b: int, t: int, h: int, w: int, *, seed: int = 0
) -> dict[str, NDArray[np.bool_]]:
    """By modality (B, T, H, W): single pixels missing, and whole timesteps."""
    random = np.random.default_rng(seed)
    steps = ragged(modalities, b, t, seed=seed)
    masks = {m: (random.random((b, t, h, w)) < 0.7) & steps[m][..., None, None] for m in modalities}
    for mask in masks.values():
        mask[:, -1, 0, 0] = True
    return masks
