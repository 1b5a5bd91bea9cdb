"""The cube: composed imagery of one modality over one PixelBox."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.grid import PixelBox

NEVER = 0
"""Value of `observed_on` where nothing was observed (1 January 1970, before any of the satellites)."""


@dataclass(frozen=True)
class Cube:
    """Composed imagery of one modality over one box.

    Attributes:
        modality: e.g. "sentinel2_l2a".
        bands: names along the axis C.
        data: (T, C, H, W), physical values (Sentinel-2: uint16, reflectance x 10000; Sentinel-1: float32, dB; Landsat:
            uint16, Level 1 numbers), 0 where not valid.
        observations: (T, H, W) uint8, how many observations there were to make the value of: 0 where none was left (no
            scene, cloud, nodata); 0 or 1 for `least_cloudy` and `first_valid`, which stop at the first; all valid ones
            (255 stands for more) for `median` and `medoid`.
        observed_on: (T, H, W) int32, days since 1970-01-01 of the observation that was taken; of the middle one for
            `median`; NEVER where there is none.
        dates: (T,) datetime64[D], the middle of each timestep's span: what the encoder is told.
        box: where on the grid.
    """

    modality: str
    bands: tuple[str, ...]
    data: NDArray[Any]
    observations: NDArray[np.uint8]
    observed_on: NDArray[np.int32]
    dates: NDArray[np.datetime64]
    box: PixelBox

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(T, H, W), where the data are an observation. A timestep without any scene is False everywhere."""
        return self.observations > 0

    def crop(self, box: PixelBox) -> Cube:
        """The part over `box`, which lies in this cube's box; views, not copies."""
        rows, columns = box.slices_in(self.box)
        return Cube(
            self.modality,
            self.bands,
            self.data[..., rows, columns],
            self.observations[..., rows, columns],
            self.observed_on[..., rows, columns],
            self.dates,
            box,
        )
