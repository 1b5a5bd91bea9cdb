"""What scores mean, in sentences that a partner understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmoearth_core.training.bootstrap import Resampled
from olmoearth_core.training.metrics import HEADLINE

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
NOT_WORTH = "An encoder that loses to a random forest is not worth its compute."


def compare(difference: Resampled, kind: str, other: str) -> tuple[str, str]:
    """(verdict, sentence) on the difference of the headline score between the model and `other`.

    The verdict is "better" or "worse" where the interval leaves out 0 and can be trusted, else "not shown".
    """
    path = HEADLINE[kind]
    if path not in difference.values:
        return "not shown", f"The model cannot be compared with {other}: one of them has no {NAMES[path[-1]]}."
    value, interval = difference.values[path], difference.intervals.get(path)
    amount = f"{by(abs(value), kind)} {'of' if kind == 'regression' else 'points of'} {NAMES[path[-1]]}"
    if interval is None or not difference.trusted:
        between = "" if interval is None else f" ({span(interval.low, interval.high, kind)})"
        lead = "higher" if value > 0 else "lower" if value < 0 else "neither higher nor lower"
        scored = f"The model scores {lead} than {other}, by {amount}{between}" if value else f"The model equals {other}"
        return "not shown", f"{scored}, but that is not shown to mean anything. {difference.note}".strip()
    if interval.low > 0:
        low_high = span(interval.low, interval.high, kind)
        return "better", f"The model is better than {other} by {amount} (95 % interval {low_high})."
    if interval.high < 0:
        low_high = span(-interval.high, -interval.low, kind)
        return "worse", f"The model is worse than {other} by {amount} (95 % interval {low_high}). {NOT_WORTH}"
    more = "more" if value >= 0 else "less"
    low_high = span(interval.low, interval.high, kind)
    sentence = f"The model is not shown to be better than {other}: it has {amount} {more} (95 % interval {low_high})."
    return "not shown", sentence if value >= 0 else f"{sentence} {NOT_WORTH}"


def by(value: float, kind: str) -> str:
    """A difference of headline scores: in points (hundredths), of R² as it is."""
    return f"{value:.3f}" if kind == "regression" else f"{100 * value:.1f}"


def span(low: float, high: float, kind: str) -> str:
    """An interval of such a difference."""
    return f"{by(low, kind)} to {by(high, kind)}"


def shown(name: str, value: float | None) -> str:
    """A score as people read it; errors of measured values keep three figures."""
    if value is None:
        return "none"
    return f"{value:.3g}" if name in ("rmse", "mae", "bias") else f"{value:.3f}"


def with_interval(scores: Mapping[str, Any], *path: str) -> str:
    """A score of metrics.json's split and its interval, "0.873 (0.851 to 0.890)"."""
    value, interval = scores, scores.get("intervals", {})
    for name in path:
        value, interval = value[name], (interval or {}).get(name)
    text = shown(path[-1], value)  # type: ignore[arg-type]
    if not interval or interval.get("low") is None:
        return text
    return f"{text} ({shown(path[-1], interval['low'])} to {shown(path[-1], interval['high'])})"
