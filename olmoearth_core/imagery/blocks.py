"""Blocks of assets, kept as decoded pixels: small windows share blocks, and a slice costs less than a read.

An asset is stored in blocks (a COG: 256 or 512 px squares), and whoever needs one pixel fetches and decodes its block.
So whole blocks are read, each once as long as it is remembered, and windows are cut from them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.imagery.sampling import SourceGrid, SourceWindow

Block = tuple[int, int]
"""Row and column of a block."""
Pixels = NDArray[Any]

SMALLEST, LARGEST = 32, 2048
"""Edges in pixels of blocks that are worth keeping: strips of single lines are not, nor is a file in one piece."""
MANY = 32
"""Blocks that a window may touch to be cut from them; a larger one is read as it is, and leaves the others alone."""


class BlockCache:
    """The blocks used last, up to a number of bytes; safe between threads."""

    def __init__(self, limit: int):
        self._limit = limit
        self._bytes = 0
        self._blocks: OrderedDict[tuple[str, Block], Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, address: str, block: Block) -> Pixels | None:
        """The pixels (h, w) of a block, not to be written to; None where they are not remembered."""
        key = address, block
        with self._lock:
            if (pixels := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
            return pixels

    def put(self, address: str, block: Block, pixels: Pixels) -> None:
        """Remember a block, and forget those not used for longest."""
        pixels.flags.writeable = False
        with self._lock:
            if (former := self._blocks.pop((address, block), None)) is not None:
                self._bytes -= former.nbytes
            self._blocks[address, block] = pixels
            self._bytes += pixels.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._blocks.clear()
            self._bytes = 0


def worth_keeping(block: tuple[int, int]) -> bool:
    """Whether blocks of this (height, width) are kept."""
    return SMALLEST <= block[0] <= LARGEST and SMALLEST <= block[1] <= LARGEST


def blocks_of(window: SourceWindow, block: tuple[int, int]) -> list[Block]:
    """(row, column) of the blocks of `block` (height, width) that `window` touches, row by row."""
    height, width = block
    return [
        (row, column)
        for row in range(window.top // height, -(-window.bottom // height))
        for column in range(window.left // width, -(-window.right // width))
    ]


def window_of(block: Block, size: tuple[int, int], source: SourceGrid) -> SourceWindow:
    """The pixels of a block; those at the right and lower edge may be smaller."""
    (row, column), (height, width) = block, size
    return SourceWindow(
        row * height, min((row + 1) * height, source.height), column * width, min((column + 1) * width, source.width)
    )


def cut(window: SourceWindow, blocks: Sequence[tuple[SourceWindow, Pixels]]) -> Pixels:
    """The pixels of `window` from the blocks that it touches; 0 where there are none."""
    if len(blocks) == 1:
        (place, pixels) = blocks[0]
        inside = window.left >= place.left and window.right <= place.right
        if inside and window.top >= place.top and window.bottom <= place.bottom:
            return pixels[window.top - place.top : window.bottom - place.top, window.left - place.left : window.right - place.left]  # fmt: skip # noqa: E501
    whole = np.zeros(window.shape, blocks[0][1].dtype)
    for place, pixels in blocks:
        top, bottom = max(window.top, place.top), min(window.bottom, place.bottom)
        left, right = max(window.left, place.left), min(window.right, place.right)
        whole[top - window.top : bottom - window.top, left - window.left : right - window.left] = pixels[
            top - place.top : bottom - place.top, left - place.left : right - place.left
        ]
    return whole


def split(
    window: SourceWindow, pixels: Pixels, blocks: Sequence[Block], place: Callable[[Block], SourceWindow]
) -> list[tuple[Block, Pixels]]:
    """The `blocks` that make up the pixels of `window`, each with memory of its own."""
    return [
        (
            block,
            pixels[at.top - window.top : at.bottom - window.top, at.left - window.left : at.right - window.left].copy(),
        )
        for block in blocks
        for at in (place(block),)
    ]
