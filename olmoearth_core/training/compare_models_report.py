"""What a person reads about a comparison of two models: a Markdown page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from olmoearth_core.models.score_text import NAMES, OVERALL, PARTS
from olmoearth_core.training.compare_models import Comparison, Part
from olmoearth_core.training.gates import Gate, passed

TITLES = {"test": "The frozen test", "newest": "The newest labels"}


def comparison_markdown(title: str, verdict: str, comparison: Comparison, gates: Sequence[Gate]) -> str:
    """A page: the verdict, the gates, scores of both models and their differences with 95 % intervals, cost.

    Args:
        title: which models.
        verdict: what was decided, in a sentence.
        comparison: of the two.
        gates: what became of each.
    """
    lines = [f"# {title}", "", verdict, "", "## Gates", "", "| gate | | what was found |", "| --- | --- | --- |"]
    lines += [f"| {g.name} | {'passed' if g.passed else '**refused**'} | {g.sentence} |" for g in gates]
    lines += ["", f"All gates passed: {'yes' if passed(gates) else 'no'}."]
    for name, part in comparison.parts.items():
        lines += ["", f"## {TITLES[name]}", "", *_part(part, comparison)]
    lines += ["", "## Cost of mapping", "", "| | champion | challenger |", "| --- | ---: | ---: |"]
    costs = [comparison.costs[name] for name in ("champion", "challenger")]
    lines.append("| GMAC a square kilometre | " + " | ".join(f"{c.macs_per_km2 / 1e9:.3g}" for c in costs) + " |")
    lines.append(
        "| windows a second, measured here | " + " | ".join(f"{c.windows_per_second:.3g}" for c in costs) + " |"
    )
    return "\n".join([*lines, *(f"\n{note}" for note in comparison.notes)]) + "\n"


def _part(part: Part, comparison: Comparison) -> Iterator[str]:
    kind = comparison.task.kind
    yield f"{part.windows} windows in {part.difference.blocks} blocks of ground."
    if note := part.difference.note or part.difference.rare:
        yield f"{note}"
    yield from ("", "| score | champion | challenger | difference (95 % interval) |", "| --- | ---: | ---: | ---: |")
    for metric in OVERALL[kind]:
        yield _row(NAMES[metric], part, (metric,))
    section, metrics = PARTS[kind]
    for name in comparison.task.strata:
        yield _row(f"{NAMES[metrics[0]]} of {name}".replace("|", "/"), part, (section, name, metrics[0]))


def _row(title: str, part: Part, path: tuple[str, ...]) -> str:
    value, interval = part.difference.values.get(path), part.difference.intervals.get(path)
    told = "-" if value is None else f"{value:+.3f}"
    if interval is not None:
        told += f" ({interval.low:+.3f} to {interval.high:+.3f})"
    return f"| {title} | {_value(part.champion, path)} | {_value(part.challenger, path)} | {told} |"


def _value(scores: dict[str, Any], path: tuple[str, ...]) -> str:
    found: Any = scores
    for name in path:
        found = found.get(name) if found else None
    return "-" if found is None else f"{found:.3f}"
