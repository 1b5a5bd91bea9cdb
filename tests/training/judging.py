"""Answers with known properties, for the tests of judging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer


@dataclass(frozen=True)
class SomeTask:
    """What judging asks of a task."""

    kind: str
    strata: tuple[str, ...]
    unit: str = ""
    range: tuple[float, float] | None = None


LAND_COVER = SomeTask("segmentation", ("land", "water", "snow"))
TREES = SomeTask("regression", ("0..20", "20..40", "40..60", "60..80", "80..100"), "%", (0.0, 100.0))


SHORE = SomeTask("segmentation", ("land", "water", "snow"))
EVENTS = SomeTask("classification", ("fire", "storm"))


def land_cover(windows: int, seed: int = 0, *, size: int = 8, skill: float = 2.0, first: int = 0) -> Answer:
    """Windows of three classes, a fifth unlabelled, with logits that favour the truth by `skill`."""
    random = np.random.default_rng(seed)
    strata = random.integers(3, size=(windows, size, size)).astype(np.uint8)
    scores = random.normal(size=(windows, 3, size, size)) * 1.5
    scores += skill * (strata[:, None] == np.arange(3)[:, None, None])
    strata[random.random(strata.shape) < 0.2] = IGNORE
    return Answer(np.arange(first, first + windows), strata, None, scores.astype(np.float32))


def tree_cover(windows: int, seed: int = 0, *, size: int = 8, noise: float = 10.0) -> Answer:
    """Windows of values from 0 to 100, a fifth unlabelled, with estimates that are off by `noise`."""
    random = np.random.default_rng(seed)
    values = random.uniform(0, 100, (windows, size, size)).astype(np.float32)
    scores = (values + random.normal(2, noise, values.shape)).astype(np.float32)[:, None]
    strata = np.minimum(values // 20, 4).astype(np.uint8)
    unknown = random.random(values.shape) < 0.2
    strata[unknown], values[unknown] = IGNORE, np.nan
    return Answer(np.arange(windows), strata, values, scores)


@dataclass(frozen=True)
class Seen:
    """A sample as a training set gives it, with the truth of one task."""

    inputs: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    truths: dict[str, Truth]


def window(row: int, *, rare: bool = False) -> Seen:
    """Two timesteps, one of them cloudy in places; three bands; brightness says the tree cover, darkness is water."""
    random = np.random.default_rng(row)
    values = random.uniform(0, 100, (8, 8)).astype(np.float32)
    bands = np.stack([3000 - 20 * values, 500 + 25 * values, np.full_like(values, 700)])
    cube = np.stack([bands, 1.1 * bands]) + random.normal(0, 60, (2, 3, 8, 8))
    valid = random.random((2, 8, 8)) < 0.8
    seen = valid.any(axis=0)
    strata = np.where(seen, np.minimum(values // 20, 4), IGNORE).astype(np.uint8)
    water = (values < (3 if rare else 50)).astype(np.uint8)
    event = np.full((8, 8), IGNORE, np.uint8)
    event[4, 4] = row % 2
    cube[:, 2] += 400 * (row % 2)
    return Seen(
        {"sentinel2_l2a": np.where(valid[:, None], cube, 0).astype(np.uint16)},
        {"sentinel2_l2a": valid},
        {
            "trees": Truth(strata, np.where(seen, values, np.nan).astype(np.float32)),
            "shore": Truth(np.where(seen, water, IGNORE).astype(np.uint8)),
            "events": Truth(event),
        },
    )
