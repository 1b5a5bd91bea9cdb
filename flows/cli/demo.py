"""`olmoearth demo`: the lifecycle on a simulated region, in one command."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import JsonOption, console, print_json, progress

if TYPE_CHECKING:
    from rich.table import Table

    from flows.demo import Demo


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where the demo's project goes.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Run everything on a small simulated region with known truth: a few minutes."""
    from flows.demo import run_demo
    from flows.report import stages_table

    with progress(as_json) as listener:
        made = run_demo(folder, listener)
    if as_json:
        print_json(
            {
                "map": made.map,
                "preview": made.preview,
                "accuracy": made.accuracy.overall,
                "iou": made.accuracy.iou,
                "pixels": made.accuracy.n,
                "single_date_random_forest": {"date": made.baseline_date, "accuracy": made.baseline},
                "shortfall": made.shortfall,
                "stages": made.stages,
            }
        )
        return
    out = console()
    out.print(stages_table(made.stages))
    out.print(_classes_table(made))
    out.print(
        f"Accuracy against the known truth, outside the training labels ({made.accuracy.n} pixels):\n"
        f"  this map, twelve months                             [bold]{made.accuracy.overall:.3f}[/]\n"
        f"  pixel random forest on the best date ({made.baseline_date})      {made.baseline:.3f}\n",
        highlight=False,
    )
    for what, path in (("Map", made.map), ("Preview", made.preview)):
        out.print(f"{what + ':':<9} {path}", highlight=False, soft_wrap=True)
    out.print(f"Next:     olmoearth audit {made.map}", highlight=False, soft_wrap=True)
    if made.shortfall is not None:
        out.print(f"[yellow]{made.shortfall}[/]", highlight=False, soft_wrap=True)


def _classes_table(made: Demo) -> Table:
    from rich.table import Table

    table = Table(title="Classes", title_justify="left")
    table.add_column("class")
    for column in ("area ha", "share %", "IoU"):
        table.add_column(column, justify="right")
    with (made.map.parent / "areas.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            iou = made.accuracy.iou.get(row["class"])
            table.add_row(
                row["class"],
                f"{float(row['hectares']):.1f}",
                f"{100 * float(row['share']):.1f}",
                "-" if iou is None else f"{iou:.3f}",
            )
    return table
