"""Flips and right-angle turns: a map has no up, so each of the eight views of a window is as true as the first."""

from __future__ import annotations

import numpy as np

VIEWS = 8
"""The symmetries of a square: four right-angle turns, each mirrored or not."""


def view(array: np.ndarray, index: int) -> np.ndarray:
    """One of the eight views of a square window, without a copy.

    Args:
        array: (..., N, N), rows and columns last.
        index: 0 to 7; 0 is the window as it is.
    """
    turned = np.rot90(array, index % 4, axes=(-2, -1))
    return turned[..., ::-1] if index >= 4 else turned
