"""One tile: imagery in, class and probabilities out.

What a pixel becomes depends on the windows over it, and what a window becomes depends on its imagery alone: windows are
forwarded in batches of fixed shapes (`batches`) and summed exactly (`Blend`). So no tile border shows in a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.inference.blend import Blend
from olmoearth_core.inference.plan import Layout, PlannedModel

Predict = Callable[[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]], np.ndarray]
"""(inputs {modality: (B, T, C, H, W)}, dates (B, T), valid {modality: (B, T, H, W)}) -> probabilities (B, K, H, W), or
values (B, 1, H, W)."""


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
        classes: (H, W) uint8; nodata outside the area and where no timestep has a valid pixel. Of a regression 0 where
            there is a value.
        probabilities: (K, H, W) uint8, probability times 250; nodata at the same pixels. Of a regression K is 0.
        area_pixels: how many pixels belong to the area.
        windows_seen: how many windows the model saw; the others have nothing to see.
        values: (H, W) uint16 of a regression, steps of its range (`Blend.values`).
    """

    box: PixelBox
    classes: np.ndarray
    probabilities: np.ndarray
    area_pixels: int
    windows_seen: int
    values: np.ndarray | None = None


def map_tile(
    tile: TileInput, predict: Predict, *, model: PlannedModel, layout: Layout, batch_sizes: Sequence[int]
) -> MappedTile:
    """Map the pixels of one tile.

    Args:
        tile: what there is to see.
        predict: the model.
        model: what it predicts.
        layout: of the plan.
        batch_sizes: of the plan.
    """
    blend = Blend(tile.box, model.outputs)
    seen = 0
    for batch in batches(tile.windows, tile.cubes, layout, batch_sizes):
        for window, probabilities in zip(batch, _forward(batch, tile.cubes, predict), strict=True):
            if window is not None:
                blend.add(window, _shares(probabilities, model))
                seen += 1
    mapped = tile.area & _observed(tile.box, tile.cubes) & blend.covered
    probabilities, values = blend.probabilities(mapped), None
    if model.range is not None:
        probabilities, values = probabilities[:0], blend.values(mapped)
    return MappedTile(tile.box, blend.classes(mapped), probabilities, int(tile.area.sum()), seen, values)


def _shares(predicted: np.ndarray, model: PlannedModel) -> np.ndarray:
    """Predictions as numbers from 0 to 1: probabilities as they are, values as shares of their range."""
    if model.range is None:
        return predicted
    low, high = model.range
    return np.clip((predicted - low) / (high - low), 0, 1)


def batches(
    windows: Sequence[PixelBox], cubes: Mapping[str, Cube], layout: Layout, sizes: Sequence[int]
) -> Iterator[list[PixelBox | None]]:
    """Sort windows into batches. A row without a window is None; a window with nothing to see is left out.

    A matrix product may round a row differently in a matrix of another height, or at another place in it (threads
    share the rows). So that a window becomes the same in every tile, bit for bit, its batch has a fixed shape and the
    window a fixed place in it, whoever else is there:

    * A batch holds windows that see equally many timesteps whole and the others not at all, hence equally long
      sequences, and always the number of rows that the plan sets for that.
    * A window's row follows from its place on the lattice (`_row`).
    * A window that sees a timestep in part goes alone: its sequence is as long as no other's.
    """
    alike: dict[tuple[int, ...], list[PixelBox]] = {}
    patch = layout.patch_size
    for window in windows:
        valid = np.stack([cube.crop(window).valid for cube in cubes.values()])  # (M, T, H, W)
        if not valid[..., ::patch, ::patch].any():  # the encoder looks at a patch's first pixel
            continue
        whole = valid.all(axis=(2, 3))
        if (whole == valid.any(axis=(2, 3))).all():
            alike.setdefault(tuple(int(n) for n in whole.sum(axis=1)), []).append(window)
        else:
            yield [window]
    for counts, group in sorted(alike.items()):
        rows: list[list[PixelBox]] = [[] for _ in range(sizes[max(counts) - 1])]
        for window in group:
            rows[_row(window, layout.stride, len(rows))].append(window)
        yield from (list(batch) for batch in zip_longest(*rows))


def _row(window: PixelBox, stride: int, rows: int) -> int:
    """The row of a window in its batch: neighbours on the lattice get different ones, so that few rows stay empty.

    Along a row of the lattice they count up, from one to the next they jump by the golden section of a batch.
    """
    return (window.column // stride + (int(0.618 * rows) | 1) * (window.row // stride)) % rows


def _forward(batch: Sequence[PixelBox | None], cubes: Mapping[str, Cube], predict: Predict) -> np.ndarray:
    """Probabilities (B, K, H, W) of a batch; a row without a window repeats another one."""
    some = next(window for window in batch if window is not None)
    crops = [{m: cube.crop(window or some) for m, cube in cubes.items()} for window in batch]
    inputs = {m: np.stack([crop[m].data for crop in crops]) for m in cubes}
    valid = {m: np.stack([crop[m].valid for crop in crops]) for m in cubes}
    dates = np.stack([next(iter(crop.values())).dates for crop in crops])
    return predict(inputs, dates, valid)


def _observed(box: PixelBox, cubes: Mapping[str, Cube]) -> np.ndarray:
    """(H, W) bool, True where any timestep of any modality has a valid pixel."""
    observed = np.zeros(box.shape, bool)
    for cube in cubes.values():
        common = box.cut(cube.box)
        observed[common.slices_in(box)] |= cube.crop(common).valid.any(axis=0)
    return observed
