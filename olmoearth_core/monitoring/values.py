"""Measured values (a regression's) of a map, and what its model says of windows that it never learned from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.inference.blend import NO_VALUE
from olmoearth_core.inference.plan import Plan
from olmoearth_core.inference.product import value_scale
from olmoearth_core.monitoring.sample import AT_ONCE, MOST_VALUES, open_tile

if TYPE_CHECKING:
    from olmoearth_core.models.predictor import TrainedModel

HELD_OUT_SPLITS = ("validation", "test")
MOST_TILES = 256
"""Tiles of a map whose values are looked at."""


def map_values(tiles: Path, plan: Plan, seed: int = 0) -> np.ndarray:
    """(N,) float32: values of a map in its unit, at most MOST_VALUES, from tiles drawn by their windows.

    Args:
        tiles: folder of the stage infer.
        plan: of the map, of a regression.
        seed: of the draw.

    Raises:
        MappingError: a tile cannot be read.
    """
    random = np.random.default_rng(seed)
    weights = np.array([tile.windows for tile in plan.tiles], float)
    count = min(MOST_TILES, int(np.count_nonzero(weights)))
    drawn = np.sort(random.choice(len(weights), count, replace=False, p=weights / weights.sum()))
    scale, offset = value_scale(plan.model)
    parts = []
    for pick in drawn:
        with open_tile(tiles, plan.tiles[pick]) as file:
            stored = file.read(1)
        parts.append(_thinned(stored[stored != NO_VALUE], MOST_VALUES // count, random))
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32) * np.float32(scale) + np.float32(offset)


def held_out_values(dataset: Dataset, model: TrainedModel, count: int, seed: int = 0) -> np.ndarray:
    """(N,) float32: what a regression says of the labelled pixels of `count` windows of validation and test.

    Those pixels alone, as of classes: they are what its scores are about. All windows where there are fewer.

    Raises:
        DatasetError: the training set cannot be read.
    """
    random = np.random.default_rng(seed)
    rows = np.array([row for split in HELD_OUT_SPLITS for row in dataset.indices(split)], np.int64)
    rows = np.sort(random.permutation(rows)[:count])
    parts = []
    for first in range(0, len(rows), AT_ONCE):
        samples = dataset.read(rows[first : first + AT_ONCE].tolist())
        said = model.predict(
            {name: np.stack([sample.inputs[name] for sample in samples]) for name in samples[0].inputs},
            np.stack([sample.dates for sample in samples]),
            {name: np.stack([sample.valid[name] for sample in samples]) for name in samples[0].valid},
        )[:, 0]
        for sample, values in zip(samples, said, strict=True):
            truth = next(iter(sample.truths.values())).values
            if truth is not None:
                parts.append(_thinned(values[np.isfinite(truth)], max(1, MOST_VALUES // len(rows)), random))
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _thinned(values: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    return values if len(values) <= most else random.choice(values, most, replace=False)
