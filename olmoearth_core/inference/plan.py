"""The plan of a map: which tiles, which windows, and every choice that a worker must not make for itself.

Windows lie on one lattice per grid, whatever the tiles. A tile computes all windows that touch its part of the area, so
tiles need nothing from each other, and a pixel is blended from the same windows in whichever tile it lies.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pyproj import CRS

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import Grid, PixelBox, lattice
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

    crs: str
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

    @property
    def grid(self) -> Grid:
        """The map's pixel grid."""
        return Grid(self.crs, self.resolution)

    def box(self, tile: Tile) -> PixelBox:
        """The pixels that the file of `tile` covers."""
        return self.grid.box(tile.column, tile.row, tile.width, tile.height)

    @property
    def bounds(self) -> PixelBox:
        """The smallest box around all tiles: the extent of the mosaic."""
        bounds = self.box(self.tiles[0])
        for tile in self.tiles[1:]:
            bounds = bounds.union(self.box(tile))
        return bounds


def window_stride(window_size: int, patch_size: int, overlap: float) -> int:
    """Distance between windows in pixels: the whole number of patches nearest to what `overlap` asks for.

    >>> window_stride(64, 4, 0.25)
    48
    """
    return max(1, round(window_size * (1 - overlap) / patch_size)) * patch_size


def batch_sizes(timesteps: int, window_size: int, patch_size: int, device: str) -> list[int]:
    """Windows in a batch, when they see 1, 2, ... `timesteps` timesteps: the fewer, the shorter sequences."""
    patches = (window_size // patch_size) ** 2
    return [max(1, min(MAX_BATCH, TOKENS[device] // (patches * seen))) for seen in range(1, timesteps + 1)]


def plan_tiles(area: Area, layout: Layout) -> tuple[list[Tile], int]:
    """Lay tiles over the area.

    Returns:
        the tiles that hold a part of the area, row by row, and the number of distinct windows.

    Raises:
        MappingError: no pixel has its centre inside the area.
    """
    size, zone = layout.tile_size, _zone(area.grid)
    squares = list(lattice(area.bounds, size))
    boxes = [square.cut(area.bounds) for square in squares]
    tiles, inside, between = [], 0, set()
    for i in area.touched(boxes):
        windows = tile_windows(area, boxes[i], layout)
        if not windows:
            continue
        column, row, width, height = boxes[i].column, boxes[i].row, boxes[i].width, boxes[i].height
        name = f"{zone}_{column // size}_{row // size}"
        tiles.append(Tile(name=name, column=column, row=row, width=width, height=height, windows=len(windows)))
        # only a window that leaves its tile's square can be another tile's as well
        shared = {(w.column, w.row) for w in windows if w.cut(squares[i]) != w}
        inside += len(windows) - len(shared)
        between |= shared
    return tiles, inside + len(between)


def tile_windows(area: Area, box: PixelBox, layout: Layout) -> list[PixelBox]:
    """The windows that the tile with `box` computes, in lattice order: those that reach its part of the area."""
    windows = list(lattice(box, layout.window_size, layout.stride))
    return [windows[i] for i in area.touched([window.cut(box) for window in windows])]


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


def _zone(grid: Grid) -> str:
    """A word for the grid in file names: the digits of its CRS's code."""
    code = CRS.from_user_input(grid.crs).to_authority()
    return code[1].lower() if code else "local"
