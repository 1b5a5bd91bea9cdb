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
        patches: of those other pairs with an edge of a patch between them, of any window over both.
        pairs: how many pairs are `across`.
    """

    across: float
    inside: float
    patches: float
    pairs: int

    @classmethod
    def of(cls, sums: np.ndarray) -> Seams:
        """From sums and counts (3, 2) of pairs across, inside and at patches."""
        across, inside, patches = sums[:, 0] / np.maximum(sums[:, 1], 1)
        return cls(float(across), float(inside), float(patches), int(sums[0, 1]))

    @property
    def score(self) -> float:
        """1 where edges do not show at all; the goal is at most 1.05."""
        return self.across / self.inside

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
    """What `seams` is made of, (3, 2), as `differences`: those of several maps add up.

    Raises:
        MappingError: there is no plan.
    """
    plan = read_plan(tiles)
    boxes = {(t.crs, box.column, box.row): (t.name, box) for t in plan.tiles for box in (plan.box(t),)}
    sums = np.zeros((3, 2))
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
    """Neighbours along the last axis of (K, H, W) uint8, (3, 2): differences and pairs across, inside, at patches.

    Args:
        probabilities: times 250, nodata 255.
        first: absolute column of the first pixel.
        layout: where edges are.
    """
    left, right = probabilities[..., :-1].astype(np.float64), probabilities[..., 1:].astype(np.float64)
    known = (probabilities[0, :, :-1] != NODATA) & (probabilities[0, :, 1:] != NODATA)
    apart = np.where(known, np.abs(right - left).mean(axis=0), 0).sum(axis=0) / PROBABILITY_STEPS
    pairs = known.sum(axis=0)
    at = first + 1 + np.arange(len(pairs))
    # every second window begins `shift` further: the first and the second of each two are lattices of their own
    edge, patch = at % layout.tile_size == 0, np.zeros(len(at), bool)
    for start in (0, layout.stride + layout.shift):
        since, within = (at - start), (at - start) % (2 * layout.stride)
        edge |= (within == 0) | ((since - layout.window_size) % (2 * layout.stride) == 0)
        patch |= (within % layout.patch_size == 0) & (within < layout.window_size)
    kinds = (edge, ~edge, ~edge & patch)
    return np.array([[apart[kind].sum(), pairs[kind].sum()] for kind in kinds])


def _probabilities(path: Path) -> np.ndarray:
    with rasterio.open(path) as tile:
        found: np.ndarray = tile.read(range(2, tile.count))
    return found
