"""`olmoearth drift` and `olmoearth status`: whether a map still is what its model learned, and how projects stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress

SHOWN = 3
"""Rows that are told of a map that did not drift."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(status)
    app.command()(drift)


def status(
    projects: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PROJECTS]...", help="Project folders; all that the registry knows when none is named."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how projects stand: what is due, what failed, drift, champion, last map."""
    from flows.monitoring import standings
    from registry.workspace import Workspace

    found = standings(projects or [], Workspace.from_environment())
    if as_json:
        print_json(found)
    else:
        _show(found)


def drift(
    project: ProjectArgument = Path(),
    map_id: Annotated[str | None, typer.Option("--map", help="Id of a map; the last one when not given.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also show what is within its limit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a map's imagery, embeddings and classes with what its model learned, and with an earlier map."""
    from rich.table import Table

    from flows.monitoring import drift_rows
    from olmoearth_core.monitoring.drift import drift as measure
    from olmoearth_core.project import load_project

    with progress(as_json) as listener:
        report = measure(load_project(project), map_id, progress=listener)
    if as_json:
        print_json(report.to_json())
        return
    table = Table(title=f"{report.map_id}: {report.windows} windows looked at", title_justify="left")
    rows = drift_rows(report)
    told = rows if every else [row for row in rows if row["drifted"]] or rows[:SHOWN]
    for k, name in enumerate(rows[0] if rows else []):
        table.add_column(name, justify="right" if 2 <= k <= 5 else "left", overflow="fold")
    for row in told:
        table.add_row(*row.values(), style="bold" if row["drifted"] else None)
    out = console()
    out.print(table)
    if len(told) < len(rows):
        out.print(f"{len(rows) - len(told)} more are within their limits (--all shows them).", highlight=False)
    for line in (report.note, report.sentence, report.advice):
        if line:
            out.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    out = console()
    if not found:
        out.print("No project has run yet: `olmoearth init NAME`.", highlight=False)
        return
    table = Table(title="Projects", title_justify="left")
    for name in ("project", "last map", "model", "newest label", "due", "failures", "drift"):
        table.add_column(name, overflow="fold")
    for row in found:
        model = f"{'champion ' + row['champion'] if row['champion'] else '-'}\n{_day(row['model_made'])}"
        table.add_row(
            row["project"],
            f"{row['map_date'] or '-'}\nmade {_day(row['map_made'])}" if row["last_map"] else "-",
            model.strip(),
            row["newest_label"] or "-",
            "\n".join(row["due"]) or "nothing",
            "\n".join(row["failures"]) or "none",
            ("[bold]yes[/]" if row["drifted"] else "no") if row["drift"] else "not measured",
        )
    out.print(table)
    for row in found:
        if row["drifted"]:
            out.print(row["drift"], highlight=False, markup=False, soft_wrap=True)


def _day(text: str | None) -> str:
    return text[:10] if text else ""
