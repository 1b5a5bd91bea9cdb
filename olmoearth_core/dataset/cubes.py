"""cubes.zarr: the composed cubes and targets of all training windows, as a few large files.

One Zarr v3 group holds, for each modality, `<modality>` (N, T, C, H, W), `<modality>_observations` and
`<modality>_observed_on` (N, T, H, W; as in a Cube), for all `dates` (N, T), and what is known: `target` (N, H, W), the
strata of the main task, and `values` (N, H, W) where it is a regression; `target_<task>` and `values_<task>` of the
others. A chunk is one window, so that a window is read alone, or a few where windows are small; a shard, one file,
holds many. A window that was left out keeps its row and takes no room: not valid, nothing labelled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from olmoearth_core.dataset.rows import Rows
from olmoearth_core.errors import DatasetError
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.project import TaskConfig
from olmoearth_core.store import PARTIAL

OBSERVATIONS, OBSERVED_ON = "_observations", "_observed_on"
"""What follows a modality's name in the names of its arrays."""
SHARD_BYTES = 64 * 2**20
"""Size of a shard; what is in memory at once while a shard is written."""
CHUNK_BYTES = 128 * 2**10
"""Least size of a chunk: below it, zarr needs longer to find a chunk than to read or write it."""


@dataclass(frozen=True)
class Truth:
    """What is known about the pixels of a window, for one task.

    Attributes:
        strata: (H, W) uint8, position in task.strata; IGNORE where nothing is known or no timestep shows the pixel.
        values: (H, W) float32 in the task's unit, NaN exactly where `strata` is IGNORE; None unless it is a regression.
    """

    strata: np.ndarray
    values: np.ndarray | None = None

    def where(self, shown: np.ndarray) -> Truth:
        """The same, of the pixels `shown` (H, W) bool alone."""
        values = None if self.values is None else np.where(shown, self.values, np.float32(np.nan))
        return Truth(np.where(shown, self.strata, np.uint8(IGNORE)), values)


@dataclass(frozen=True)
class Sample:
    """One window of a training set.

    Attributes:
        inputs: modality -> (T, C, H, W), physical values (Sentinel-2: uint16, reflectance x 10000), 0 where not valid.
        valid: modality -> (T, H, W) bool.
        dates: (T,) datetime64[D].
        truths: task -> what is known; the main task comes first.
    """

    inputs: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    dates: np.ndarray
    truths: dict[str, Truth]

    @property
    def target(self) -> np.ndarray:
        """(H, W) uint8: the main task's strata."""
        return next(iter(self.truths.values())).strata


@dataclass(frozen=True)
class Composed:
    """One window as it is stored: a sample, and for each modality what its pixels were observed by.

    Attributes:
        cubes: modality -> cube over the window.
        truths: as in a sample.
    """

    cubes: dict[str, Cube]
    truths: dict[str, Truth]


@dataclass(frozen=True)
class TaskLayout:
    """What a training set knows of a task: its kind, its strata, and a regression's unit and range."""

    kind: str
    strata: tuple[str, ...]
    unit: str = ""
    range: tuple[float, float] | None = None

    @classmethod
    def of(cls, task: TaskConfig) -> TaskLayout:
        """That of a task of project.yaml."""
        return cls(task.kind, tuple(task.strata), task.unit, task.range)

    @property
    def has_values(self) -> bool:
        """Whether its truth holds values beside strata."""
        return self.kind == "regression"


@dataclass(frozen=True)
class Layout:
    """What all windows of a training set have in common; kept as the group's attributes.

    Attributes:
        grid: the grid that the windows lie on.
        window_size: H and W in pixels.
        timesteps: T.
        tasks: name -> task, the main one first; a stratum's position is its value in targets.
        bands: modality -> names along the axis C.
        dtypes: modality -> numpy dtype of its cubes.
    """

    grid: Grid
    window_size: int
    timesteps: int
    tasks: Mapping[str, TaskLayout]
    bands: Mapping[str, tuple[str, ...]]
    dtypes: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The main task's strata: its classes, unless it is a regression."""
        return next(iter(self.tasks.values())).strata

    def target_name(self, task: str, what: str = "target") -> str:
        """Name of the array with a task's strata, or with what `values` asks for."""
        return what if task == next(iter(self.tasks)) else f"{what}_{task}"

    @property
    def window_bytes(self) -> int:
        """Size of a window's imagery."""
        pixels = self.window_size**2 * self.timesteps
        return sum(pixels * (len(b) * np.dtype(self.dtypes[m]).itemsize + 5) for m, b in self.bands.items())

    @property
    def shard_windows(self) -> int:
        """Windows in a shard: a power of two, so that shards change their size rarely."""
        return _power_of_two(SHARD_BYTES / self.window_bytes)

    @property
    def chunk_windows(self) -> int:
        """Windows in a chunk: a power of two, so that chunks fill a shard."""
        return min(self.shard_windows, _power_of_two(2 * CHUNK_BYTES / self.window_bytes))

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` gives an equal layout."""
        return {
            "crs": self.grid.crs,
            "resolution": self.grid.resolution,
            "window_size": self.window_size,
            "timesteps": self.timesteps,
            "tasks": [
                {
                    "name": name,
                    "kind": task.kind,
                    "strata": list(task.strata),
                    "unit": task.unit,
                    "range": None if task.range is None else list(task.range),
                }
                for name, task in self.tasks.items()
            ],
            "bands": {modality: list(names) for modality, names in self.bands.items()},
            "dtypes": dict(self.dtypes),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        """The layout that `to_json` wrote."""
        return cls(
            grid=Grid(value["crs"], value["resolution"]),
            window_size=value["window_size"],
            timesteps=value["timesteps"],
            tasks={
                task["name"]: TaskLayout(
                    task["kind"],
                    tuple(task["strata"]),
                    task["unit"],
                    None if task["range"] is None else (float(task["range"][0]), float(task["range"][1])),
                )
                for task in value["tasks"]
            },
            bands={modality: tuple(names) for modality, names in value["bands"].items()},
            dtypes=dict(value["dtypes"]),
        )


class Cubes:
    """cubes.zarr, open: reads windows (many threads may) and writes whole shards (one thread at a time)."""

    def __init__(self, path: Path, group: zarr.Group, layout: Layout) -> None:
        self.layout = layout
        self._arrays: dict[str, zarr.Array] = {name: _array(group, name) for name in _names(layout)}
        self._of_truths = _truth_names(layout)
        self._rows = {name: Rows(path, name, array) for name, array in self._arrays.items()}

    def read(self, rows: Sequence[int]) -> list[Sample]:
        """The windows in `rows`, in their order. Arrays are read-only views of the files: pixels are read when used."""
        return [
            Sample(
                inputs={modality: self._rows[modality][row] for modality in self.layout.bands},
                valid={m: self._rows[f"{m}{OBSERVATIONS}"][row] > 0 for m in self.layout.bands},
                dates=self._rows["dates"][row].view("datetime64[D]"),
                truths={name: self._truth(name, row) for name in self.layout.tasks},
            )
            for row in map(int, rows)
        ]

    def _truth(self, task: str, row: int) -> Truth:
        name = self.layout.target_name
        has_values = self.layout.tasks[task].has_values
        values = self._rows[name(task, "values")][row] if has_values else None
        return Truth(self._rows[name(task)][row], values)

    def write_shard(self, first: int, windows: Sequence[Composed | None]) -> None:
        """Write the windows from row `first` on; None leaves a window out.

        Args:
            first: a multiple of `layout.shard_windows`.
            windows: as many as the shard holds, fewer only at the end.
        """
        rows = slice(first, first + len(windows))
        for name, array in self._arrays.items():
            block = np.full((len(windows), *array.shape[1:]), array.fill_value, array.dtype)
            for k, window in enumerate(windows):
                if window is not None:
                    block[k] = self._part(window, name)
            array[rows] = block

    def _part(self, window: Composed, name: str) -> np.ndarray | None:
        """What a window keeps in the array `name`."""
        if name in self._of_truths:
            task, what = self._of_truths[name]
            truth = window.truths[task]
            return truth.strata if what == "target" else truth.values
        if name == "dates":
            return next(iter(window.cubes.values())).dates.astype("datetime64[D]").astype(np.int64)
        if name.endswith(OBSERVATIONS):
            return window.cubes[name.removesuffix(OBSERVATIONS)].observations
        if name.endswith(OBSERVED_ON):
            return window.cubes[name.removesuffix(OBSERVED_ON)].observed_on
        return window.cubes[name].data


def create_cubes(path: Path, layout: Layout, windows: int) -> Cubes:
    """Make cubes.zarr for `windows` windows, or open the one that an earlier, killed run began."""
    path.mkdir(parents=True, exist_ok=True)
    for abandoned in path.rglob(f"*{PARTIAL}"):  # zarr writes under a temporary name as well
        abandoned.unlink()
    group = zarr.open_group(str(path), mode="a", zarr_format=3, attributes=layout.to_json())
    since = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}
    size, steps, parts = layout.window_size, layout.timesteps, (layout.chunk_windows, layout.shard_windows)
    for modality, bands in layout.bands.items():
        shape = (steps, len(bands), size, size)
        axes = ["window", "time", f"{modality}_band", "y", "x"]
        _make(group, modality, windows, shape, *parts, layout.dtypes[modality], axes)
        plane, over = (steps, size, size), ["window", "time", "y", "x"]
        _make(group, f"{modality}{OBSERVATIONS}", windows, plane, *parts, "uint8", over)
        _make(group, f"{modality}{OBSERVED_ON}", windows, plane, *parts, "int32", over, attributes=since)
    for name, (_task, what) in _truth_names(layout).items():
        dtype, fill = ("uint8", IGNORE) if what == "target" else ("float32", math.nan)
        _make(group, name, windows, (size, size), *parts, dtype, ["window", "y", "x"], fill=fill)
    _make(group, "dates", windows, (steps,), *parts, "int64", ["window", "time"], attributes=since)
    return Cubes(path, group, layout)


def open_cubes(path: Path) -> Cubes:
    """Open cubes.zarr for reading.

    Raises:
        DatasetError: it is missing or is none of ours.
    """
    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=3)
        return Cubes(path, group, Layout.from_json(dict(group.attrs)))
    except (OSError, KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"{path}: no training set that can be opened ({type(error).__name__}: {error}). "
            "Run `olmoearth preprocess` to make it."
        ) from error


def _power_of_two(limit: float) -> int:
    """The largest power of two up to `limit`, at least 1."""
    return int(2 ** max(0, math.floor(math.log2(limit))))


def _names(layout: Layout) -> list[str]:
    of_pixels = [name for m in layout.bands for name in (m, f"{m}{OBSERVATIONS}", f"{m}{OBSERVED_ON}")]
    return [*of_pixels, *_truth_names(layout), "dates"]


def _truth_names(layout: Layout) -> dict[str, tuple[str, str]]:
    """Array -> (task, "target" or "values")."""
    return {
        layout.target_name(name, what): (name, what)
        for name, task in layout.tasks.items()
        for what in ("target", "values")[: 1 + task.has_values]
    }


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array


def _make(
    group: zarr.Group,
    name: str,
    windows: int,
    shape: tuple[int, ...],
    chunk: int,
    shard: int,
    dtype: str,
    axes: list[str],
    *,
    fill: float = 0,
    attributes: dict[str, Any] | None = None,
) -> None:
    if name in group:
        return
    group.create_array(
        name,
        shape=(windows, *shape),
        chunks=(chunk, *shape),
        shards=(shard, *shape),
        dtype=dtype,
        fill_value=fill,
        compressors=None,
        dimension_names=axes,
        attributes=attributes or {},
    )
