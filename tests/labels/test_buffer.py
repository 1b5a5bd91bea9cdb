"""No training pixel lies within dataset.split.buffer of a test block or window, whatever the labels, old or new.

From labels to splits with the functions that the stages call, and measured by hand: pixel against pixel.
"""

from __future__ import annotations

from datetime import date

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import CRS, LEFT, TOP

from olmoearth_core.framing import PointInTime
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.leakage import must_go
from olmoearth_core.labels.places import Kind
from olmoearth_core.labels.split import BlockTable, assign_splits, block_of, block_pixels, splits_of
from olmoearth_core.labels.targets import amounts, make_target
from olmoearth_core.labels.windows import TrainingWindow, training_windows
from olmoearth_core.project import SplitConfig

GRID, SIZE = Grid(CRS, 10.0), 8
DAYS = [date(2024, 5, 1), date(2024, 7, 1)]
SPANS = PointInTime(kind="point_in_time", days=20).spans
Made = tuple[list[TrainingWindow], list[str], np.ndarray, BlockTable]


def labels_of(seed: int, count: int, shape: str) -> Labels:
    """Points or polygons of two classes and dates, scattered over 3 km."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 3000, (count, 2)) + np.array([LEFT, TOP - 3000])
    if shape == "points":
        geometries = list(shapely.points(corners))
    else:
        edges = random.uniform(5, 250, (count, 2))
        geometries = list(shapely.box(*corners.T, *(corners + edges).T))
    table = {
        "class_index": random.integers(0, 2, count),
        "date": [DAYS[k] for k in random.integers(0, 2, count)],
        "split": [""] * count,
    }
    return Labels(gpd.GeoDataFrame(table, geometry=geometries, crs=CRS), GRID)


def grown(first: Labels, more: Labels) -> Labels:
    frame = pd.concat([first.frame, more.frame], ignore_index=True)
    return Labels(gpd.GeoDataFrame(frame, geometry="geometry", crs=CRS), GRID)


def dealt(labels: Labels, kind: Kind, config: SplitConfig, before: BlockTable | None = None) -> Made:
    """(windows, splits, which have to go, table), as `freeze_blocks` and `preprocess` make them."""
    windows = training_windows(labels, SIZE, kind)
    size = block_pixels(config, SIZE, GRID.resolution)
    found: dict[tuple[int, int], np.ndarray] = {}
    for window in windows:
        place = block_of(window.centre, size)
        found[place] = found.get(place, np.zeros(2, np.int64)) + amounts(make_target(labels, window).classes, 2, "")
    table = assign_splits(found, config, size, before.splits if before else None)
    splits = splits_of(windows, config, table)
    return windows, splits, must_go(windows, splits, config, table, SPANS), table


def pixels(boxes: list[PixelBox]) -> np.ndarray:
    """(N, 2) int64, row and column of every pixel of the boxes, each once."""
    grids = [
        np.stack(np.mgrid[b.row : b.row + b.height, b.column : b.column + b.width], -1).reshape(-1, 2) for b in boxes
    ]
    return np.unique(np.concatenate(grids), axis=0) if grids else np.empty((0, 2), np.int64)


def least_metres(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Between the edges of the nearest two pixels, one of each; negative where they share one."""
    least = np.inf
    for part in np.array_split(mine, max(1, len(mine) // 200)):
        apart = np.abs(part[:, None] - theirs[None]) - 1  # of edges along rows and columns; -1 for the same one
        if (apart < 0).all(axis=-1).any():
            return -1.0
        least = min(least, float(np.hypot(*np.moveaxis(np.maximum(apart, 0), -1, 0)).min()))
    return least * GRID.resolution


def check(made: Made, config: SplitConfig) -> None:
    windows, splits, gone, table = made
    size = table.size
    kept = [(w, s) for w, s, lost in zip(windows, splits, gone, strict=True) if not lost]
    training = pixels([w.box for w, s in kept if s == "train"])
    for held in ("validation", "test"):
        boxes = [w.box for w, s in kept if s == held]
        places = {block_of(w.centre, size) for w, s in kept if s == held}
        if config.buffer:
            boxes += [GRID.box(c * size, r * size, size, size) for c, r in places]
        ground = pixels(boxes)
        if len(training) and len(ground):
            assert least_metres(training, ground) >= config.buffer
    assert not any(s == "test" and lost for s, lost in zip(splits, gone, strict=True))  # the test loses nothing


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(3, 25),
    st.sampled_from(["points", "polygons"]),
    st.sampled_from(["lattice", "centred"]),
    st.sampled_from([0.0, 10.0, 35.0, 200.0]),
    st.sampled_from([80.0, 240.0, 700.0]),
)
def test_no_training_pixel_is_within_the_buffer_of_what_is_held_out(
    seed: int, count: int, shape: str, kind: Kind, buffer: float, block: float
) -> None:
    config = SplitConfig(block_size=block, buffer=buffer, seed=seed % 7, validation=0.2, test=0.3)
    first = labels_of(seed, count, shape)
    made = dealt(first, kind, config)
    check(made, config)

    more = labels_of(seed + 1, count, shape)
    after = dealt(grown(first, more), kind, config, made[3])
    check(after, config)
    before = dict(zip([w.name for w in made[0]], made[1], strict=True))
    now = dict(zip([w.name for w in after[0]], after[1], strict=True))
    assert {name: now[name] for name in before} == before
    assert {block: after[3].splits[block] for block in made[3].splits} == dict(made[3].splits)


def test_labels_that_are_added_to_a_block_take_no_training_window_away() -> None:
    """The buffer is kept from the whole block, so that it makes no difference where in it labels are."""
    config = SplitConfig(block_size=320, buffer=100)
    size = block_pixels(config, SIZE, GRID.resolution)
    table = BlockTable(size, {(0, 0): "train", (1, 0): "test"})
    training = [GRID.box(column, 0, SIZE, SIZE) for column in range(0, size, SIZE)]
    far, near = GRID.box(2 * size - SIZE, 0, SIZE, SIZE), GRID.box(size, 0, SIZE, SIZE)
    lost = []
    for test in ([far], [far, near]):
        windows = [TrainingWindow(str(k), box, DAYS[0]) for k, box in enumerate([*training, *test])]
        splits = splits_of(windows, config, table)
        lost.append(must_go(windows, splits, config, table, SPANS)[: len(training)].tolist())
    assert lost[0] == lost[1]
    assert sum(lost[0]) == 2  # of 80 m each
