"""Scores from summed statistics: of classes from a confusion matrix, of measured values from sums of squares.

Everything takes leading axes, so that thousands of resampled sums become scores at once. A score that is not defined (a
class that is neither labelled nor predicted) is NaN here and None in JSON, and stays out of means. The formulas are
those of torchmetrics, which the tests compare them with; it is not called, because it starts from pixels or from one
confusion matrix, and intervals need scores of two thousand resampled ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olmoearth_core.labels.windows import IGNORE

Path = tuple[str, ...]
"""Where a score stands in the JSON: ("miou",), ("classes", "water", "iou")."""
HEADLINE: Mapping[str, Path] = {
    "segmentation": ("miou",),
    # a rare class counts as much as a common one, as it does in the mean IoU: the rare ones are what partners ask for
    "classification": ("macro_f1",),
    "regression": ("r2",),
}
"""Kind of task -> the one score by which models and epochs are compared; higher is better."""
SHORT: Mapping[str, str] = {"segmentation": "mIoU", "classification": "macro F1", "regression": "R2"}
"""Kind of task -> its headline in a line of a log."""
BINS = 15
"""Bins of confidence, of equal width: the number that is usual for the expected calibration error (Guo et al. 2017)."""


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

    Args:
        matrix: (K, K), rows are the truth, columns the prediction.
        names: the K class names.

    Returns:
        JSON values: pixels, overall_accuracy, miou, macro_f1, confusion, classes {name: {iou, f1, precision, recall,
        pixels}}. Precision is also called user's accuracy, recall producer's accuracy.
    """
    true = matrix.sum(axis=-1)
    found = class_measures(matrix.diagonal(), true, matrix.sum(axis=-2), names)
    counts = {("classes", name, "pixels"): int(pixels) for name, pixels in zip(names, true, strict=True)}
    return {**nested(plain(found) | counts), "pixels": int(matrix.sum()), "confusion": matrix.tolist()}


def class_measures(
    hits: np.ndarray, true: np.ndarray, found: np.ndarray, names: Sequence[str]
) -> dict[Path, np.ndarray]:
    """Scores of classes: IoU = TP / (TP + FP + FN), F1 = 2 TP / (2 TP + FP + FN), accuracy, their means over classes.

    Args:
        hits, true, found: (..., K) pixels of each class that are right, labelled so, predicted so.
        names: the K class names.

    Returns:
        path -> (...,) float64.
    """
    by_class = {
        "iou": _ratio(hits, true + found - hits),
        "f1": _ratio(2 * hits, true + found),
        "precision": _ratio(hits, found),
        "recall": _ratio(hits, true),
    }
    return {
        ("overall_accuracy",): _ratio(hits.sum(axis=-1), true.sum(axis=-1)),
        ("miou",): _mean(by_class["iou"]),
        ("macro_f1",): _mean(by_class["f1"]),
        **{("classes", name, key): by_class[key][..., k] for k, name in enumerate(names) for key in by_class},
    }


def confidence_measures(reliability: np.ndarray, log_loss: np.ndarray) -> dict[Path, np.ndarray]:
    """How far probabilities can be believed.

    ece: expected calibration error of the predicted class, sum over bins of (pixels in the bin / pixels) x
    |mean confidence - share that is right| (Guo et al. 2017); log_loss: mean cross entropy of a labelled pixel.

    Args:
        reliability: (..., BINS, 3) pixels, summed confidence, hits.
        log_loss: (...,) summed.
    """
    count, confidence, hits = np.moveaxis(reliability, -1, 0)
    pixels = count.sum(axis=-1)
    return {
        ("ece",): _ratio(np.abs(confidence - hits).sum(axis=-1), pixels),
        ("log_loss",): _ratio(log_loss, pixels),
    }


MOMENTS = ("count", "error", "absolute", "squared", "truth", "truth2", "estimate", "estimate2", "product")
"""What is summed over pixels for `value_measures`; truth and estimate are less the middle of the task's range."""


def moments(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(P, 9) float64: MOMENTS of each of P pixels."""
    t, e = truth.astype(np.float64), estimate.astype(np.float64)
    return np.stack([np.ones_like(t), e - t, np.abs(e - t), (e - t) ** 2, t, t**2, e, e**2, t * e], axis=-1)


def value_measures(sums: np.ndarray) -> dict[Path, np.ndarray]:
    """Errors of measured values: bias (estimate less truth), mae, rmse; r2 = 1 - squared error / variance; Pearson's r.

    Args:
        sums: (..., 9) MOMENTS.

    Returns:
        path -> (...,) float64; r2 and r are NaN where the truth (for r also the estimate) does not vary.
    """
    count, error, absolute, squared, t, tt, e, ee, te = np.moveaxis(sums, -1, 0)
    spread, spread_e = _spread(tt, t, count), _spread(ee, e, count)
    return {
        ("r2",): 1 - _ratio(squared, spread),
        ("rmse",): np.sqrt(_ratio(squared, count)),
        ("mae",): _ratio(absolute, count),
        ("bias",): _ratio(error, count),
        ("r",): _ratio(te - t * _ratio(e, count), np.sqrt(spread * spread_e)),
    }


def plain(measures: Mapping[Path, np.ndarray]) -> dict[Path, float | None]:
    """Numbers for JSON, None for NaN."""
    values = {path: float(value) for path, value in measures.items()}
    return {path: value if math.isfinite(value) else None for path, value in values.items()}


def nested(values: Mapping[Path, Any]) -> dict[str, Any]:
    """Nested dictionaries of values by path."""
    found: dict[str, Any] = {}
    for (*sections, last), value in values.items():
        place = found
        for name in sections:
            place = place.setdefault(name, {})
        place[last] = value
    return found


def _spread(squares: np.ndarray, values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sum of squared deviations from the mean; 0 where nothing is left of it but rounding."""
    spread = squares - values * _ratio(values, count)
    return np.where(spread > 1e-9 * squares, spread, 0.0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    ratio: np.ndarray = np.divide(part, whole, out=undefined, where=whole > 0)
    return ratio


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no class has a score: NaN
        mean: np.ndarray = np.nanmean(values, axis=-1)
    return mean
