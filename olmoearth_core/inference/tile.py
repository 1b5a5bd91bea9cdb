"""One tile: imagery in, class and probabilities out.

What a pixel becomes depends on the windows over it, and what a window becomes depends on its imagery alone: windows are
forwarded in batches of fixed shapes (batching.py) and summed exactly (blend.py). So no tile border shows in a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from olmoearth_core.grid import PixelBox
from olmoearth_core.inference.batching import Batch, Batcher, kind_of
from olmoearth_core.inference.blend import NODATA, Blend
from olmoearth_core.inference.imagery import Imagery
from olmoearth_core.inference.plan import Plan, PlannedModel, Tile


@dataclass(frozen=True)
class MappedTile:
    """A tile as it will be written.

    Attributes:
        box: what it covers.
        classes: (H, W) uint8; nodata outside the area and where no timestep has a valid pixel. Of a regression 0 where
            there is a value.
        probabilities: (K, H, W) uint8, probability times 250; nodata at the same pixels. Of a regression K is 0.
        area_pixels: how many pixels belong to the area.
        windows_seen: how many windows the model saw; the others have nothing to see.
        values: (H, W) uint16 of a regression, steps of its range (`Blend.values`).
        observations: (H, W) uint8, in how many timesteps a pixel was seen; nodata outside the area. None: not counted.
    """

    box: PixelBox
    classes: np.ndarray
    probabilities: np.ndarray
    area_pixels: int
    windows_seen: int
    values: np.ndarray | None = None
    observations: np.ndarray | None = None


class TileWork:
    """A tile in the making: imagery comes in strips, batches go out as they are complete, predictions come back.

    Args:
        tile: of the plan.
        plan: how it is computed.
        windows: that it computes, in lattice order.
        imagery: over all of them, to be filled.
    """

    def __init__(self, tile: Tile, plan: Plan, windows: list[PixelBox], imagery: Imagery) -> None:
        self.tile, self.box, self.imagery = tile, plan.box(tile), imagery
        self.failed: Exception | None = None
        """Why it cannot be computed."""
        self._model, self._patch = plan.model, plan.layout.patch_size
        self._windows, self._begun = windows, 0
        self._batcher = Batcher(plan.layout, plan.batch_sizes)
        self._blend = Blend(self.box, plan.model.outputs)
        self._seen = 0

    def batches(self, strip: PixelBox) -> Iterator[Batch]:
        """The batches that are complete once imagery is there down to the end of `strip`; at the last one the rest."""
        bottom = strip.row + strip.height
        while self._begun < len(self._windows):
            window = self._windows[self._begun]
            if window.row + window.height > bottom:
                return
            self._begun += 1
            if (kind := kind_of(self.imagery, window, self._patch)) is not None:
                yield from self._batcher.add(window, kind)
        yield from self._batcher.rest()

    def is_last(self, strip: PixelBox) -> bool:
        """Whether all imagery is there with `strip`."""
        return strip.row + strip.height == self.imagery.box.row + self.imagery.box.height

    def blend(self, batch: Batch, predicted: np.ndarray) -> None:
        """Take over what the model says of a batch: probabilities (B, K, H, W), or values (B, 1, H, W)."""
        for row, window in batch.windows:
            self._blend.add(window, shares(predicted[row], self._model))
            self._seen += 1

    def mapped(self, area: np.ndarray) -> MappedTile:
        """The tile, when all batches are blended; `area` (H, W) says which of its pixels belong to the area."""
        observations = self.imagery.observations(self.box)
        mapped = area & (observations > 0) & self._blend.covered
        probabilities, values = self._blend.probabilities(mapped), None
        if self._model.range is not None:
            probabilities, values = probabilities[:0], self._blend.values(mapped)
        observations = np.where(area, observations, np.uint8(NODATA))
        classes, pixels = self._blend.classes(mapped), int(area.sum())
        return MappedTile(self.box, classes, probabilities, pixels, self._seen, values, observations)


def shares(predicted: np.ndarray, model: PlannedModel) -> np.ndarray:
    """Predictions as numbers from 0 to 1: probabilities as they are, values as shares of their range."""
    if model.range is None:
        return predicted
    low, high = model.range
    return np.clip((predicted - low) / (high - low), 0, 1)
