"""Whether a score can be believed: how near windows of different splits are, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import combinations
from typing import Any

import numpy as np
import shapely

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.split import SPLITS, BlockTable, block_of
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.project import SplitConfig

OVERLAP = -1.0
"""Gap between windows that have pixels in common."""


@dataclass(frozen=True)
class Leakage:
    """What the splits of a training set have in common.

    Attributes:
        least_distance: pair of splits ("train and test") -> metres between their nearest windows, 0 where they touch,
            OVERLAP where they have pixels in common; None where one is empty.
        overlapping_windows: windows that have pixels of the ground in common with one of another split.
        shared_imagery: windows that show ground and time in common with one of another split.
        shared_labels: features of label files that are used in windows of several splits (of their date), of all tasks.
    """

    least_distance: dict[str, float | None]
    overlapping_windows: int
    shared_imagery: int
    shared_labels: int

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def must_go(
    windows: Sequence[TrainingWindow],
    splits: Sequence[str],
    config: SplitConfig,
    blocks: BlockTable | None,
    spans: Callable[[date], list[Timestep]],
) -> np.ndarray:
    """(N,) bool, the windows that would let one split see what another is for.

    Args:
        windows: all of them, with the split of each.
        blocks: where `config` is of kind blocks.
        spans: date of a label -> its timesteps (`Framing.spans`).
    """
    boxes = [window.box for window in windows]
    if config.kind == "time":
        return seen_elsewhere(boxes, splits, [window.date for window in windows], spans)
    return too_near(boxes, splits, config.buffer, held_out_blocks(windows, blocks) if blocks else ())


def held_out_blocks(windows: Sequence[TrainingWindow], blocks: BlockTable) -> list[PixelBox]:
    """The ground of the blocks for validation and test that have windows."""
    size = blocks.size
    places = {block_of(window.centre, size): window.box.grid for window in windows}
    return [
        grid.box(column * size, row * size, size, size)
        for (column, row), grid in sorted(places.items(), key=lambda item: item[0])
        if blocks.splits[column, row] != "train"
    ]


def too_near(
    boxes: Sequence[PixelBox], splits: Sequence[str], buffer: float, held_out: Sequence[PixelBox] = ()
) -> np.ndarray:
    """(N,) bool, the windows that have to go: training windows less than `buffer` metres from one of another split,
    or overlapping it, and validation windows that overlap one of the test. Dates make no difference.

    With a buffer, training windows also keep that distance from the whole ground `held_out`, wherever on it there are
    windows: as labels are added there, what was trained on stays.
    """
    outlines, given = _outlines(boxes), np.asarray(splits, dtype=object)
    gone = np.zeros(len(boxes), bool)
    for split, others, metres in (("validation", ("test",), 0.0), ("train", ("validation", "test"), buffer)):
        mine = np.flatnonzero(given == split)
        theirs = outlines[np.isin(given, others) & ~gone]
        if metres > 0 and len(held_out):
            theirs = np.concatenate([theirs, _outlines(held_out)])
        gap = _gaps(outlines[mine], theirs, boxes)
        gone[mine] = gap < metres - 1e-6
    return gone


def seen_elsewhere(
    boxes: Sequence[PixelBox], splits: Sequence[str], dates: Sequence[date], spans: Callable[[date], list[Timestep]]
) -> np.ndarray:
    """(N,) bool, the windows that have to go when splits are made of time: training windows that share ground and days
    with one of another split, and validation windows that share them with one of the test.
    """
    given, gone = np.asarray(splits, dtype=object), np.zeros(len(boxes), bool)
    for split, kept in (("validation", ("validation", "test")), ("train", ("train", "validation", "test"))):
        rows = np.flatnonzero(np.isin(given, kept) & ~gone)
        shared = shared_imagery(
            [boxes[k] for k in rows.tolist()], given[rows].tolist(), [dates[k] for k in rows.tolist()], spans
        )
        gone[rows[shared & (given[rows] == split)]] = True
    return gone


def gaps(boxes: Sequence[PixelBox], splits: Sequence[str], held_out: Sequence[PixelBox] = ()) -> np.ndarray:
    """(N,) float64, metres from each window to the nearest of another split, or OVERLAP; infinite where none is.

    From training windows, the ground `held_out` counts as well.
    """
    outlines, given = _outlines(boxes), np.asarray(splits, dtype=object)
    found = np.full(len(boxes), np.inf)
    for split in set(given):
        mine = given == split
        theirs = outlines[~mine]
        if split == "train" and len(held_out):
            theirs = np.concatenate([theirs, _outlines(held_out)])
        found[mine] = _gaps(outlines[mine], theirs, boxes)
    return found


def shared_imagery(
    boxes: Sequence[PixelBox], splits: Sequence[str], dates: Sequence[date], spans: Callable[[date], list[Timestep]]
) -> np.ndarray:
    """(N,) bool, windows that overlap one of another split while their timesteps overlap too."""
    outlines, given = _outlines(boxes), np.asarray(splits, dtype=object)
    inner = _shrunk(outlines, boxes)
    days = sorted(set(dates))
    reach = {day: (min(s.start for s in steps), max(s.end for s in steps)) for day in days for steps in [spans(day)]}
    position = {day: k for k, day in enumerate(days)}
    day_of = np.array([position[day] for day in dates])
    shared = np.zeros(len(boxes), bool)
    for k, day in enumerate(days):
        start, end = reach[day]
        at_once = [i for i, other in enumerate(days) if reach[other][0] < end and start < reach[other][1]]
        for split in set(given[day_of == k]):
            mine = np.flatnonzero((day_of == k) & (given == split))
            theirs = np.flatnonzero(np.isin(day_of, at_once) & (given != split))
            if len(theirs):
                met = shapely.STRtree(outlines[theirs]).query(inner[mine], predicate="intersects")[0]
                shared[mine[np.unique(met)]] = True
    return shared


def measure(
    boxes: Sequence[PixelBox],
    splits: Sequence[str],
    dates: Sequence[date],
    labels: Iterable[Labels],
    spans: Callable[[date], list[Timestep]],
) -> Leakage:
    """Measure a table of windows against the labels that they were made of.

    Args:
        boxes, splits, dates: of each window.
        labels: of each task.
        spans: date of a label -> its timesteps (`Framing.spans`).
    """
    outlines, given = _outlines(boxes), np.asarray(splits, dtype=object)
    least: dict[str, float | None] = {}
    for one, other in combinations(SPLITS, 2):
        found = _gaps(outlines[given == one], outlines[given == other], boxes)
        near = float(found.min()) if len(found) else np.inf
        least[f"{one} and {other}"] = round(near, 3) if np.isfinite(near) else None
    return Leakage(
        least_distance=least,
        overlapping_windows=int((gaps(boxes, splits) < 0).sum()),
        shared_imagery=int(shared_imagery(boxes, splits, dates, spans).sum()),
        shared_labels=sum(_shared_labels(boxes, given, dates, own) for own in labels),
    )


def _shared_labels(boxes: Sequence[PixelBox], splits: np.ndarray, dates: Sequence[date], labels: Labels) -> int:
    inner, shared = _shrunk(_outlines(boxes), boxes), 0
    window_date, label_date = np.asarray(dates, dtype=object), labels.frame["date"].to_numpy()
    named = labels.frame["split"].to_numpy() if "split" in labels.frame else np.full(len(labels.frame), "")
    for day in set(dates):
        rows, windows = np.flatnonzero(label_date == day), np.flatnonzero(window_date == day)
        if len(rows) == 0:
            continue
        geometries = labels.frame.geometry.to_numpy()[rows]
        label, window = shapely.STRtree(inner[windows]).query(geometries, predicate="intersects")
        own = named[rows][label]
        used = (own == "") | (own == splits[windows][window])  # a label that names a split is used in no other
        label, window = label[used], window[used]
        _, code = np.unique(splits[windows].astype(str), return_inverse=True)
        pairs = np.unique(np.stack([label, code[window]]), axis=1)
        shared += int((np.bincount(pairs[0]) > 1).sum())
    return shared


def _gaps(mine: np.ndarray, theirs: np.ndarray, boxes: Sequence[PixelBox]) -> np.ndarray:
    """(N,) metres from each outline of `mine` to the nearest of `theirs`."""
    gap = np.full(len(mine), np.inf)
    if len(mine) and len(theirs):
        tree = shapely.STRtree(theirs)
        (owner, _), distance = tree.query_nearest(mine, all_matches=False, return_distance=True)
        gap[owner] = distance
        touching = np.flatnonzero(gap == 0)
        overlapping = tree.query(_shrunk(mine[touching], boxes), predicate="intersects")[0]
        gap[touching[np.unique(overlapping)]] = OVERLAP
    return gap


def _outlines(boxes: Sequence[PixelBox]) -> np.ndarray:
    return np.asarray(shapely.box(*np.array([box.bounds for box in boxes]).reshape(-1, 4).T))


def _shrunk(outlines: np.ndarray, boxes: Sequence[PixelBox]) -> np.ndarray:
    """Outlines without the quarter pixel at their edges: they meet only what overlaps."""
    quarter = boxes[0].grid.resolution / 4 if len(boxes) else 0.0
    left, bottom, right, top = shapely.bounds(outlines).reshape(-1, 4).T
    return np.asarray(shapely.box(left + quarter, bottom + quarter, right - quarter, top - quarter))
