"""One tile of embeddings: imagery in, a direction for each patch out, and the file that holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from rasterio.io import MemoryFile

from olmoearth_core.embeddings.code import NODATA, Dtype, encode
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.inference.batching import Batch, Batcher, assemble, kind_of
from olmoearth_core.inference.blend import Blend
from olmoearth_core.inference.imagery import Imagery
from olmoearth_core.inference.plan import Layout


class Look(Protocol):
    """An encoder: (inputs {modality: (B, T, C, H, W)}, dates (B, T), valid {modality: (B, T, H, W)}) -> features
    (B, D, H/p, W/p); zeros at a patch without anything to see."""

    def __call__(
        self,
        inputs: dict[str, np.ndarray],
        dates: np.ndarray,
        valid: dict[str, np.ndarray],
        *,
        whole_timesteps: bool,
    ) -> np.ndarray:
        """Look at a batch."""
        ...


@dataclass(frozen=True)
class Sight:
    """What there is to see of a tile.

    Attributes:
        box: the pixels of the tile.
        area: (H, W) bool over `box`: those that belong to the area.
        windows: that it computes, in lattice order.
        imagery: over all of them.
    """

    box: PixelBox
    area: np.ndarray
    windows: Sequence[PixelBox]
    imagery: Imagery


_SHORTEST = 0.01
"""Shorter means of unit vectors are no direction: nothing was seen, or windows contradict each other completely."""


def patch_box(box: PixelBox, patch_size: int) -> PixelBox:
    """The patches that pixels of `box` lie in, as a box of the grid whose pixels are patches.

    Patches are counted from the grid's origin, as the lattice of windows is, so every window holds whole ones.
    """
    grid = Grid(box.grid.crs, box.grid.resolution * patch_size)
    column, row = box.column // patch_size, box.row // patch_size
    right, bottom = -(-(box.column + box.width) // patch_size), -(-(box.row + box.height) // patch_size)
    return grid.box(column, row, right - column, bottom - row)


def embed_tile(tile: Sight, look: Look, size: int, *, layout: Layout, batch_sizes: Sequence[int]) -> np.ndarray:
    """Unit vectors (D, h, w) float32 of the patches of `tile` (`patch_box`), NaN where there is none.

    A window's features are made directions, windows over one patch are averaged with the weights of a map (`Blend`:
    exact, so that neighbouring tiles agree bit for bit), and the mean is made a direction again.

    Args:
        tile: what there is to see.
        look: the encoder.
        size: D.
        layout: of the plan.
        batch_sizes: of the plan.
    """
    patch = layout.patch_size
    box = patch_box(tile.box, patch)
    blend = Blend(box, size)
    for batch in _batches(tile, layout, batch_sizes):
        features = look(*assemble(batch, tile.imagery), whole_timesteps=batch.masked)
        for row, window in batch.windows:
            blend.add(patch_box(window, patch), (_directions(features[row]) + 1) / 2)
    mean = 2 * blend.mean() - 1
    return np.where(_patches_of(tile, box, patch), _directions(mean, shortest=_SHORTEST, none=np.nan), np.nan).astype(
        np.float32
    )


def _batches(tile: Sight, layout: Layout, sizes: Sequence[int]) -> Iterator[Batch]:
    batcher = Batcher(layout, sizes)
    for window in tile.windows:
        if (kind := kind_of(tile.imagery, window, layout.patch_size)) is not None:
            yield from batcher.add(window, kind)
    yield from batcher.rest()


def _directions(vectors: np.ndarray, *, shortest: float = 0.0, none: float = 0.0) -> np.ndarray:
    """(D, H, W) vectors with length 1; `none` in place of those not longer than `shortest`."""
    length = np.linalg.norm(vectors, axis=0, keepdims=True)
    return np.asarray(np.where(length > shortest, vectors / np.where(length > shortest, length, 1), none))


def _patches_of(tile: Sight, box: PixelBox, patch: int) -> np.ndarray:
    """(h, w) bool: the patches that hold a pixel of the area."""
    inside = np.zeros((box.height * patch, box.width * patch), bool)
    top, left = tile.box.row - box.row * patch, tile.box.column - box.column * patch
    inside[top : top + tile.box.height, left : left + tile.box.width] = tile.area
    return np.asarray(inside.reshape(box.height, patch, box.width, patch).any(axis=(1, 3)))


def encode_file(vectors: np.ndarray, box: PixelBox, dtype: Dtype, tags: dict[str, str]) -> bytes:
    """Unit vectors (D, h, w) of `box` as the bytes of a Cloud Optimized GeoTIFF with a band a dimension.

    It has no overviews: the mean of stored numbers is not the mean of directions.
    """
    with MemoryFile() as memory:
        with memory.open(
            driver="COG",
            count=len(vectors),
            height=box.height,
            width=box.width,
            dtype="int8" if dtype == "int8" else "float32",
            **({} if dtype == "int8" else {"nbits": 16}),  # GDAL before 3.11 knows half floats only as short float32
            crs=box.grid.crs,
            transform=box.transform,
            nodata=NODATA[dtype],
            compress="deflate",
            blocksize=128,
            overviews="NONE",
        ) as target:
            target.write(encode(vectors, dtype))
            target.update_tags(**tags)
            target.descriptions = [f"dimension {i}" for i in range(len(vectors))]
        return bytes(memory.read())
