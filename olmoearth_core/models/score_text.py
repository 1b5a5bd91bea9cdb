"""Scores as people read them: what they are called, their intervals, their differences to a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES: Mapping[str, str] = {
    "miou": "mean IoU",
    "overall_accuracy": "overall accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error (ECE)",
    "log_loss": "log loss",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "bias": "bias",
    "r": "correlation r",
    "iou": "IoU",
    "f1": "F1",
    "precision": "user's accuracy (precision)",
    "recall": "producer's accuracy (recall)",
}
"""Key in metrics.json -> what people call it."""
OVERALL: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("miou", "overall_accuracy", "macro_f1", "ece", "log_loss"),
    "classification": ("macro_f1", "overall_accuracy", "miou", "ece", "log_loss"),
    "regression": ("r2", "rmse", "mae", "bias", "r"),
}
"""Kind of task -> its overall scores, in the order they are shown."""
_OF_CLASSES = ("classes", ("iou", "f1", "precision", "recall"))
PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "segmentation": _OF_CLASSES,
    "classification": _OF_CLASSES,
    "regression": ("strata", ("bias", "mae", "rmse")),
}
"""Kind of task -> (section of metrics.json with a part each, their scores)."""
_IN_UNITS = ("rmse", "mae", "bias")


def named(key: str, unit: str) -> str:
    """What people call a score, with the unit where it has one."""
    return f"{NAMES[key]} ({unit})" if unit and key in _IN_UNITS else NAMES[key]


def difference_text(difference: Mapping[str, Any], *path: str) -> str:
    """A difference of metrics.json's `difference` and its interval, with signs."""
    found: Any = difference
    for name in path:
        found = found.get(name) if found else None
    if found is None:
        return "none"

    def signed(value: float) -> str:
        return f"{value:+.3g}" if path[-1] in _IN_UNITS else f"{value:+.3f}"

    if found["low"] is None:
        return signed(found["value"])
    return f"{signed(found['value'])} ({signed(found['low'])} to {signed(found['high'])})"


def shown(name: str, value: float | None) -> str:
    """A score as people read it; errors of measured values keep three figures."""
    if value is None:
        return "none"
    return f"{value:.3g}" if name in _IN_UNITS else f"{value:.3f}"


def with_interval(scores: Mapping[str, Any], *path: str) -> str:
    """A score of metrics.json's split and its interval, "0.873 (0.851 to 0.890)"."""
    value, interval = scores, scores.get("intervals", {})
    for name in path:
        value, interval = value[name], (interval or {}).get(name)
    text = shown(path[-1], value)  # type: ignore[arg-type]
    if not interval or interval.get("low") is None:
        return text
    return f"{text} ({shown(path[-1], interval['low'])} to {shown(path[-1], interval['high'])})"
