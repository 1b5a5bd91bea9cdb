"""The table of blocks, dealt once: it lies in the project's splits/ and only ever grows.

The file's name follows from what decides a deal (grid, block size, shares, seed): with other settings there is another
file. New labels in new blocks make the table longer; what is in it stays, so that old windows keep their split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import ProjectError
from olmoearth_core.grid import Grid
from olmoearth_core.labels.split import SPLITS, Block, BlockTable, assign_splits, block_of, block_pixels
from olmoearth_core.labels.tasks import Counted, all_windows, count_all, read_all
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.store import write_json

FOLDER = "splits"


def freeze_blocks(project: Project, progress: Progress, counted: Counted | None = None) -> Path:
    """The file with the blocks of all training windows; blocks that are not in it yet are dealt out and added.

    They are dealt by the strata of all tasks together, so that each split sees each task. The labels are read and
    counted unless they come with `counted`.

    Raises:
        LabelError: the labels cannot be read.
        ProjectError: the file is damaged.
    """
    labels = counted.labels if counted else read_all(project)
    windows = counted.windows if counted else all_windows(project, labels)
    split = project.config.dataset.split
    deal = _deal(project, labels[project.config.task.name].grid)
    size = int(deal["block_size"])
    path = project.root / FOLDER / f"blocks-{sha256_json(deal)[:12]}.json"
    before = read_blocks(path).splits if path.exists() else {}
    places = [block_of(window.centre, size) for window in windows]
    new = set(places) - before.keys()
    if not new:
        return path
    of_tasks = counted.amounts if counted else count_all(labels, windows, progress)
    pixels = np.concatenate([counts for counts, _ in of_tasks.values()], axis=1)
    amounts: dict[Block, np.ndarray] = {}
    for place, counts in zip(places, pixels, strict=True):
        amounts[place] = amounts.get(place, 0) + counts
    table = assign_splits(amounts, split, size, before)
    others = sorted(path.parent.glob("blocks-*.json")) if not before else []
    write_json(path, {**deal, **table.to_json()})
    progress.note(_told(path, len(new), len(before), others))
    return path


def read_blocks(path: Path) -> BlockTable:
    """The table that `freeze_blocks` wrote.

    Raises:
        ProjectError: the file is missing or damaged.
    """
    try:
        table = BlockTable.from_json(json.loads(path.read_text(encoding="utf-8")))
        if strange := set(table.splits.values()) - set(SPLITS):
            raise ValueError(f"unknown split {', '.join(map(str, strange))}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(
            f"{path}: is no table of blocks ({error}). Restore it from git, or delete it to deal all blocks anew."
        ) from error
    return table


def _deal(project: Project, grid: Grid) -> dict[str, Any]:
    """What decides who gets which block."""
    split = project.config.dataset.split
    return {
        "block_size": block_pixels(split, project.config.model.window_size, grid.resolution),
        "crs": grid.crs,
        "resolution": grid.resolution,
        "seed": split.seed,
        "test": split.test,
        "validation": split.validation,
    }


def _told(path: Path, new: int, before: int, others: list[Path]) -> str:
    name = f"{FOLDER}/{path.name}"
    if before:
        return f"{new} new blocks were given a split; the {before} old ones in {name} keep theirs"
    if others:
        return (
            f"block size, shares, seed or grid are new: all {new} blocks were given a split anew, kept in {name}; "
            f"{', '.join(other.name for other in others)} is not used any more"
        )
    return f"{new} blocks were given a split, kept in {name}"
