"""Training, validation and test kept apart: in space (the default), in time, or as the partner says.

In space, the ground is cut into square blocks of whole windows and each block belongs to one split, for all dates: no
pixel of the ground is ever both learned from and scored on. Blocks are dealt out class by class, rarest first
(iterative stratification: Sechidis, Tsoumakas and Vlahavas 2011), so that each split sees each class where there are
blocks enough. A block is dealt once (frozen.py). Neighbouring blocks touch: dataset.split.buffer takes away the
training windows along their borders (leakage.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.project import SplitConfig

SPLITS = ("train", "validation", "test")

Block = tuple[int, int]
"""(column, row) of a block, counted in blocks from the grid's origin."""


@dataclass(frozen=True)
class BlockTable:
    """Which block of the grid belongs to which split.

    Attributes:
        size: edge of a block in pixels, a whole multiple of the window size.
        splits: block -> one of SPLITS.
    """

    size: int
    splits: Mapping[Block, str]

    def split_of(self, box: PixelBox) -> str:
        """The split of a window.

        Raises:
            KeyError: its block is not in the table.
            ValueError: it does not lie in one block.
        """
        block = block_of(box, self.size)
        if block != block_of(box.grid.box(box.column + box.width - 1, box.row + box.height - 1, 1, 1), self.size):
            raise ValueError(f"{box} lies in more than one block of {self.size} pixels")
        return self.splits[block]

    def to_json(self) -> dict[str, Any]:
        """As a JSON value; blocks in order."""
        rows = sorted(self.splits.items())
        return {"block_size": self.size, "blocks": [[column, row, split] for (column, row), split in rows]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BlockTable:
        """The inverse of `to_json`."""
        return cls(value["block_size"], {(column, row): split for column, row, split in value["blocks"]})


def block_of(box: PixelBox, size: int) -> Block:
    """The block that the upper left pixel of `box` lies in."""
    return box.column // size, box.row // size


def block_pixels(config: SplitConfig, window_size: int, resolution: float) -> int:
    """Edge of a block in pixels: dataset.split.block_size, rounded up to whole windows."""
    return math.ceil(config.block_size / (window_size * resolution) - 1e-9) * window_size


def splits_of(windows: Sequence[TrainingWindow], config: SplitConfig, blocks: BlockTable | None) -> list[str]:
    """The split of each window.

    Args:
        windows: with the splits that labels name, where `config` is of kind property.
        blocks: where it is of kind blocks; every window's middle lies in one of them.
    """
    if config.kind == "time":
        return [_split_of_date(window.date, config) for window in windows]
    if blocks is None:
        return [window.split for window in windows]
    return [blocks.split_of(window.centre) for window in windows]


def _split_of_date(day: date, config: SplitConfig) -> str:
    if config.test_from is not None and day >= config.test_from:
        return "test"
    return "validation" if config.validation_from is not None and day >= config.validation_from else "train"


def assign_splits(
    amounts: Mapping[Block, np.ndarray], config: SplitConfig, size: int, dealt: Mapping[Block, str] | None = None
) -> BlockTable:
    """Deal blocks out to the splits.

    Each split in turn (training, validation, test) takes one block of every class it lacks, while there are any; the
    rest go where the class's pixels are furthest from the split's share. Every class is therefore in training.

    Args:
        amounts: block -> (K,) labelled pixels of each class in it. A block without any is for training.
        config: shares and seed. The order of `amounts` makes no difference, the seed does.
        size: edge of a block in pixels.
        dealt: blocks that have their split and keep it, whether they are in `amounts` or not.
    """
    dealt = dealt or {}
    share = np.array([1 - config.validation - config.test, config.validation, config.test])  # as in SPLITS
    blocks = sorted(amounts)
    blocks = [blocks[k] for k in np.random.default_rng(config.seed).permutation(len(blocks))]
    pixels = np.array([amounts[block] for block in blocks], dtype=np.float64)  # (blocks, classes)
    rarest_first = np.argsort((pixels > 0).sum(axis=0), kind="stable")
    wanted = share[:, None] * pixels.sum(axis=0)  # (splits, classes): falls as blocks are dealt out
    chosen = np.full(len(blocks), -1)
    for k, block in enumerate(blocks):
        if block in dealt:
            chosen[k] = SPLITS.index(dealt[block])
            wanted[chosen[k]] -= pixels[k]
        elif not pixels[k].any():
            chosen[k] = 0

    def free(index: int) -> np.ndarray:
        return np.flatnonzero((pixels[:, index] > 0) & (chosen < 0))

    def deal(block: int, split: int) -> None:
        chosen[block] = split
        wanted[split] -= pixels[block]

    for split in np.flatnonzero(share > 0):
        for index in rarest_first:
            lacks = not (pixels[chosen == split, index] > 0).any()
            if lacks and len(left := free(index)):
                deal(int(left[0]), int(split))
    for index in rarest_first:
        for block in free(index):
            deal(int(block), int(np.argmax(np.where(share > 0, wanted[:, index], -np.inf))))
    return BlockTable(size, {**dealt, **{block: SPLITS[k] for block, k in zip(blocks, chosen, strict=True)}})
