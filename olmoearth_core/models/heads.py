"""Heads: from the encoder's map of patch tokens to one score a pixel and class."""

from __future__ import annotations

from torch import Tensor, nn


class PatchUpsampler(nn.Module):
    """Gives each token a say in each of its pixels, then smooths over patch borders.

    A linear layer spreads every token over its patch_size x patch_size pixels (the reverse of patch embedding, as
    sub-pixel convolution, Shi et al. 2016), so shorelines keep detail finer than a patch; 3x3 convolutions at full
    resolution take the seams between patches away. Few channels there keep it quick on a CPU.
    """

    def __init__(self, width: int, outputs: int, patch_size: int, hidden: int = 32) -> None:
        """Build the head.

        Args:
            width: D, channels of the encoder's map.
            outputs: K, scores a pixel: the number of classes.
            patch_size: edge of a token's patch in pixels.
            hidden: channels at full resolution.
        """
        super().__init__()
        self.spread = nn.Conv2d(width, hidden * patch_size**2, kernel_size=1)
        self.to_pixels = nn.PixelShuffle(patch_size)
        self.smooth = nn.Sequential(
            nn.GroupNorm(1, hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1),
            nn.GELU(),
        )
        self.score = nn.Conv2d(hidden, outputs, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            features: (B, D, H / patch_size, W / patch_size).

        Returns:
            (B, K, H, W), before softmax.
        """
        scores: Tensor = self.score(self.smooth(self.to_pixels(self.spread(features))))
        return scores
