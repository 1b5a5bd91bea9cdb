"""Is the model better than a baseline? In one sentence that a partner understands."""

from __future__ import annotations

from olmoearth_core.models.score_text import NAMES
from olmoearth_core.training.bootstrap import Resampled
from olmoearth_core.training.metrics import HEADLINE

NOT_WORTH = "An encoder that loses to a random forest is not worth its compute."
NO_GAIN = "That the encoder is worth its compute is not shown here."


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
        scored = f"scores {'higher' if value > 0 else 'lower'} than {other}, by {amount}{between}"
        doubt = f"The model {scored if value else f'equals {other}'}, but that is not shown to mean anything."
        return "not shown", " ".join([doubt, difference.note, *([NO_GAIN] if value < 0 else [])]).replace("  ", " ")
    if interval.low > 0:
        low_high = span(interval.low, interval.high, kind)
        return "better", f"The model is better than {other} by {amount} (95 % interval {low_high})."
    if interval.high < 0:
        low_high = span(-interval.high, -interval.low, kind)
        return "worse", f"The model is worse than {other} by {amount} (95 % interval {low_high}). {NOT_WORTH}"
    low_high = span(interval.low, interval.high, kind)
    doubt = f"The model is not shown to be better than {other}: it has {amount} {'more' if value >= 0 else 'less'}"
    return "not shown", f"{doubt} (95 % interval {low_high}).{f' {NO_GAIN}' if value < 0 else ''}"


def by(value: float, kind: str) -> str:
    """A difference of headline scores: in points (hundredths), of R² as it is."""
    return f"{value:.3f}" if kind == "regression" else f"{100 * value:.1f}"


def span(low: float, high: float, kind: str) -> str:
    """An interval of such a difference."""
    return f"{by(low, kind)} to {by(high, kind)}"
