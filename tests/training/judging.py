"""Answers with known properties, for the tests of judging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
