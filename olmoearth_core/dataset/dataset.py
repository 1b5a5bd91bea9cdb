"""A training set as training sees it: a table of windows, and a sample for each row of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np

from olmoearth_core.dataset.cubes import Cubes, Sample, TaskLayout, Truth, open_cubes
from olmoearth_core.errors import DatasetError
from olmoearth_core.grid import Grid, PixelBox

CUBES = "cubes.zarr"
WINDOWS = "windows.parquet"
PART_BYTES = 32 * 2**20
"""Imagery that is read together in a pass over the set."""

__all__ = ["CUBES", "WINDOWS", "Dataset", "Sample", "TaskLayout", "Truth", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """A training set on disk.

    Attributes:
        folder: where it lies.
        windows: one row a window: geometry, name, cube (its row in cubes.zarr), column and row (upper left pixel on
            the grid), date, split ("train", "validation" or "test"), block_column, block_row, valid_share,
            timesteps_seen, conflicts, scenes, and labelled, visible pixels of each stratum of each task
            (`pixels_column`); of a classification 1 for the window's class.
    """

    folder: Path
    windows: gpd.GeoDataFrame
    cubes: Cubes

    @property
    def classes(self) -> tuple[str, ...]:
        """The main task's strata: its classes, unless it is a regression; a position is a value of targets."""
        return self.cubes.layout.classes

    @property
    def tasks(self) -> dict[str, TaskLayout]:
        """Name -> kind, strata, unit and range; the main task comes first."""
        return dict(self.cubes.layout.tasks)

    @property
    def main(self) -> str:
        """Name of the task that is mapped."""
        return next(iter(self.tasks))

    def pixels(self, task: str | None = None) -> np.ndarray:
        """(N, K) int64: labelled, visible pixels of each stratum of a task (the main one) in each window."""
        name = task or self.main
        columns = [pixels_column(name, stratum, main=self.main) for stratum in self.tasks[name].strata]
        return np.asarray(self.windows[columns].to_numpy(np.int64))

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """Modality -> names along the axis C."""
        return dict(self.cubes.layout.bands)

    @property
    def grid(self) -> Grid:
        """The grid that the windows lie on."""
        return self.cubes.layout.grid

    @property
    def resolution(self) -> float:
        """Edge of a pixel in units of the CRS."""
        return self.grid.resolution

    @property
    def window_size(self) -> int:
        """Edge of a window in pixels."""
        return self.cubes.layout.window_size

    @property
    def timesteps(self) -> int:
        """T."""
        return self.cubes.layout.timesteps

    def __len__(self) -> int:
        return len(self.windows)

    def indices(self, split: str) -> list[int]:
        """Rows of `windows` in "train", "validation" or "test"."""
        return [int(row) for row in np.flatnonzero(self.windows["split"].to_numpy() == split)]

    def box(self, index: int) -> PixelBox:
        """The box of the window in a row of `windows`."""
        window = self.windows.iloc[index]
        return self.grid.box(int(window["column"]), int(window["row"]), self.window_size, self.window_size)

    @property
    def at_once(self) -> int:
        """Windows that are read together in a pass over the set, so that memory does not grow with it."""
        return max(1, PART_BYTES // self.cubes.layout.window_bytes)

    def read(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of rows of `windows`, in the order of `indices`. Safe between threads."""
        return self.cubes.read(self.windows["cube"].to_numpy()[np.asarray(indices, np.int64)])


def pixels_column(task: str, stratum: str, *, main: str) -> str:
    """The column of the window table that counts the pixels of a stratum."""
    return f"pixels_{stratum}" if task == main else f"pixels_{task}:{stratum}"


def open_dataset(folder: Path) -> Dataset:
    """Open the training set that the stage preprocess left in `folder`.

    Raises:
        DatasetError: it is missing or cannot be read.
    """
    cubes = open_cubes(folder / CUBES)
    try:
        windows = gpd.read_parquet(folder / WINDOWS)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder / WINDOWS}: cannot be read ({error}). Run `olmoearth preprocess` to make it again."
        ) from error
    return Dataset(folder, windows, cubes)
