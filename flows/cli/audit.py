"""`olmoearth audit`: which model, data, code and scenes made this map, and does every checksum hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import JsonOption, console, print_json, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.report import AuditReport, SceneFacts


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(audit)


def audit(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="A file that this platform made as part of a map.")],
    as_json: JsonOption = False,
) -> None:
    """Print the lineage of a map file and verify every checksum. Exits with 1 unless all verify."""
    from registry.audit import audit as look_up
    from registry.workspace import Workspace

    with progress(as_json) as listener:
        report = look_up(Workspace.from_environment(), map_file, listener)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    raise typer.Exit(0 if report.verified else 1)


def _show(report: AuditReport) -> None:
    out = console()
    out.print(f"[bold]{'[green]VERIFIED' if report.verified else '[red]NOT VERIFIED'}[/][/]  ", end="")
    out.print(report.sentence, highlight=False, markup=False, soft_wrap=True)
    for title, line in _lineage(report):
        out.print(f"[bold]{title:<9}[/]", end="")
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    marks = {
        "ok": "[green]ok[/]     ",
        "differs": "[red]differs[/]",
        "missing": "[yellow]missing[/]",
        "changed": "[yellow]changed[/]",
    }
    for check in report.checks:
        out.print(f"  {marks[check.status]}  {check.what}: ", end="", highlight=False)
        out.print(check.detail, highlight=False, markup=False, soft_wrap=True)
        for problem in check.problems[:5]:
            out.print(f"             {problem}", highlight=False, markup=False, soft_wrap=True)
        if len(check.problems) > 5:
            out.print(f"             and {len(check.problems) - 5} more (--json lists all)", highlight=False)


def _lineage(report: AuditReport) -> Iterator[tuple[str, str]]:
    """(Title, line) of everything that made the map, from the map back to the labels."""
    if report.map is not None:
        found = report.map
        yield "map", f"{found.id} of the project {found.project}, for {found.date}, {found.tiles} tile(s)"
        yield "scenes", _scenes(found.scenes)
    if report.model is not None:
        model = report.model
        yield "model", f"{model.name} version {model.version}, {model.encoder}, began from {model.base}"
        yield "", f"weights sha256 {model.weights_sha256}"
    if report.dataset is not None:
        data = report.dataset
        yield "data", f"dataset {data.digest[:16]}, DVC {data.dvc_hash or 'unknown'}"
        yield "", f"scenes: {_scenes(data.scenes)}"
        for name, sha256 in data.labels.items():
            yield "", f"labels {name}, sha256 {sha256}"
    for run in report.runs or []:
        cost = f", {run.wall_seconds:.1f} s" if run.wall_seconds is not None else ""
        if run.status == "found":
            yield "run", f"{run.stage}: found complete; maker unknown{cost}"
            continue
        code = run.code_commit[:12] if run.code_commit else f"version {run.platform_version}"
        changed = " with uncommitted changes" if run.code_dirty else ""
        when = f"{run.finished:%Y-%m-%d %H:%M} UTC" if run.finished else "at an unknown time"
        yield "run", f"{run.stage}: {when} by {run.who} on {run.host}, code {code}{changed}{cost}"


def _scenes(scenes: list[SceneFacts]) -> str:
    if not scenes:
        return "none"
    days = sorted(f"{scene.acquired:%Y-%m-%d}" for scene in scenes)
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    named = ", ".join(scene.id for scene in scenes[:3])
    return f"{len(scenes)} ({span}): {named}{', ...' if len(scenes) > 3 else ''}"
