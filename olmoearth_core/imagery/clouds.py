"""Clouds of Sentinel-2 by s2cloudless: the gradient-boosted pixel classifier of Sentinel Hub, with its own model.

    bands -> means over cells of 60 m -> probability of each cell -> mean over a disk -> threshold -> grown -> pixels

Threshold 0.4, a disk of radius 4 cells and growth by 2 are what its authors recommend at 60 m
(https://github.com/sentinel-hub/sentinel2-cloud-detector). Cells lie on one lattice of the grid and probabilities are
whole numbers when they are summed, so that a pixel's answer does not depend on the box asked for.

The classifier was made for Level 1C. Level 2A has no cirrus band (B10), and its water vapour band (B09) is corrected
into something else: both count as 0. Measured on what is at hand: of the overcast date of the reservoir all is found
so, with the B09 of Level 2A 9 %; of its clear dates nothing is called cloud, of EuroSAT's 200 clear patches 0.01 %
(1.3 % with their own Level 1C bands). Thin cloud is missed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.errors import ImageryError
from olmoearth_core.grid import PixelBox

BANDS = ("B01", "B02", "B04", "B05", "B08", "B8A", "B11", "B12")
"""What it looks at, in its order; B09 and B10 stand between B8A and B11."""
_ABSENT = (6, 6)
CELL = 60.0
"""Metres."""
THRESHOLD, AVERAGE, GROWTH = 0.4, 4, 2
_STEPS = 10_000
"""Probabilities are counted in 1/10000."""
_INSTALL = "pip install lightgbm && pip install --no-deps s2cloudless"


def around(box: PixelBox) -> PixelBox:
    """The whole cells whose pixels decide about `box`."""
    cell = _cell(box)
    margin = (AVERAGE + GROWTH) * cell
    left, top = ((edge - margin) // cell * cell for edge in (box.column, box.row))
    right, bottom = (-(-(edge + margin) // cell) * cell for edge in (box.column + box.width, box.row + box.height))
    return PixelBox(box.grid, left, top, right - left, bottom - top)


def cloud_free(reflectance: NDArray[np.uint16], box: PixelBox) -> NDArray[np.bool_]:
    """Where there is no cloud over `box` -> (H, W) bool.

    Args:
        reflectance: (8, h, w), BANDS over `around(box)`, reflectance x 10000 without offset, 0 where there is no data
            (which is no cloud).

    Raises:
        ImageryError: s2cloudless is not installed.
    """
    outer, cell = around(box), _cell(box)
    means, seen = _cell_means(reflectance, cell)
    steps = np.zeros(seen.shape, np.int64)
    steps[seen] = np.rint(_probability(means[:, seen].T) * _STEPS)
    disk = _disk(AVERAGE)
    weight = _sum_over(seen.astype(np.int64), disk)
    cloudy = _sum_over(steps, disk) > THRESHOLD * _STEPS * np.maximum(weight, 1)
    grown = _sum_over(cloudy.astype(np.int64), _disk(GROWTH)) > 0
    rows, columns = box.slices_in(outer)
    free: NDArray[np.bool_] = ~grown.repeat(cell, 0).repeat(cell, 1)[rows, columns]
    return free


def _cell(box: PixelBox) -> int:
    """Edge of a cell in pixels."""
    return max(1, round(CELL / box.grid.resolution))


def _cell_means(reflectance: NDArray[np.uint16], cell: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(mean reflectance (8, rows, columns) of the pixels of each cell that have data, where there are any)."""
    bands, height, width = reflectance.shape
    parts = reflectance.reshape(bands, height // cell, cell, width // cell, cell)
    total = parts.sum(axis=(2, 4), dtype=np.int64)
    count = (parts != 0).sum(axis=(2, 4))
    return total / np.maximum(count, 1) / 10_000, (count > 0).all(axis=0)


def _probability(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of cloud (N,) of pixels (N, 8)."""
    if not len(pixels):
        return np.zeros(0)
    found: NDArray[np.float64] = np.asarray(
        _classifier().predict(np.insert(pixels, _ABSENT, 0.0, axis=1), num_threads=1)
    )
    return found


@lru_cache(maxsize=1)
def _classifier() -> Any:
    """The model that the package carries, read without the package's own imports (a web client, OpenCV)."""
    from importlib.util import find_spec
    from pathlib import Path

    package = find_spec("s2cloudless")
    try:
        from lightgbm import Booster
    except ImportError:
        package = None
    if package is None or package.origin is None:
        raise ImageryError(f"imagery.cloud_mask is s2cloudless, which is not installed; install it with: {_INSTALL}")
    model = next((Path(package.origin).parent / "models").glob("*.txt"), None)
    if model is None:
        raise ImageryError(f"s2cloudless carries no model any more; install it anew with: {_INSTALL}")
    return Booster(model_file=str(model))


def _disk(radius: int) -> NDArray[np.bool_]:
    offset = np.arange(-radius, radius + 1)
    disk: NDArray[np.bool_] = offset[:, None] ** 2 + offset**2 <= radius**2
    return disk


def _sum_over(values: NDArray[np.int64], disk: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The sum of `values` (h, w) over the disk around each; what lies outside counts 0."""
    radius = len(disk) // 2
    padded = np.pad(values, radius)
    total = np.zeros_like(values)
    for row, column in np.argwhere(disk):
        total += padded[row : row + values.shape[0], column : column + values.shape[1]]
    return total
