"""What a person reads after a stage or a run: a markdown page for Prefect, tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from olmoearth_core.outlook import Outlook


def stage_markdown(project: str, result: dict[str, Any]) -> str:
    """One stage's result as a markdown page."""
    facts = "\n".join(_facts(result["summary"], "", "- "))
    return (
        f"# {project}: {result['stage']}\n\nFolder `{result['folder']}`, stage key `{result['key']}`.\n\n"
        f"{facts}\n" + "".join(f"\nReport: `{path}`\n" for path in reports(result))
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


def areas_table(areas: dict[str, dict[str, Any]]) -> Table:
    """What a map of classes says each class covers."""
    from rich.table import Table

    table = Table(title="What is mapped", title_justify="left")
    table.add_column("class")
    for column in ("hectares", "share"):
        table.add_column(column, justify="right")
    for name, found in areas.items():
        table.add_row(name, f"{found['hectares']:,.1f}", f"{found['share']:.1%}")
    return table


def outlook_table(expected: Outlook, kind: str) -> Table:
    """The labelled pixels of each class, or range of a regression, and the windows of each split that have it."""
    from rich.table import Table

    table = Table(title="What there is to learn from", title_justify="left")
    first = "range" if kind == "regression" else "class"
    for column in (first, "pixels", "share", *(f"{split} windows" for split in expected.windows)):
        table.add_column(column, justify="left" if column == first else "right")
    for name, found in expected.classes.items():
        table.add_row(name, f"{found.pixels:,}", f"{found.share:.1%}", *map(str, found.windows.values()))
    total = sum(found.pixels for found in expected.classes.values())
    table.add_section()
    table.add_row("all", f"{total:,}", "", *map(str, expected.windows.values()))
    return table


def outlook_lines(expected: Outlook) -> list[str]:
    """What is taken away, what there is too little of, and what the catalogue lacks."""
    from olmoearth_core.training.bootstrap import FEW_BLOCKS

    lost = [f"{count} of {split}" for split, count in expected.left_out.items() if count]
    lines = [f"Windows left out, too near to other splits: {', '.join(lost)}."] if lost else []
    lines += [
        f"No training window has '{name}': preprocessing will refuse. Label more places, or make the buffer smaller."
        for name, found in expected.classes.items()
        if not found.windows["train"]
    ]
    few = [f"{split} in {n}" for split, n in expected.blocks.items() if split != "train" and 0 < n < FEW_BLOCKS]
    if few:
        lines.append(
            f"Few blocks of ground: {', '.join(few)}. From fewer than {FEW_BLOCKS}, intervals of scores cannot be "
            "trusted. Make dataset.split.block_size smaller, or label more places."
        )
    if 0 < expected.windows["train"] < expected.windows.get("validation", 0) + expected.windows.get("test", 0):
        lines.append(
            f"Only {expected.windows['train']} windows are for training, fewer than are held out. Make blocks smaller "
            "or dataset.split.validation and test."
        )
    return lines + [
        f"The catalogue has no {', '.join(bands)} of {modality}; the encoder does without."
        for modality, bands in expected.missing_bands.items()
    ]


def _facts(values: dict[str, Any], indent: str, mark: str = "", shown: int | None = None) -> Iterator[str]:
    """A line a value; what has values of its own, or several sentences, goes on in lines below.

    Args:
        shown: entries of a list of sentences; all when not given.
    """
    for name, value in values.items():
        if value == "":
            continue
        head = f"{indent}{mark}{_word(name)}"
        if isinstance(value, dict) and any(isinstance(inner, dict | list) for inner in value.values()):
            yield f"{head}:"
            yield from _facts(value, f"{indent}  ", mark, shown)
        elif isinstance(value, list) and value and all(isinstance(item, dict | str) for item in value):
            yield f"{head}: {len(value)}"
            yield from (f"{indent}  {mark}{_plain(item)}" for item in value[:shown])
            if shown is not None and len(value) > shown:
                yield f"{indent}  {mark}..."
        else:
            yield f"{head}: {_plain(value)}"


def _word(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{_word(name)} {_plain(item)}" for name, item in value.items()) or "none"
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
    """How good a fine-tuned model is; nothing for other stages."""
    summary = result["summary"]
    return [
        f"  {split}: {told}"
        for split in ("validation", "test")
        if isinstance(scores := summary.get(split), dict) and (told := _headlines(scores))
    ]


def warning_lines(result: dict[str, Any]) -> list[str]:
    """The warnings of a stage that was up to date; one that ran has told them as it went."""
    return [f"  Warning: {warning}" for warning in result["summary"].get("warnings", []) if result["skipped"]]


def _headlines(scores: dict[str, Any]) -> str:
    """The scores of a split that a person looks at first, with what a random forest comes to beside them."""
    named = {"miou": "mIoU", "overall_accuracy": "accuracy", "r2": "R2", "rmse": "RMSE"}
    told = ", ".join(f"{name} {_plain(scores[key])}" for key, name in named.items() if scores.get(key) is not None)
    return ". ".join(part for part in (told, scores.get("baseline")) if part)


def summary_lines(result: dict[str, Any]) -> list[str]:
    """What a stage says of itself, a line each; long lists are counted, their first entries shown."""
    told = {name: value for name, value in result["summary"].items() if name != "warnings"}
    return [line if len(line) <= 300 else line[:297] + "..." for line in _facts(told, "  ", shown=3)]
