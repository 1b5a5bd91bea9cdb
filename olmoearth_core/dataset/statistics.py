"""Statistics of a training set: per band over valid training pixels, per class over all splits."""

from __future__ import annotations

from typing import Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.labels.split import SPLITS
from olmoearth_core.progress import Progress

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def dataset_statistics(dataset: Dataset, progress: Progress) -> dict[str, Any]:
    """JSON values.

    bands: modality -> band -> count, mean, std, min, max and percentiles of its valid training pixels;
    classes: class -> split -> windows and labelled pixels; splits: split -> windows and blocks.
    """
    return {"bands": _bands(dataset, progress), "classes": _classes(dataset), "splits": _splits(dataset)}


def _bands(dataset: Dataset, progress: Progress) -> dict[str, dict[str, Any]]:
    # Stored values are uint16: counting each value gives every statistic exactly, in one pass and in any order.
    counts = {m: np.zeros((len(names), 2**16), np.int64) for m, names in dataset.bands.items()}
    rows = dataset.indices("train")
    with progress.bar("Statistics", len(rows)) as advance:
        for first in range(0, len(rows), dataset.at_once):
            samples = dataset.read(rows[first : first + dataset.at_once])
            for modality, histogram in counts.items():
                valid = np.stack([sample.valid[modality] for sample in samples])
                for band in range(len(histogram)):
                    values = np.stack([sample.inputs[modality][:, band] for sample in samples])
                    histogram[band] += np.bincount(values[valid], minlength=2**16)
            advance(len(samples))
    return {
        modality: {name: _describe(histogram[band]) for band, name in enumerate(dataset.bands[modality])}
        for modality, histogram in counts.items()
    }


def _describe(histogram: np.ndarray) -> dict[str, Any]:
    """Statistics of the values that `histogram` (65536,) counts."""
    count = int(histogram.sum())
    if count == 0:
        return {"count": 0}
    value = np.arange(len(histogram))
    mean = float((histogram * value).sum() / count)
    variance = float((histogram * (value - mean) ** 2).sum() / count)
    present = np.flatnonzero(histogram)
    rank = np.searchsorted(np.cumsum(histogram), np.array(PERCENTILES) / 100 * count)
    return {
        "count": count,
        "mean": round(mean, 3),
        "std": round(variance**0.5, 3),
        "min": int(present[0]),
        "max": int(present[-1]),
        "percentiles": {str(p): int(v) for p, v in zip(PERCENTILES, rank, strict=True)},
    }


def _classes(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    table = dataset.windows
    return {
        name: {
            split: {"windows": int((pixels > 0).sum()), "pixels": int(pixels.sum())}
            for split in SPLITS
            for pixels in [table.loc[table["split"] == split, f"pixels_{name}"]]
        }
        for name in dataset.classes
    }


def _splits(dataset: Dataset) -> dict[str, dict[str, int]]:
    table = dataset.windows
    return {
        split: {"windows": len(part), "blocks": len(part[["block_column", "block_row"]].drop_duplicates())}
        for split in SPLITS
        for part in [table[table["split"] == split]]
    }
