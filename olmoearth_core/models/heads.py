"""Heads: from the encoder's map of patch tokens to scores, one map (or one vector) a task.

linear    each token scores each of its pixels; of a window, the mean token does
upsample  tokens are spread over their pixels, convolutions smooth over patch borders
unet      as upsample in steps of two, and the window's own pixels join at each: detail finer than a patch
pool      the mean and the strongest token, then a small network: one answer a window
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmoearth_core.errors import TrainingError

OF_PIXELS = ("linear", "upsample", "unet")
OF_WINDOWS = ("linear", "pool")
USES_PIXELS = ("unet",)
"""Heads that look at the window's pixels beside its tokens."""


@dataclass(frozen=True)
class HeadShape:
    """What a head is built for.

    Attributes:
        width: D, channels of the encoder's map.
        outputs: K, scores a pixel or window.
        patch_size: edge of a token's patch in pixels.
        pixel_channels: channels of the window's pixels (`models/pixels.py`).
        hidden: channels inside.
        of_windows: one answer a window.
    """

    width: int
    outputs: int
    patch_size: int
    pixel_channels: int
    hidden: int
    of_windows: bool = False


def build_head(kind: str, shape: HeadShape) -> nn.Module:
    """A head with new weights: forward(features (B, D, h, w), pixels (B, P, H, W) or None) -> (B, K, H, W).

    Of windows, the answer is (B, K, 1, 1).

    Raises:
        TrainingError: there is no such head for the task.
    """
    allowed = OF_WINDOWS if shape.of_windows else OF_PIXELS
    if kind not in allowed:
        what = "windows as a whole" if shape.of_windows else "each pixel"
        raise TrainingError(f"model.head: '{kind}' does not score {what}; allowed are {', '.join(allowed)}.")
    heads: dict[str, Any] = {
        "linear": LinearPool if shape.of_windows else LinearPixels,
        "upsample": Upsample,
        "unet": UNet,
        "pool": Pool,
    }
    head: nn.Module = heads[kind](shape)
    return head


class LinearPixels(nn.Module):
    """Each token gives each of its patch_size x patch_size pixels a score: linear, and still finer than a patch."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.norm = TokenNorm(shape.width)
        self.score = nn.Conv2d(shape.width, shape.outputs * shape.patch_size**2, kernel_size=1)
        self.to_pixels = nn.PixelShuffle(shape.patch_size)

    def forward(self, features: Tensor, _pixels: Tensor | None = None) -> Tensor:
        """(B, D, h, w) -> (B, K, H, W)."""
        scores: Tensor = self.to_pixels(self.score(self.norm(features)))
        return scores


class Upsample(nn.Module):
    """Gives each token a say in each of its pixels, then smooths over patch borders.

    A linear layer spreads every token over its patch_size x patch_size pixels (the reverse of patch embedding, as
    sub-pixel convolution, Shi et al. 2016), so shorelines keep detail finer than a patch; 3x3 convolutions at full
    resolution take the seams between patches away. Few channels there keep it quick on a CPU.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.spread = nn.Conv2d(shape.width, hidden * shape.patch_size**2, kernel_size=1)
        self.to_pixels = nn.PixelShuffle(shape.patch_size)
        self.smooth = nn.Sequential(nn.GroupNorm(1, hidden), nn.GELU(), *_convolutions(hidden, hidden))
        self.score = nn.Conv2d(hidden, shape.outputs, kernel_size=1)

    def forward(self, features: Tensor, _pixels: Tensor | None = None) -> Tensor:
        """(B, D, h, w) -> (B, K, H, W)."""
        scores: Tensor = self.score(self.smooth(self.to_pixels(self.spread(features))))
        return scores


class UNet(nn.Module):
    """A U-Net whose lowest level is the encoder (after Ronneberger et al. 2015).

    The window's pixels go down in steps of two to the size of the tokens' map; on the way up each level joins its own
    with what comes from below. So the tokens say what there is, and the pixels where it ends.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        hidden, self.levels = shape.hidden, max(1, math.ceil(math.log2(shape.patch_size)))
        self.stem = nn.Sequential(nn.Conv2d(shape.pixel_channels, hidden, 1), nn.GELU(), *_convolutions(hidden, hidden))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(hidden, hidden, 3, stride=2, padding=1), nn.GELU()) for _ in range(self.levels - 1)
        )
        self.tokens = nn.Sequential(TokenNorm(shape.width), nn.Conv2d(shape.width, hidden, 1))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * hidden, hidden, 3, padding=1), nn.GroupNorm(1, hidden), nn.GELU())
            for _ in range(self.levels)
        )
        self.score = nn.Conv2d(hidden, shape.outputs, kernel_size=1)

    def forward(self, features: Tensor, pixels: Tensor | None) -> Tensor:
        """(B, D, h, w), (B, P, H, W) -> (B, K, H, W)."""
        assert pixels is not None
        sides = [self.stem(pixels)]
        for step in self.down:
            sides.append(step(sides[-1]))
        x = self.tokens(features)
        for join, side in zip(self.up, reversed(sides), strict=True):
            x = F.interpolate(x, side.shape[-2:], mode="bilinear", align_corners=False)
            x = join(torch.cat([x, side], dim=1))
        scores: Tensor = self.score(x)
        return scores


class LinearPool(nn.Module):
    """The mean token of a window, scored linearly."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.score = nn.Linear(shape.width, shape.outputs)

    def forward(self, features: Tensor, _pixels: Tensor | None = None) -> Tensor:
        """(B, D, h, w) -> (B, K, 1, 1)."""
        scores: Tensor = self.score(self.norm(mean_token(features)))[..., None, None]
        return scores


class Pool(nn.Module):
    """The mean and the strongest value of each feature over a window, then a hidden layer."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * shape.width)
        self.think = nn.Sequential(nn.Linear(2 * shape.width, 4 * shape.hidden), nn.GELU())
        self.score = nn.Linear(4 * shape.hidden, shape.outputs)

    def forward(self, features: Tensor, _pixels: Tensor | None = None) -> Tensor:
        """(B, D, h, w) -> (B, K, 1, 1)."""
        seen = features.ne(0).any(dim=1, keepdim=True)
        strongest = features.masked_fill(~seen, -torch.inf).amax(dim=(2, 3))
        strongest = torch.where(seen.any(dim=(2, 3)), strongest, 0.0)
        both = torch.cat([mean_token(features), strongest], dim=1)
        scores: Tensor = self.score(self.think(self.norm(both)))[..., None, None]
        return scores


class TokenNorm(nn.Module):
    """LayerNorm over the channels of each token of a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> the same shape."""
        normed: Tensor = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        return normed


def mean_token(features: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, D): the mean over the patches that were seen; an unseen one is zero in a map of features."""
    seen = features.ne(0).any(dim=1, keepdim=True)
    return features.sum(dim=(2, 3)) / seen.sum(dim=(2, 3)).clamp(min=1)


def _convolutions(channels: int, hidden: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, hidden, kernel_size=3, padding=1),
        nn.GELU(),
        nn.Conv2d(hidden, hidden, kernel_size=3, padding=1),
        nn.GELU(),
    ]
