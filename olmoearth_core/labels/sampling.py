"""Which windows are kept where there are more than are wanted.

Each window has a lot: a hash of its place, its date and the seed. Lots do not depend on the other labels, so that the
windows that were kept stay kept as labels grow, save for those that a better lot pushes out.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from olmoearth_core.labels.places import Places
from olmoearth_core.project import SamplingConfig


def sample(places: Places, config: SamplingConfig, size: int, resolution: float) -> np.ndarray:
    """Positions of the windows that are kept, in order: (n,) int64.

    A window with several classes counts for the one that the fewest windows have (on a tie, the first). Of each class,
    windows within `near` metres of another class come first, then the lots decide; `max_per_class` are taken. Of what
    is left, each class in turn gives its best, until there are `max_windows`.

    Args:
        places: all windows.
        config: labels.sampling.
        size: edge of a window in pixels.
        resolution: edge of a pixel in metres.
    """
    if len(places) == 0 or (config.max_per_class is None and config.max_windows is None):
        return np.arange(len(places))
    windows_of_class = np.bincount(places.class_index)
    order = np.lexsort([places.class_index, windows_of_class[places.class_index], places.window])
    counted = places.class_index[order][np.unique(places.window[order], return_index=True)[1]]
    hard = np.zeros(len(places), bool) if config.near is None else _near_others(places, config.near / resolution + size)
    best_first = np.lexsort([lots(places, config.seed), ~hard, counted])
    _, begins, count = np.unique(counted[best_first], return_index=True, return_counts=True)
    rank = np.empty(len(places), np.int64)
    rank[best_first] = np.arange(len(places)) - np.repeat(begins, count)
    kept = np.arange(len(places))
    if config.max_per_class is not None:
        kept = kept[rank < config.max_per_class]
    if config.max_windows is not None:
        in_turn = np.lexsort([lots(places, config.seed)[kept], rank[kept]])
        kept = kept[in_turn[: config.max_windows]]
    return np.sort(kept)


def lots(places: Places, seed: int) -> np.ndarray:
    """(N,) uint64, a hash of date, row, column and seed (SplitMix64: Steele, Lea and Flood 2014)."""
    ordinals = np.array([day.toordinal() for day in places.days], np.int64)
    lot = np.full(len(places), seed & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for part in (ordinals[places.day], places.row, places.column):
        lot = _mixed(lot ^ part.astype(np.uint64))
    return lot


def _mixed(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)  # wraps around, as it should
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def _near_others(places: Places, reach: float) -> np.ndarray:
    """(N,) bool, windows with another class of the same day at most `reach` pixels away, or in themselves.

    Distance is from corner to corner, the larger of that along rows and that along columns.
    """
    near = np.zeros(len(places), bool)
    corners = np.stack([places.row, places.column], axis=1).astype(np.float64)
    for day in range(len(places.days)):
        mine = places.day[places.window] == day
        window, class_index = places.window[mine], places.class_index[mine]
        for index in np.unique(class_index):
            own, other = np.unique(window[class_index == index]), np.unique(window[class_index != index])
            if len(other) == 0:
                continue
            distance, _ = cKDTree(corners[other]).query(corners[own], p=np.inf, distance_upper_bound=reach + 0.5)
            near[own[distance <= reach]] = True
    return near
