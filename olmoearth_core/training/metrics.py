"""Scores of a segmentation from its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from olmoearth_core.labels.windows import IGNORE


def confusion(target: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each window by true and predicted class.

    Kept apart by window, so that scores can be resampled by place and traced to the windows behind them.

    Args:
        target: (B, H, W) class indices, IGNORE where a pixel does not count.
        predicted: (B, H, W) class indices.
        classes: K.

    Returns:
        (B, K, K) int64, rows are the truth, columns the prediction.
    """
    windows = np.arange(len(target)).reshape(-1, 1, 1)
    cell = (windows * classes + target.astype(np.int64)) * classes + predicted
    counts = np.bincount(cell[target != IGNORE], minlength=len(target) * classes**2)
    return counts.reshape(-1, classes, classes)


def scores(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Overall and per-class scores of a confusion matrix.

    A class that is neither labelled nor predicted has no score (None) and stays out of the means. IoU = TP / (TP + FP +
    FN), F1 = 2 TP / (2 TP + FP + FN).

    Args:
        matrix: (K, K), rows are the truth, columns the prediction.
        names: the K class names.

    Returns:
        JSON values: pixels, overall_accuracy, miou, macro_f1, confusion, classes {name: {iou, f1, precision, recall,
        pixels}}.
    """
    hits, true, found = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    by_class = {
        name: {
            "iou": _ratio(hits[k], true[k] + found[k] - hits[k]),
            "f1": _ratio(2 * hits[k], true[k] + found[k]),
            "precision": _ratio(hits[k], found[k]),
            "recall": _ratio(hits[k], true[k]),
            "pixels": int(true[k]),
        }
        for k, name in enumerate(names)
    }
    return {
        "pixels": int(matrix.sum()),
        "overall_accuracy": _ratio(hits.sum(), matrix.sum()),
        "miou": _mean([c["iou"] for c in by_class.values()]),
        "macro_f1": _mean([c["f1"] for c in by_class.values()]),
        "classes": by_class,
        "confusion": matrix.tolist(),
    }


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
