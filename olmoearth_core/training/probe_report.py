"""What probes came to: scores with intervals, and in sentences whether pretraining, and a bigger encoder, pay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from olmoearth_core.models.card import BaseWeights
from olmoearth_core.models.score_text import NAMES
from olmoearth_core.training.answers import Task
from olmoearth_core.training.baselines import NAME
from olmoearth_core.training.bootstrap import Resampled, intervals, paired_difference
from olmoearth_core.training.metrics import HEADLINE
from olmoearth_core.training.tally import Tally
from olmoearth_core.training.verdict import by, span

Found = tuple[Tally, dict[str, Any]]
"""How something does, and what is to be known of it."""
Blocks = Callable[[Tally], Any]
"""The blocks of ground of a tally's windows."""


@dataclass(frozen=True)
class Probed:
    """What probes of an encoder came to.

    Attributes:
        encoder: catalogue name.
        base: its weights.
        parameters: learned numbers.
        macs: multiply-accumulates of a window.
        pretrained: learner ("knn", "linear") -> found, with those weights; None where they are random.
        random: the same with random weights.
    """

    encoder: str
    base: BaseWeights
    parameters: int
    macs: int
    pretrained: dict[str, Found] | None
    random: dict[str, Found]

    @property
    def best_known(self) -> Tally:
        """The linear layer on the weights that were asked for."""
        return (self.pretrained or self.random)["linear"][0]


def report(
    protocol: dict[str, Any], task: Task, probed: list[Probed], forest: Found | None, blocks: Blocks
) -> dict[str, Any]:
    """JSON values.

    protocol; headline, the score that is compared; encoders, smaller ones first: encoder, weights, sha256, parameters,
    macs, knn, linear (None where weights are random) and random {knn, linear}, each with value, low, high (of the
    headline), scores and points; forest alike; comparisons [{what, verdict, value, low, high, sentence}]; note, why
    intervals cannot be trusted; blocks.
    """
    probed = sorted(probed, key=lambda p: (p.macs, p.encoder))
    judge = _Judge(task, blocks)
    if forest is not None and not len(forest[0].rows):
        forest = None
    rows = [
        {
            "encoder": p.encoder,
            "weights": p.base.source,
            "sha256": p.base.sha256,
            "parameters": p.parameters,
            "macs": p.macs,
            "knn": judge.scored(p.pretrained["knn"]) if p.pretrained else None,
            "linear": judge.scored(p.pretrained["linear"]) if p.pretrained else None,
            "random": {name: judge.scored(found) for name, found in p.random.items()},
        }
        for p in probed
    ]
    first = intervals(probed[0].best_known, blocks(probed[0].best_known))
    return {
        "protocol": protocol,
        "headline": HEADLINE[task.kind][0],
        "encoders": rows,
        "forest": None if forest is None else judge.scored(forest),
        "comparisons": list(_comparisons(judge, probed, forest)),
        "blocks": first.blocks,
        "note": first.note,
    }


def _comparisons(judge: _Judge, probed: list[Probed], forest: Found | None) -> list[dict[str, Any]]:
    found = []
    for p in probed:
        if p.pretrained is not None:
            outcome = judge.compared(
                f"{p.encoder} with these weights", p.best_known, "with random ones", p.random["linear"][0]
            )
            found.append({"what": f"pretraining of {p.encoder}", **outcome})
    known = [p for p in probed if p.pretrained is not None]
    for small, big in pairwise(known):
        outcome = judge.compared(big.encoder, big.best_known, small.encoder, small.best_known)
        pays = {"better": "the bigger encoder pays", "worse": "the bigger encoder does not pay"}.get(
            outcome["verdict"], "that the bigger encoder pays is not shown"
        )
        sentence = f"{outcome['sentence']} At {big.macs / small.macs:.1f} times the compute, {pays}."
        found.append({"what": f"{big.encoder} for {small.encoder}", **outcome, "sentence": sentence})
    if forest is not None:
        best = max(probed, key=lambda p: judge.headline(p.best_known))
        weights = "" if best.pretrained else " with random weights"
        outcome = judge.compared(
            f"{best.encoder}{weights}", best.best_known, NAME, forest[0], "its linear probe and the forest"
        )
        finer = "" if judge.task.kind == "classification" else " The forest answers for pixels, a probe for patches."
        found.append({"what": f"{best.encoder} for {NAME}", **outcome, "sentence": outcome["sentence"] + finer})
    return found


@dataclass(frozen=True)
class _Judge:
    task: Task
    blocks: Blocks

    def headline(self, tally: Tally) -> float:
        """The score that is compared, or less than any where there is none."""
        value = tally.scores()[HEADLINE[self.task.kind][0]]
        return float("-inf") if value is None else float(value)

    def scored(self, found: Found) -> dict[str, Any]:
        tally, about = found
        path = HEADLINE[self.task.kind]
        resampled = intervals(tally, self.blocks(tally))
        scores = {key: value for key, value in tally.scores().items() if key not in ("confusion", "reliability")}
        return about | limits_of(resampled, path) | {"scores": scores}

    def compared(
        self, one: str, first: Tally, other: str, second: Tally, between: str = "their linear probes"
    ) -> dict[str, Any]:
        """The difference of the headline score, by the linear layers, on the same pixels."""
        path = HEADLINE[self.task.kind]
        difference = paired_difference(first, second, self.blocks(first))
        verdict, sentence = told(one, other, difference, self.task.kind, between)
        return {"verdict": verdict, **limits_of(difference, path), "sentence": sentence}


def limits_of(resampled: Resampled, path: tuple[str, ...]) -> dict[str, Any]:
    """value, low and high of a score or difference; None where it has none."""
    interval = resampled.intervals.get(path)
    return {
        "value": resampled.values.get(path),
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
    }


def told(one: str, other: str, difference: Resampled, kind: str, between: str) -> tuple[str, str]:
    """(verdict, sentence): "better" or "worse" where the interval leaves out 0 and can be trusted, else "not shown".

    `between` says whose scores these are: "their linear probes".
    """
    path = HEADLINE[kind]
    if path not in difference.values:
        return "not shown", f"{one} and {other} cannot be compared: one has no {NAMES[path[-1]]}."
    value, interval = difference.values[path], difference.intervals.get(path)
    unit = f"{'of' if kind == 'regression' else 'points of'} {NAMES[path[-1]]} between {between}"
    if interval is None:
        unsure = f"the difference is {by(value, kind)} {unit}, and nothing says how sure that is"
        return "not shown", f"{one} is not shown to be better than {other}: {unsure}."

    def amount(sign: int) -> str:
        low, high = sorted((sign * interval.low, sign * interval.high))
        return f"{by(sign * value, kind)} {unit} (95 % interval {span(low, high, kind)})"

    if difference.trusted and interval.low > 0:
        return "better", f"{one} is better than {other}, by {amount(1)}."
    if difference.trusted and interval.high < 0:
        return "worse", f"{one} is worse than {other}, by {amount(-1)}."
    return "not shown", f"{one} is not shown to be better than {other}: the difference is {amount(1)}."
