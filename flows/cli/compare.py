"""`olmoearth compare`: whether another encoder would do as well for less, or better, on a project's own task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, listed, print_json, progress


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(compare)


def compare(
    project: ProjectArgument = Path(),
    encoders: Annotated[str, typer.Option(help="Separated by commas: v1-nano,v1.1-nano,v1.1-tiny.")] = "",
    weights: Annotated[
        str,
        typer.Option(help="For each of --encoders, in their order, separated by commas; 'random' for none."),
    ] = "",
    split: Annotated[str, typer.Option(help="What is judged by: test, or validation.")] = "test",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each; the project's when not given.")] = None,
    area: Annotated[float | None, typer.Option(min=0, help="km²; the project's area when not given.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of an hour of this device.")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure windows/s on this device.")] = True,
    to: Annotated[Path | None, typer.Option(help="Folder of table and plot; PROJECT/comparison by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train encoders alike on the training set; score, cost, a plot, and a plain recommendation.

    Needs the training set (`olmoearth run --until preprocess`). Killed, it goes on; asked again, it remembers.
    """
    from flows.door import finished_stage
    from olmoearth_core.project import load_project
    from olmoearth_core.stage import project_lock
    from olmoearth_core.training.candidates import candidates
    from olmoearth_core.training.compare_encoders import compare_encoders
    from olmoearth_core.training.compare_encoders_report import write_comparison

    loaded = load_project(project)
    with progress(as_json) as listener, project_lock(loaded):
        dataset = finished_stage(loaded, "preprocess", listener)
        found = compare_encoders(
            loaded,
            dataset.folder,
            dataset.manifest,
            candidates(loaded, listed(encoders), listed(weights)),
            split=split,
            epochs=epochs,
            area_km2=area,
            price_per_hour=price,
            measure=measure,
            progress=listener,
        )
        files = write_comparison(found, to or loaded.root / "comparison")
    if as_json:
        print_json(found | {"files": files})
    else:
        _show(found, files)


def _show(found: dict[str, Any], files: list[Path]) -> None:
    from rich.table import Table

    from olmoearth_core.training.compare_encoders_report import table

    header, body = table(found)
    shown = Table(title=f"{found['project']}: same data and epochs, judged on {found['split']}", title_justify="left")
    for k, name in enumerate(header):
        shown.add_column(name, justify="left" if k < 3 else "right", overflow="fold")
    for line in body:
        shown.add_row(*line, style="bold" if line[0] == found["own"] else None)
    out = console()
    out.print(shown)
    for line in (found["note"], found["recipes"]):
        if line:
            out.print(line, highlight=False, markup=False)
    out.print(found["recommendation"]["sentence"], highlight=False, markup=False, style="bold")
    for path in files:
        out.print(f"  {path}", highlight=False, soft_wrap=True)
