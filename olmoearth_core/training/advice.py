"""Which of the compared encoders to use, in one plain sentence; none where the weights say nothing about encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from olmoearth_core.models.cost import Estimate
from olmoearth_core.models.score_text import NAMES
from olmoearth_core.training.answers import Task
from olmoearth_core.training.bootstrap import intervals, paired_difference
from olmoearth_core.training.metrics import HEADLINE
from olmoearth_core.training.probe_report import limits_of, told
from olmoearth_core.training.tally import Tally
from olmoearth_core.training.verdict import by

TOLERATED = 0.01
"""A cheaper encoder may lose so much of the headline score, and we still say: switch."""
AT_WORST = 0.025
"""And the interval of its loss may not reach further than this."""
WORTH = 1.1
"""Times cheaper from which on a change is worth the work."""

Blocks = Callable[[Tally], Any]


@dataclass(frozen=True)
class Compared:
    """A candidate that was trained and judged.

    Attributes:
        encoder: catalogue name.
        weights: where they come from; "random".
        random: its encoder was not pretrained.
        recipe: that it was trained by.
        epochs: that it was trained for.
        tally: how it does.
        cost: what a window, and the project's area, costs.
    """

    encoder: str
    weights: str
    random: bool
    recipe: str
    epochs: int
    tally: Tally
    cost: Estimate


def advise(rows: Sequence[Compared], own: Compared, task: Task, blocks: Blocks) -> dict[str, Any]:
    """JSON values.

    headline, the score that is compared; own, the encoder that others are compared with; encoders, cheapest first:
    encoder, weights, random, recipe, epochs, value, low, high (of the headline), scores, macs (of a window),
    macs_per_km2, windows_per_second, measured, hours, money, and, but for the own one, difference {value, low, high,
    verdict, sentence, cheaper}; blocks and note, why intervals cannot be trusted; recipes, what to know where they
    differ; recommendation {verdict "switch",
    "stay" or "none", encoder, sentence}.
    """
    path = HEADLINE[task.kind]
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: (r.cost.macs, r.encoder)):
        scored = intervals(row.tally, blocks(row.tally))
        speed = row.cost.speed
        values: dict[str, Any] = {
            "encoder": row.encoder,
            "weights": row.weights,
            "random": row.random,
            "recipe": row.recipe,
            "epochs": row.epochs,
            **limits_of(scored, path),
            "scores": {k: v for k, v in row.tally.scores().items() if k not in ("confusion", "reliability")},
            "macs": row.cost.macs,
            "macs_per_km2": row.cost.macs_per_km2,
            "windows_per_second": speed.windows_per_second if speed else None,
            "measured": speed.measured if speed else None,
            "hours": row.cost.hours,
            "money": row.cost.money,
        }
        if row is not own:
            difference = paired_difference(row.tally, own.tally, blocks(row.tally))
            verdict, sentence = told(row.encoder, own.encoder, difference, task.kind, "both, trained alike")
            values["difference"] = {
                **limits_of(difference, path),
                "verdict": verdict,
                "sentence": sentence,
                "cheaper": own.cost.macs / row.cost.macs,
            }
        found.append(values)
    first = intervals(own.tally, blocks(own.tally))
    return {
        "kind": task.kind,
        "headline": path[0],
        "own": own.encoder,
        "encoders": found,
        "blocks": first.blocks,
        "note": first.note,
        "recipes": _recipes(rows),
        "recommendation": _recommendation(found, own, task.kind, first.trusted, first.note),
    }


def _recipes(rows: Sequence[Compared]) -> str:
    if len({row.recipe for row in rows}) == 1:
        return ""
    named = ", ".join(f"{row.encoder} {row.recipe}" for row in rows)
    return (
        f"Each encoder was trained by the recipe that fits its weights ({named}); with one in training.recipe all are "
        "trained by that."
    )


def _recommendation(
    rows: Sequence[dict[str, Any]], own: Compared, kind: str, trusted: bool, note: str
) -> dict[str, Any]:
    others = [row for row in rows if "difference" in row]
    if unknown := [row["encoder"] for row in rows if row["random"]]:
        return _said(
            "none",
            own.encoder,
            f"No recommendation: {', '.join(unknown)} began with random weights, so these scores tell what training "
            "from nothing gives, not what the encoders are worth. Name their checkpoints with --weights.",
        )
    if not trusted or any(row["difference"]["low"] is None for row in others):
        return _said("none", own.encoder, f"No recommendation: {note or 'one of them has no score.'}")
    better = [row for row in others if row["difference"]["verdict"] == "better"]
    cheap = [
        row
        for row in others
        if row["difference"]["cheaper"] >= WORTH
        and row["difference"]["value"] >= -TOLERATED
        and row["difference"]["low"] >= -AT_WORST
    ]
    if cheap:
        best = max(cheap, key=lambda row: row["difference"]["cheaper"])
        return _said("switch", best["encoder"], f"{_sentence(best, kind)}: switch")
    if better:
        best = max(better, key=lambda row: row["difference"]["value"])
        return _said("switch", best["encoder"], f"{_sentence(best, kind)}: switch, if that is worth it to you")
    told_of = max(others, key=lambda row: row["difference"]["value"])
    return _said("stay", own.encoder, f"{_sentence(told_of, kind)}: stay with {own.encoder}")


def _sentence(row: dict[str, Any], kind: str) -> str:
    """ "v1.1-tiny: 5.9x cheaper, mean IoU -0.4 ± 0.9 points"."""
    found = row["difference"]
    times = found["cheaper"]
    cost = f"{times:.1f}x cheaper" if times >= 1 else f"{1 / times:.1f}x dearer"
    half = (found["high"] - found["low"]) / 2
    sign = "+" if found["value"] >= 0 else "-"
    unit = "" if kind == "regression" else " points"
    amount = f"{sign}{by(abs(found['value']), kind)} ± {by(half, kind)}{unit}"
    return f"{row['encoder']}: {cost}, {NAMES[HEADLINE[kind][0]]} {amount}"


def _said(verdict: str, encoder: str, sentence: str) -> dict[str, Any]:
    return {"verdict": verdict, "encoder": encoder, "sentence": sentence}
