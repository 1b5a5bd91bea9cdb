"""The imagery of one tile, filled strip by strip while the model is already at work on what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.modality import get_modality

STRIP = 256
"""Rows of pixels that are composed at once; more would be read before anything can be computed, fewer cost calls."""
STRIPS = 4
"""Strips that a smaller tile has at least."""


class Imagery:
    """Cubes of all modalities over `box`. Strips may be filled by several threads, each its own.

    Memory is taken as strips come.

    Args:
        box: around all windows of the tile.
        steps: T timesteps.
        bands: modality -> names along C.
    """

    def __init__(self, box: PixelBox, steps: Sequence[Timestep], bands: Mapping[str, Sequence[str]]) -> None:
        self.box = box
        self.dates = np.array([step.date for step in steps], "datetime64[D]")
        times = len(steps)
        self._data = {m: np.zeros((times, len(names), *box.shape), get_modality(m).dtype) for m, names in bands.items()}
        self._valid = {m: np.zeros((times, *box.shape), bool) for m in bands}

    def fill(self, cube: Cube) -> None:
        """Take over the composed pixels of a strip, one modality of it."""
        rows, columns = cube.box.slices_in(self.box)
        self._data[cube.modality][..., rows, columns] = cube.data
        self._valid[cube.modality][..., rows, columns] = cube.valid

    def data_of(self, window: PixelBox) -> dict[str, np.ndarray]:
        """Modality -> (T, C, H, W) of a part, physical values; views."""
        rows, columns = window.slices_in(self.box)
        return {m: data[..., rows, columns] for m, data in self._data.items()}

    def valid_of(self, window: PixelBox) -> dict[str, np.ndarray]:
        """Modality -> (T, H, W) bool of a part; views."""
        rows, columns = window.slices_in(self.box)
        return {m: valid[..., rows, columns] for m, valid in self._valid.items()}

    def forget_data(self) -> None:
        """Give the memory of the pixels back when the model has seen them all; which were valid is kept."""
        self._data.clear()

    def observations(self, box: PixelBox) -> np.ndarray:
        """(H, W) uint8: in how many timesteps any modality has a valid pixel."""
        count = np.zeros(box.shape, np.uint8)
        common = box.cut(self.box)
        seen = np.any(list(self.valid_of(common).values()), axis=0)
        count[common.slices_in(box)] = seen.sum(axis=0, dtype=np.uint8)
        return count


def strips(box: PixelBox, window_size: int) -> Iterator[PixelBox]:
    """`box` from top to bottom in strips: several also where it is small, so that reading and computing overlap."""
    height = max(window_size, min(STRIP, -(-box.height // STRIPS)))
    for top in range(0, box.height, height):
        yield PixelBox(box.grid, box.column, box.row + top, box.width, min(height, box.height - top))
