"""What a person reads after a stage or a run: a markdown page for Prefect, tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def stage_markdown(project: str, result: dict[str, Any]) -> str:
    """One stage's result as a markdown page."""
    rows = "\n".join(f"| {name} | {_plain(value)} |" for name, value in result["summary"].items())
    return (
        f"# {project}: {result['stage']}\n\nFolder `{result['folder']}`, stage key `{result['key']}`.\n\n"
        f"| | |\n|---|---|\n{rows}\n" + "".join(f"\nReport: `{path}`\n" for path in reports(result))
    )


def reports(result: dict[str, Any]) -> list[str]:
    """The pages that a stage left for a person to open, below the project."""
    page = {"preprocess": "expectations.html", "finetune": "report.html"}.get(result["stage"])
    return [f"{result['folder']}/{page}"] if page else []


def stages_table(results: list[dict[str, Any]]) -> Table:
    """What each stage did and what it cost."""
    from rich.table import Table

    table = Table(title="Stages", title_justify="left")
    table.add_column("stage")
    table.add_column("")
    for column in ("wall s", "device s", "read", "written"):
        table.add_column(column, justify="right")
    table.add_column("outputs")
    for result in results:
        cost = result["record"]
        table.add_row(
            result["stage"],
            "up to date" if result["skipped"] else "resumed" if cost.get("resumed") else "done",
            *(_seconds(cost.get(name)) for name in ("wall_seconds", "device_seconds")),
            *(_bytes(cost.get(name)) for name in ("bytes_read", "bytes_written")),
            result["folder"],
        )
    return table


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(item) for item in value) or "none"
    return str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    size = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def scores_lines(result: dict[str, Any]) -> list[str]:
    """How good a fine-tuned model is, and why to doubt it; nothing for other stages."""
    summary = result["summary"]
    lines = [
        f"  {split}: {', '.join(told)}"
        for split in ("validation", "test")
        if isinstance(scores := summary.get(split), dict) and (told := list(_headlines(scores)))
    ]
    return lines + [f"  Warning: {warning}" for warning in summary.get("warnings", []) if lines]


def _headlines(scores: dict[str, Any]) -> Iterator[str]:
    """The scores of a split that a person looks at first, with what a random forest comes to beside them."""
    named = {"miou": "mIoU", "overall_accuracy": "accuracy", "r2": "R2", "rmse": "RMSE"}
    for key, name in named.items():
        if scores.get(key) is not None:
            yield f"{name} {_plain(scores[key])}"
    if scores.get("baseline"):
        yield scores["baseline"]


def summary_lines(result: dict[str, Any]) -> list[str]:
    """What a stage says of itself, a line each; long lists are counted, their first entries shown."""
    lines = []
    for name, value in result["summary"].items():
        if isinstance(value, list) and len(value) > 3:
            value = f"{len(value)}: {'; '.join(_plain(item) for item in value[:3])}; ..."
        text = _plain(value)
        lines.append(f"  {name.replace('_', ' ')}: {text if len(text) <= 300 else text[:297] + '...'}")
    return lines
