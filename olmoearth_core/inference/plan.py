"""The plan of a map: which tiles, which windows, and every choice that a worker must not make for itself.

A grid is a UTM zone's, or the one of choice. Windows lie on one lattice per grid, whatever the tiles. A tile computes
all windows that touch its part of the area, so tiles need nothing from each other, and a pixel is blended from the same
windows in whichever tile it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from pyproj import CRS

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import Grid, Lattice, PixelBox, window_stride
from olmoearth_core.inference.area import Area
from olmoearth_core.models.prediction_sets import PredictionSets
from olmoearth_core.store import write_json

PLAN = "plan.json"
TOKENS = {"cpu": 512, "cuda": 65536}
"""Tokens that a batch may hold, by kind of device: enough to keep it busy, and no more, since the last batch is padded.
(A CPU gains nothing above some hundred: v1.1-nano, windows of 16 px, patch 4, T = 1, one thread, bf16: 4.6, 1.3, 0.75,
0.87 and 1.0 ms a window for batches of 16, 128, 512, 1,024 and 2,048 tokens.)"""
MAX_BATCH = 256


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tile(_Part):
    """The unit of distribution, retry and resume.

    Its name is its position on the grid's lattice of tiles; its box is that square cut to the bounds of the area.
    """

    name: str
    crs: str
    """Of its grid."""
    column: int
    row: int
    width: int
    height: int
    windows: int
    """How many windows it computes."""


class Layout(_Part):
    """Sizes in pixels."""

    tile_size: int
    window_size: int
    patch_size: int
    stride: int
    """Distance between neighbouring windows; what remains of `window_size` they have in common."""

    @property
    def lattice(self) -> Lattice:
        """Where windows lie, along either axis."""
        return Lattice(self.window_size, self.stride)


class PlannedModel(_Part):
    """The model that the plan is for."""

    weights_sha256: str
    classes: list[str]
    """Names; a class's position is its value in the map. None of a regression."""
    name: str = "main"
    """Of the task."""
    unit: str = ""
    range: tuple[float, float] | None = None
    """Of a regression: the values that are possible."""
    sets: PredictionSets | None = None
    """As in its card."""

    @property
    def outputs(self) -> int:
        """Channels of its predictions."""
        return len(self.classes) or 1


class Plan(_Part):
    """All tiles of a map, and how each is computed. Equal inputs give an equal plan, byte for byte."""

    zones: list[str]
    """The CRS of each grid that holds tiles, in the tiles' order: UTM zones from west to east, or the one of choice."""
    resolution: float
    anchor: date
    """Anchor of the temporal framing."""
    timesteps: list[tuple[date, date]]
    """Spans [start, end) of the composites."""
    model: PlannedModel
    layout: Layout
    batch_sizes: list[int]
    """Rows of a batch of windows that see 1, 2, ... timesteps."""
    precision: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    """Of the device's arithmetic, where it is a CPU. (Those that read and write change no pixel.)"""
    windows: int
    """Distinct windows; the tiles together compute a few more, those that two of them touch."""
    tiles: list[Tile]

    def box(self, tile: Tile) -> PixelBox:
        """The pixels that the file of `tile` covers, on the grid of its zone."""
        return Grid(tile.crs, self.resolution).box(tile.column, tile.row, tile.width, tile.height)

    def tiles_of(self, zone: str) -> list[Tile]:
        """The tiles on one of the `zones`."""
        return [tile for tile in self.tiles if tile.crs == zone]

    def bounds(self, zone: str) -> PixelBox:
        """The smallest box around all tiles of a zone: the extent of its mosaic."""
        return reduce(PixelBox.union, (self.box(tile) for tile in self.tiles_of(zone)))


def map_layout(tile_size: int, window_size: int, patch_size: int, overlap: float) -> Layout:
    """How maps are laid out: sizes in pixels, `overlap` the share of a window's edge in common with the next."""
    stride = window_stride(window_size, patch_size, overlap)
    return Layout(tile_size=tile_size, window_size=window_size, patch_size=patch_size, stride=stride)


def batch_sizes(timesteps: int, window_size: int, patch_size: int, device: str) -> list[int]:
    """Windows in a batch, when they see 1, 2, ... `timesteps` timesteps: the fewer, the shorter sequences."""
    patches = (window_size // patch_size) ** 2
    return [max(1, min(MAX_BATCH, TOKENS[device] // (patches * seen))) for seen in range(1, timesteps + 1)]


def plan_tiles(areas: Sequence[Area], layout: Layout) -> tuple[list[Tile], int]:
    """Lay tiles over the area of each zone.

    Returns:
        the tiles that hold a part of an area, zone by zone and row by row, and the number of distinct windows.

    Raises:
        MappingError: there is none.
    """
    tiles: list[Tile] = []
    windows = 0
    for area in areas:
        waiting = np.zeros(0, np.int64)  # windows that the next row of tiles may hold as well
        for bottom, row in _rows(area, layout):
            tiles.extend(tile for tile, _ in row)
            waiting = np.unique(np.concatenate([waiting, *(_numbered(held) for _, held in row)]))
            over = (waiting >> 32) + layout.window_size <= bottom
            windows += int(over.sum())
            waiting = waiting[~over]
        windows += len(waiting)
    if not tiles:
        raise MappingError("map.area: no pixel has its centre inside the area. Draw it larger.")
    return tiles, windows


def _rows(area: Area, layout: Layout) -> Iterator[tuple[int, list[tuple[Tile, np.ndarray]]]]:
    """Row by row of an area's tiles: where the row ends, and its tiles, each with its windows (N, 2): column, row."""
    size, code, bounds = layout.tile_size, _code(area.grid), area.bounds
    right, below = bounds.column + bounds.width, bounds.row + bounds.height
    for j in range(bounds.row // size, -(-below // size)):
        row = max(j * size, bounds.row)
        height = min((j + 1) * size, below) - row
        i = np.unique(_near(area, bounds.column, row, bounds.width, height, Lattice(size, size))[:, 0]) // size
        column = np.maximum(i * size, bounds.column)
        width = np.minimum((i + 1) * size, right) - column
        boxes = np.stack([column, np.full_like(i, row), width, np.full_like(i, height)], axis=1)
        touched = area.reaches(boxes)
        boxes, places = boxes[touched], i[touched]
        found = []
        for place, box, windows in zip(places.tolist(), boxes.tolist(), _windows(area, boxes, layout), strict=True):
            if len(windows):
                name = f"{code}_{place}_{j}"
                found.append((_tile(name, area.grid.crs, box, len(windows)), windows))
        yield row + height, found


def _tile(name: str, crs: str, box: list[int], windows: int) -> Tile:
    column, row, width, height = box
    return Tile(name=name, crs=crs, column=column, row=row, width=width, height=height, windows=windows)


def _windows(area: Area, boxes: np.ndarray, layout: Layout) -> list[np.ndarray]:
    """The windows (N, 2) that reach the part of the area in each of `boxes` (M, 4) of one row, in lattice order."""
    if not len(boxes):
        return []
    full, size, lattice = area.fills(boxes), layout.window_size, layout.lattice
    row, height = boxes[0, 1], boxes[0, 3]
    left, right = boxes[:, 0].min(), (boxes[:, 0] + boxes[:, 2]).max()
    near = np.empty((0, 2), np.int64) if full.all() else _near(area, left, row, right - left, height, lattice)
    near = near[np.lexsort((near[:, 1], near[:, 0]))]
    # of windows sorted by column, those that touch a box
    start = np.searchsorted(near[:, 0], boxes[:, 0] - size, "right")
    end = np.searchsorted(near[:, 0], boxes[:, 0] + boxes[:, 2], "left")
    over = [_lattice(box, lattice) if f else near[a:b] for box, f, a, b in zip(boxes, full, start, end, strict=True)]
    partly = np.flatnonzero(~full)
    if len(partly):
        cut = [_cut(over[k], boxes[k], size) for k in partly]
        reached = np.split(area.reaches(np.concatenate(cut)), np.cumsum([len(c) for c in cut])[:-1])
        for k, held in zip(partly.tolist(), reached, strict=True):
            windows = over[k][held]
            over[k] = windows[np.lexsort((windows[:, 0], windows[:, 1]))]
    return over


def _near(area: Area, column: int, row: int, width: int, height: int, lattice: Lattice) -> np.ndarray:
    """The windows (N, 2) of the lattice that touch a box and may reach the area: what its polygons' bounds touch.

    So of specks far apart only what lies around them is looked at closely.
    """
    first, last = area.spans(area.grid.box(column, row, width, height))
    first, last = lattice.first(first), lattice.last(last)
    across, down = (last - first + 1).T
    polygon = np.repeat(np.arange(len(first)), across * down)
    nth = np.arange(len(polygon)) - np.repeat(np.cumsum(across * down) - across * down, across * down)
    i, j = first[polygon, 0] + nth % across[polygon], first[polygon, 1] + nth // across[polygon]
    numbers = np.unique((j << 32) + i + 2**31)
    return lattice.start(np.stack([(numbers & 0xFFFFFFFF) - 2**31, numbers >> 32], axis=1))


def _lattice(box: np.ndarray, lattice: Lattice) -> np.ndarray:
    """The windows of the lattice that touch a box, (N, 2) column and row, row by row; as `Lattice.boxes`."""
    first, last = lattice.first(box[:2]), lattice.last(box[:2] + box[2:] - 1)
    columns, rows = (lattice.start(np.arange(a, b + 1)) for a, b in zip(first, last, strict=True))
    row, column = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([column.ravel(), row.ravel()], axis=1)


def _cut(windows: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """What of windows (N, 2) lies in a box, (N, 4)."""
    start = np.maximum(windows, box[:2])
    return np.concatenate([start, np.minimum(windows + size, box[:2] + box[2:]) - start], axis=1)


def _numbered(windows: np.ndarray) -> np.ndarray:
    """A number for each of some windows (N, 2), in the order of their rows."""
    numbers: np.ndarray = (windows[:, 1] << 32) + (windows[:, 0] + 2**31)
    return numbers


def tile_windows(area: Area, box: PixelBox, layout: Layout) -> list[PixelBox]:
    """The windows that the tile with `box` computes, in lattice order: those that reach its part of the area."""
    boxes = np.array([[box.column, box.row, box.width, box.height]])
    size = layout.window_size
    return [area.grid.box(column, row, size, size) for column, row in _windows(area, boxes, layout)[0].tolist()]


def write_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json into `folder`, whole or not at all."""
    write_json(folder / PLAN, plan.model_dump(mode="json"))


def read_plan(folder: Path) -> Plan:
    """The plan by which the tiles in `folder` were made.

    Raises:
        MappingError: there is none, or it is none of this platform's.
    """
    path = folder / PLAN
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise MappingError(f"{path}: not a plan of this platform ({error}). Run `olmoearth infer` again.") from error


def _code(grid: Grid) -> str:
    """A word for the grid in file names: the digits of its CRS's code."""
    code = CRS.from_user_input(grid.crs).to_authority()
    return code[1].lower() if code else "local"
