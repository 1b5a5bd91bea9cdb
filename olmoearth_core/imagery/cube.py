"""The cube: composed imagery of one modality over one PixelBox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.grid import PixelBox


@dataclass(frozen=True)
class Cube:
    """Composed imagery of one modality over one box.

    Attributes:
        modality: e.g. "sentinel2_l2a".
        bands: names along the axis C.
        data: (T, C, H, W), physical values (Sentinel-2: uint16, reflectance x 10000), 0 where not valid.
        valid: (T, H, W) bool; False where no observation was left (no scene, cloud, nodata). A timestep without any
            scene is False everywhere.
        observations: (T, H, W) uint8, how many observations the value is made of: 0 or 1 for `least_cloudy`, all
            valid ones (255 stands for more) for `median`.
        dates: (T,) datetime64[D], the middle of each timestep's span.
        box: where on the grid.
    """

    modality: str
    bands: tuple[str, ...]
    data: NDArray[Any]
    valid: NDArray[np.bool_]
    observations: NDArray[np.uint8]
    dates: NDArray[np.datetime64]
    box: PixelBox

    def crop(self, box: PixelBox) -> Cube:
        """The part over `box`, which lies in this cube's box; views, not copies."""
        rows, columns = box.slices_in(self.box)
        return Cube(
            self.modality,
            self.bands,
            self.data[..., rows, columns],
            self.valid[..., rows, columns],
            self.observations[..., rows, columns],
            self.dates,
            box,
        )
