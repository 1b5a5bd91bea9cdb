"""The window's own pixels as a head sees them: every band of every timestep, one channel each.

Where a timestep shows nothing, the pixel's mean over the others stands in, and 0 (the band's mean over the world) where
none does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from olmoearth_core.models.modalities import MODALITIES
from olmoearth_core.models.transfer import to_device


def pixel_channels(bands: Mapping[str, Sequence[str]], timesteps: int) -> int:
    """P, the channels of `pixels`."""
    return timesteps * sum(map(len, bands.values()))


def pixels(
    inputs: Mapping[str, np.ndarray | Tensor],
    valid: Mapping[str, np.ndarray],
    bands: Mapping[str, Sequence[str]],
    device: torch.device,
) -> Tensor:
    """(B, P, H, W) float32: standard scores by the statistics of the encoders' training data.

    Args:
        inputs: modality -> (B, T, C, H, W), physical values.
        valid: modality -> (B, T, H, W) bool.
        bands: modality -> names along C.
        device: where to.
    """
    parts = []
    for modality, names in bands.items():
        known = {band.name: band for band in MODALITIES[modality].bands}
        mean, std = (
            to_device([getattr(known[name], what) for name in names], device)[:, None, None] for what in ("mean", "std")
        )
        seen = to_device(valid[modality], device)[:, :, None]  # (B, T, 1, H, W)
        cube = to_device(inputs[modality], device).float()
        score = torch.where(seen, (cube - mean) / std, 0.0)
        over_time = score.sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        parts.append(torch.where(seen, score, over_time).flatten(1, 2))
    return torch.cat(parts, dim=1)
