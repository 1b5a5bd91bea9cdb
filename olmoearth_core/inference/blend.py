"""Blending of overlapping windows, exact: whole numbers are summed, so the order of the windows changes no bit."""

from __future__ import annotations

from functools import cache

import numpy as np

from olmoearth_core.grid import PixelBox

NODATA = 255
PROBABILITY_STEPS = 250
"""A probability p is stored as round(250 p), so that one step is 0.004 and 255 is left for nodata."""

VALUE_STEPS = 50_000
"""A value is stored as whole steps of its range, 0 to 50,000: a step is 0.002 of a range of 100."""
NO_VALUE = 65535
"""Nodata of values."""

_ONE = 2**20
"""A probability of 1 as it is summed. With weights up to 1023 along each axis and at most 5 windows over a pixel along
each axis (overlap is at most 0.75, rounded to whole patches) the sum stays below (5 * 1023)^2 * 2^20 < 2^53: as a float
it is exact, too."""
_PEAK = 1023
"""So large that a window's outermost pixels, with a weight of 1, count next to nothing beside its neighbour's: with 63
they counted 3 % at an overlap of a quarter, and the edges of windows showed (seam score 1.21 on the reservoir)."""


@cache
def window_weights(size: int) -> np.ndarray:
    """(size, size) uint64 weights of a window's pixels, 1 at the corners and highest in the middle.

    A raised cosine along each axis: it falls off smoothly to a window's edge, where least is known of what is around.
    """
    position = (np.arange(size) + 0.5) / size
    along = np.maximum(1, np.rint(_PEAK * np.sin(np.pi * position) ** 2)).astype(np.uint64)
    return np.outer(along, along)


class Blend:
    """The weighted mean, over windows, of the class probabilities of a box; or of values as shares of their range."""

    def __init__(self, box: PixelBox, classes: int) -> None:
        self.box = box
        self._sum = np.zeros((classes, *box.shape), np.uint64)
        self._weight = np.zeros(box.shape, np.uint64)

    def add(self, window: PixelBox, probabilities: np.ndarray) -> None:
        """Add what the model says of one window, (K, H, W) floats in 0..1; what lies outside the box is left out."""
        common = window.cut(self.box)
        rows, columns = common.slices_in(window)
        here = (slice(None), *common.slices_in(self.box))
        weight = window_weights(window.width)[rows, columns]
        self._sum[here] += np.rint(probabilities[:, rows, columns] * _ONE).astype(np.uint64) * weight
        self._weight[here[1:]] += weight

    def mean(self) -> np.ndarray:
        """(K, H, W) float64: the weighted mean of what was added, 0 where nothing was."""
        return self._sum / (np.maximum(self._weight, 1).astype(np.float64) * _ONE)

    @property
    def covered(self) -> np.ndarray:
        """(H, W) bool, True where at least one window was added."""
        return self._weight > 0

    def classes(self, mapped: np.ndarray) -> np.ndarray:
        """(H, W) uint8: the most probable class (the first of equals), nodata where not `mapped` (H, W)."""
        return np.where(mapped, self._sum.argmax(axis=0).astype(np.uint8), np.uint8(NODATA))

    def values(self, mapped: np.ndarray) -> np.ndarray:
        """(H, W) uint16: the share of the range times 50,000, NO_VALUE where not `mapped` (H, W)."""
        mean = self._sum[0] / (np.maximum(self._weight, 1).astype(np.float64) * _ONE)
        return np.where(mapped, np.rint(mean * VALUE_STEPS), NO_VALUE).astype(np.uint16)

    def probabilities(self, mapped: np.ndarray) -> np.ndarray:
        """(K, H, W) uint8: probabilities times 250, nodata where not `mapped` (H, W)."""
        scale = PROBABILITY_STEPS / (np.maximum(self._weight, 1).astype(np.float64) * _ONE)
        out = np.full(self._sum.shape, NODATA, np.uint8)
        for band, total in zip(out, self._sum, strict=True):
            band[mapped] = np.minimum(np.rint(total[mapped] * scale[mapped]), PROBABILITY_STEPS).astype(np.uint8)
        return out
