"""How much the borders of windows and tiles show in a map: a number to compare blending and hard pasting by.

Hard pasting is what `map.overlap: 0` gives: windows side by side, each pixel from one of them. It is there to compare
with; between windows of a blended map lie no seams to speak of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from olmoearth_core.inference.blend import NODATA, PROBABILITY_STEPS
from olmoearth_core.inference.plan import Layout, read_plan


@dataclass(frozen=True)
class Seams:
    """Mean absolute difference of the probabilities (0 to 1) of neighbouring pixels, over classes.

    Attributes:
        across: of pairs with an edge of a window or tile between them.
        inside: of all other pairs.
        patches: of those other pairs with an edge of a patch between them; windows begin with patches, so that what the
            model does at a patch's edge is in `across` as well.
        pairs: how many pairs are `across`.
        elsewhere: the score, had windows and tiles lain 1, 2, ... pixels further: what chance makes of a map without
            any seam, since a shoreline may happen to follow an edge.
    """

    across: float
    inside: float
    patches: float
    pairs: int
    elsewhere: tuple[float, ...] = ()

    @classmethod
    def of(cls, sums: np.ndarray) -> Seams:
        """From `differences`, or the sum of several."""
        means = sums[..., 0] / np.maximum(sums[..., 1], 1)
        scores = means[:, 0] / np.maximum(means[:, 1], np.finfo(float).tiny)
        across, inside, patches = means[0].tolist()
        return cls(across, inside, patches, int(sums[0, 0, 1]), tuple(scores[1:].tolist()))

    @property
    def score(self) -> float:
        """1 where edges do not show at all; the goal is at most 1.05."""
        return self.across / self.inside

    @property
    def rank(self) -> float:
        """The share of all places of the lattice, its own among them, whose score is as high: edges show where it is
        small."""
        return (1 + sum(other >= self.score for other in self.elsewhere)) / (1 + len(self.elsewhere))

    @property
    def patch_score(self) -> float:
        """The same against edges of patches alone."""
        return self.across / self.patches


def seams(tiles: Path) -> Seams:
    """The seams of a map of classes, from its tiles (the folder that the stage infer left); tile by tile.

    Raises:
        MappingError: there is no plan.
    """
    return Seams.of(seam_sums(tiles))


def seam_sums(tiles: Path) -> np.ndarray:
    """What `seams` is made of, as `differences`: those of several maps add up.

    Raises:
        MappingError: there is no plan.
    """
    plan = read_plan(tiles)
    boxes = {(t.crs, box.column, box.row): (t.name, box) for t in plan.tiles for box in (plan.box(t),)}
    sums = np.zeros((plan.layout.stride, 3, 2))
    for (zone, column, row), (name, box) in boxes.items():
        here = _probabilities(tiles / f"{name}.tif")
        right, below = boxes.get((zone, column + box.width, row)), boxes.get((zone, column, row + box.height))
        if right and right[1].height == box.height:
            here_and_right = np.concatenate([here, _probabilities(tiles / f"{right[0]}.tif")[..., :1]], axis=2)
        else:
            here_and_right = here
        if below and below[1].width == box.width:
            here_and_below = np.concatenate([here, _probabilities(tiles / f"{below[0]}.tif")[:, :1]], axis=1)
        else:
            here_and_below = here
        sums += differences(here_and_right, column, plan.layout)
        sums += differences(here_and_below.swapaxes(1, 2), row, plan.layout)
    return sums


def differences(probabilities: np.ndarray, first: int, layout: Layout) -> np.ndarray:
    """Neighbours along the last axis of (K, H, W) uint8: differences and pairs across, inside, at patches.

    Args:
        probabilities: times 250, nodata 255.
        first: absolute column of the first pixel.
        layout: where edges are.

    Returns:
        (stride, 3, 2) sums and counts: of the layout as it is, and moved by 1, 2, ... pixels.
    """
    left, right = probabilities[..., :-1].astype(np.float64), probabilities[..., 1:].astype(np.float64)
    known = (probabilities[0, :, :-1] != NODATA) & (probabilities[0, :, 1:] != NODATA)
    apart = np.where(known, np.abs(right - left).mean(axis=0), 0).sum(axis=0) / PROBABILITY_STEPS
    sums = np.stack([apart, known.sum(axis=0)], axis=-1)  # (W - 1, 2)
    found = np.empty((layout.stride, 3, 2))
    for moved in range(layout.stride):
        at = first + 1 + np.arange(len(sums)) - moved
        edge = (
            (at % layout.stride == 0) | ((at - layout.window_size) % layout.stride == 0) | (at % layout.tile_size == 0)
        )
        patch = ~edge & (at % layout.patch_size == 0)
        found[moved] = [sums[kind].sum(axis=0) for kind in (edge, ~edge, patch)]
    return found


def _probabilities(path: Path) -> np.ndarray:
    with rasterio.open(path) as tile:
        found: np.ndarray = tile.read(range(2, tile.count))
    return found
