"""One tile: imagery in, class and probabilities out.

What a pixel becomes depends on the windows over it, and what a window becomes depends on its imagery alone: windows are
forwarded in batches of fixed shapes (`batches`) and summed exactly (`Blend`). So no tile border shows in a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.inference.blend import Blend

Predict = Callable[[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]], np.ndarray]
"""(inputs {modality: (B, T, C, H, W)}, dates (B, T), valid {modality: (B, T, H, W)}) -> probabilities (B, K, H, W)."""


@dataclass(frozen=True)
class TileInput:
    """All that a tile is made of.

    Attributes:
        box: what the tile covers.
        area: (H, W) bool, its pixels that belong to the area.
        windows: what it computes, in lattice order.
        cubes: modality -> imagery over all windows.
    """

    box: PixelBox
    area: np.ndarray
    windows: list[PixelBox]
    cubes: dict[str, Cube]


@dataclass(frozen=True)
class MappedTile:
    """A tile as it will be written.

    Attributes:
        box: what it covers.
        classes: (H, W) uint8; nodata outside the area and where no timestep has a valid pixel.
        probabilities: (K, H, W) uint8, probability times 250; nodata at the same pixels.
        area_pixels: how many pixels belong to the area.
        windows_seen: how many windows the model saw; the others have nothing to see.
    """

    box: PixelBox
    classes: np.ndarray
    probabilities: np.ndarray
    area_pixels: int
    windows_seen: int


def map_tile(
    tile: TileInput, predict: Predict, *, classes: int, patch_size: int, batch_sizes: Sequence[int]
) -> MappedTile:
    """Map the pixels of one tile.

    Args:
        tile: what there is to see.
        predict: the model.
        classes: K.
        patch_size: the encoder's, in pixels.
        batch_sizes: as in the plan.
    """
    blend = Blend(tile.box, classes)
    seen = 0
    for windows, rows in batches(tile.windows, tile.cubes, patch_size, batch_sizes):
        for window, probabilities in zip(windows, _forward(windows, rows, tile.cubes, predict), strict=True):
            blend.add(window, probabilities)
        seen += len(windows)
    mapped = tile.area & _observed(tile.box, tile.cubes) & blend.covered
    return MappedTile(tile.box, blend.classes(mapped), blend.probabilities(mapped), int(tile.area.sum()), seen)


def batches(
    windows: Sequence[PixelBox], cubes: Mapping[str, Cube], patch_size: int, sizes: Sequence[int]
) -> Iterator[tuple[list[PixelBox], int]]:
    """Sort windows into batches: (windows, number of rows to pad them to). A window with nothing to see is left out.

    Arithmetic on a batch may round differently when the batch has another shape, and its shape follows from how much
    of their timesteps the windows see. So a batch holds windows that see equally many timesteps whole and the others
    not at all, always the same number of them (`Plan.batch_sizes`); a window that sees one in part goes alone.
    """
    alike: dict[tuple[int, ...], list[PixelBox]] = {}
    for window in windows:
        valid = np.stack([cube.crop(window).valid for cube in cubes.values()])  # (M, T, H, W)
        if not valid[..., ::patch_size, ::patch_size].any():  # the encoder looks at a patch's first pixel
            continue
        whole = valid.all(axis=(2, 3))
        if (whole == valid.any(axis=(2, 3))).all():
            alike.setdefault(tuple(int(n) for n in whole.sum(axis=1)), []).append(window)
        else:
            yield [window], 1
    for counts, group in sorted(alike.items()):
        size = sizes[max(counts) - 1]
        for first in range(0, len(group), size):
            yield group[first : first + size], size


def _forward(windows: list[PixelBox], rows: int, cubes: Mapping[str, Cube], predict: Predict) -> np.ndarray:
    """Probabilities (len(windows), K, H, W), from a batch padded to `rows` by repeating its first window."""
    crops = [{m: cube.crop(window) for m, cube in cubes.items()} for window in windows]
    crops += crops[:1] * (rows - len(crops))
    inputs = {m: np.stack([crop[m].data for crop in crops]) for m in cubes}
    valid = {m: np.stack([crop[m].valid for crop in crops]) for m in cubes}
    dates = np.stack([next(iter(crop.values())).dates for crop in crops])
    return predict(inputs, dates, valid)[: len(windows)]


def _observed(box: PixelBox, cubes: Mapping[str, Cube]) -> np.ndarray:
    """(H, W) bool, True where any timestep of any modality has a valid pixel."""
    observed = np.zeros(box.shape, bool)
    for cube in cubes.values():
        common = box.cut(cube.box)
        observed[common.slices_in(box)] |= cube.crop(common).valid.any(axis=0)
    return observed
