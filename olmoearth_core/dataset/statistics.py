"""Statistics of a training set: of bands over valid training pixels, of timesteps, of classes and values by split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.labels.split import SPLITS
from olmoearth_core.progress import Progress

PERCENTILES = (1, 5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 95, 99)
_VALUES = 2**16


@dataclass(frozen=True)
class _Steps:
    """The values that are counted: `first` + k * `size`, k from 0 to 65535.

    Whole numbers are counted one by one: every statistic is exact, in one pass and in any order. Decibels are counted
    in hundredths, from -100 dB, what a regression measures in 65535ths of its range.
    """

    first: float
    size: float

    @classmethod
    def over(cls, low: float, high: float) -> _Steps:
        """Steps of a range."""
        return cls(low, (high - low) / (_VALUES - 1))

    @property
    def digits(self) -> int:
        """Decimals that tell two steps apart, two at least."""
        return max(2, math.ceil(-math.log10(self.size)))

    def index(self, values: np.ndarray) -> np.ndarray:
        """Position of each value."""
        if self.size == 1:
            return values
        return np.clip(np.rint((values - self.first) / self.size), 0, _VALUES - 1).astype(np.int64)

    def value(self, index: np.ndarray) -> np.ndarray:
        """The value at each position."""
        return self.first + index * self.size


def _steps_of(modality: str) -> _Steps:
    return _Steps(-100.0, 0.01) if get_modality(modality).values == "backscatter" else _Steps(0.0, 1)


def dataset_statistics(dataset: Dataset, progress: Progress) -> dict[str, Any]:
    """JSON values.

    bands: modality -> band -> count, mean, std, min, max and percentiles of its valid training pixels;
    valid: modality -> share of valid training pixels in each timestep;
    classes: class (stratum of a regression) -> split -> windows and labelled pixels (of a classification windows);
    values: of a regression, split -> count, mean, std, min, max and percentiles of its labelled pixels;
    auxiliary: task -> its classes and values, where there are such tasks; splits: split -> windows and blocks.
    """
    bands, valid = _pixels(dataset, progress)
    main, *others = (_task(dataset, name) for name in dataset.tasks)
    auxiliary = dict(zip(list(dataset.tasks)[1:], others, strict=True))
    return {
        "bands": bands,
        "valid": valid,
        **main,
        **({"auxiliary": auxiliary} if auxiliary else {}),
        "splits": _splits(dataset),
    }


def _pixels(dataset: Dataset, progress: Progress) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    counts = {m: np.zeros((len(names), _VALUES), np.int64) for m, names in dataset.bands.items()}
    seen = {m: np.zeros(dataset.timesteps, np.int64) for m in dataset.bands}
    rows = dataset.indices("train")
    with progress.bar("Statistics", len(rows)) as advance:
        for first in range(0, len(rows), dataset.at_once):
            samples = dataset.read(rows[first : first + dataset.at_once])
            for modality, histogram in counts.items():
                valid = np.stack([sample.valid[modality] for sample in samples])
                seen[modality] += valid.sum(axis=(0, 2, 3))
                steps = _steps_of(modality)
                for band in range(len(histogram)):
                    values = np.stack([sample.inputs[modality][:, band] for sample in samples])
                    histogram[band] += np.bincount(steps.index(values[valid]), minlength=_VALUES)
            advance(len(samples))
    pixels = max(len(rows) * dataset.window_size**2, 1)
    return (
        {
            modality: {
                name: _describe(histogram[band], _steps_of(modality))
                for band, name in enumerate(dataset.bands[modality])
            }
            for modality, histogram in counts.items()
        },
        {modality: [round(int(count) / pixels, 6) for count in per_step] for modality, per_step in seen.items()},
    )


def _describe(histogram: np.ndarray, steps: _Steps) -> dict[str, Any]:
    """Statistics of the values that `histogram` (65536,) counts."""
    count = int(histogram.sum())
    if count == 0:
        return {"count": 0}
    value = steps.value(np.arange(len(histogram)))
    mean = float((histogram * value).sum() / count)
    variance = float((histogram * (value - mean) ** 2).sum() / count)
    present = np.flatnonzero(histogram)
    rank = np.searchsorted(np.cumsum(histogram), np.array(PERCENTILES) / 100 * count)

    def told(index: int) -> float:
        found = float(steps.value(np.array(index)))
        return int(found) if steps.size == 1 else round(found, steps.digits)

    return {
        "count": count,
        "mean": round(mean, steps.digits + 1),
        "std": round(variance**0.5, steps.digits + 1),
        "min": told(int(present[0])),
        "max": told(int(present[-1])),
        "percentiles": {str(p): told(int(k)) for p, k in zip(PERCENTILES, rank, strict=True)},
    }


def _task(dataset: Dataset, name: str) -> dict[str, Any]:
    """classes, and of a regression values."""
    pixels, splits = dataset.pixels(name), dataset.windows["split"].to_numpy()
    classes = {
        stratum: {
            split: {"windows": int((counts > 0).sum()), "pixels": int(counts.sum())}
            for split in SPLITS
            for counts in [pixels[splits == split, k]]
        }
        for k, stratum in enumerate(dataset.tasks[name].strata)
    }
    limits = dataset.tasks[name].range
    return {"classes": classes, **({"values": _values(dataset, name, *limits)} if limits else {})}


def _values(dataset: Dataset, name: str, low: float, high: float) -> dict[str, Any]:
    steps, described = _Steps.over(low, high), {}
    for split in SPLITS:
        histogram = np.zeros(_VALUES, np.int64)
        for row in dataset.indices(split):
            (sample,) = dataset.read([row])
            values = sample.truths[name].values
            if values is not None:
                known = values[~np.isnan(values)].astype(np.float64)
                histogram += np.bincount(steps.index(known), minlength=_VALUES)
        described[split] = _describe(histogram, steps)
    return described


def _splits(dataset: Dataset) -> dict[str, dict[str, int]]:
    table = dataset.windows
    return {
        split: {"windows": len(part), "blocks": len(part[["block_column", "block_row"]].drop_duplicates())}
        for split in SPLITS
        for part in [table[table["split"] == split]]
    }
