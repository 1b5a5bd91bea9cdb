"""Gates: what a challenger has to reach before it may become the champion. Pure functions of a comparison.

better or equal   the score is not lower; or it is lower by no more than `drop` and the interval of the difference holds
                  0. An interval that cannot be trusted (few blocks of ground) excuses nothing.
no class worse    no class loses more than `class_drop`
newest labels     as the first, on labels that the champion's training set did not have
calibration       ECE, of classes
cost              multiply-accumulates a square kilometre
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from olmoearth_core.models.score_text import NAMES
from olmoearth_core.project import GatesConfig
from olmoearth_core.project_upkeep import LOWER_IS_BETTER, METRICS, PART_METRICS
from olmoearth_core.training.compare_models import NEWEST, TEST, Comparison, Part
from olmoearth_core.training.metrics import HEADLINE, Path

ECE_SLACK = 0.03
"""A challenger's calibration error may be so much larger than the champion's where no limit is set."""


@dataclass(frozen=True)
class Gate:
    """What became of one gate.

    Attributes:
        name: score, classes, newest, calibration, cost, or limit <score>.
        passed: whether the challenger may pass.
        sentence: what was found and what is allowed.
        found: the numbers.
    """

    name: str
    passed: bool
    sentence: str
    found: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def run_gates(comparison: Comparison, config: GatesConfig) -> list[Gate]:
    """Every gate that applies; a challenger that passes all may become the champion."""
    test, kind = comparison.parts[TEST], comparison.task.kind
    metric = config.metric or HEADLINE[kind][0]
    gates = [
        _score("score", test, metric, config.drop, comparison),
        _classes(test, config.class_metric or PART_METRICS[kind][0], config.class_drop, comparison),
    ]
    if NEWEST in comparison.parts:
        gates.append(_score("newest", comparison.parts[NEWEST], metric, config.newest_drop, comparison))
    if "ece" in METRICS[kind]:
        gates.append(_calibration(test, config.ece))
    gates.append(_cost(comparison, config.cost))
    return [*gates, *(_limit(test, name, value) for name, value in config.limits.items())]


def passed(gates: Sequence[Gate]) -> bool:
    """Whether all let the challenger pass."""
    return all(gate.passed for gate in gates)


def _gain(part: Part, path: Path, comparison: Comparison) -> tuple[float, float | None, float | None] | None:
    """(gain, low, high) of the challenger, higher is better; errors as shares of the range. None: not computed."""
    value, interval = part.difference.values.get(path), part.difference.intervals.get(path)
    if value is None:
        return None
    sign, unit = (-1.0, 1.0) if path[-1] in LOWER_IS_BETTER else (1.0, 1.0)
    if path[-1] in ("rmse", "mae") and comparison.task.range is not None:
        unit = comparison.task.range[1] - comparison.task.range[0]
    if interval is None:
        return sign * value / unit, None, None
    low, high = sorted((sign * interval.low / unit, sign * interval.high / unit))
    return sign * value / unit, low, high


def _score(name: str, part: Part, metric: str, drop: float, comparison: Comparison) -> Gate:
    where = "the frozen test" if name == "score" else "the newest labels"
    found = _gain(part, (metric,), comparison)
    if found is None:
        told = f"{NAMES[metric]} cannot be compared on {where}: one of the models has none there."
        return Gate(name, False, told, {"metric": metric, "windows": part.windows})
    gain, low, high = found
    numbers = {"metric": metric, "gain": gain, "low": low, "high": high, "drop": drop, "windows": part.windows}
    holds_zero = low is not None and high is not None and low <= 0 <= high and part.difference.trusted
    amount = f"{NAMES[metric]} {gain:+.3f}"
    amount += f" ({low:+.3f} to {high:+.3f})" if low is not None else " (no interval)"
    if gain >= 0:
        return Gate(name, True, f"{amount} on {where}: not worse.", numbers)
    if holds_zero and -gain <= drop:
        return Gate(name, True, f"{amount} on {where}: equal within the interval.", numbers)
    if not part.difference.trusted:
        why = f"it is lower, and {part.difference.blocks} blocks of ground are too few to call that chance"
    elif holds_zero:
        why = f"it is lower by more than {drop:g}"
    else:
        why = "it is worse, and the interval leaves out 0"
    return Gate(name, False, f"{amount} on {where}: {why}.", numbers)


def _classes(part: Part, metric: str, drop: float, comparison: Comparison) -> Gate:
    section = "strata" if comparison.task.kind == "regression" else "classes"
    gains = {
        name: found[0]
        for name in comparison.task.strata
        if (found := _gain(part, (section, name, metric), comparison)) is not None
    }
    numbers: dict[str, Any] = {"metric": metric, "gains": gains, "drop": drop}
    lost = {name: gain for name, gain in gains.items() if gain < -drop}
    if lost:
        told = ", ".join(f"{name} {gain:+.3f}" for name, gain in sorted(lost.items(), key=lambda item: item[1]))
        return Gate("classes", False, f"{NAMES[metric]} falls by more than {drop:g}: {told}.", numbers)
    if not gains:
        return Gate("classes", False, f"No class has {NAMES[metric]} in both models.", numbers)
    name, gain = min(gains.items(), key=lambda item: item[1])
    return Gate("classes", True, f"{NAMES[metric]} of the worst class ({name}): {gain:+.3f}.", numbers)


def _calibration(part: Part, limit: float | None) -> Gate:
    before, now = part.champion["ece"], part.challenger["ece"]
    most = limit if limit is not None else None if before is None else before + ECE_SLACK
    numbers = {"champion": before, "challenger": now, "most": most}
    if now is None or most is None:
        return Gate("calibration", False, "No calibration error can be computed.", numbers)
    return Gate("calibration", now <= most, f"Calibration error {now:.3f}, allowed {most:.3f}.", numbers)


def _cost(comparison: Comparison, factor: float) -> Gate:
    before, now = (comparison.costs[name].macs_per_km2 for name in ("champion", "challenger"))
    ratio = now / before
    told = f"{ratio:.2f} times the champion's multiply-accumulates a square kilometre, allowed {factor:g}."
    return Gate("cost", ratio <= factor, told, {"ratio": ratio, "most": factor})


def _limit(part: Part, metric: str, limit: float) -> Gate:
    value = part.challenger[metric]
    errors = metric in LOWER_IS_BETTER
    numbers = {"metric": metric, "value": value, "limit": limit}
    if value is None:
        return Gate(f"limit {metric}", False, f"{NAMES[metric]} is not defined on the frozen test.", numbers)
    reached = value <= limit if errors else value >= limit
    told = f"{NAMES[metric]} {value:.3f}, {'at most' if errors else 'at least'} {limit:g} is asked for."
    return Gate(f"limit {metric}", reached, told, numbers)


def sentences(gates: Sequence[Gate]) -> Iterator[str]:
    """A line a gate."""
    for gate in gates:
        yield f"{'passed' if gate.passed else 'REFUSED'}  {gate.name}: {gate.sentence}"
