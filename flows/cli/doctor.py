"""`olmoearth doctor`: is this machine fit for work?"""

from __future__ import annotations

import typer

from flows.cli.output import JsonOption, console, print_json


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: versions, device, disk, workspace, servers."""
    from flows.doctor import examine

    checks = []
    marks = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}
    out = console()
    for check in examine():
        checks.append(check)
        if not as_json:
            out.print(f"{marks[check.verdict]} {check.name}: ", end="")
            out.print(check.found, highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print_json([{"name": c.name, "verdict": c.verdict, "found": c.found} for c in checks])
    raise typer.Exit(1 if any(check.verdict == "error" for check in checks) else 0)
