"""`olmoearth init` and `olmoearth validate`: before anything is spent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(init)
    app.command()(validate)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="Folder of the new project; its last part is the name.")
    ],
    template: Annotated[str, typer.Option("--template", "-t", help="blank, land-cover, water or demo.")] = "blank",
    as_json: JsonOption = False,
) -> None:
    """Make a project folder: project.yaml, labels/, a git + DVC repository."""
    from olmoearth_core.project import load_project
    from olmoearth_core.templates import write_template
    from registry.dvc import ensure_pipeline
    from registry.workspace import Workspace

    root = folder.expanduser().resolve()
    written = write_template(template, root, project_name=root.name)
    ensure_pipeline(load_project(root), Workspace.from_environment())
    if as_json:
        print_json({"project": str(root), "template": template, "files": [str(path) for path in written]})
        return
    out = console()
    out.print(f"Made {root} from the template '{template}':", highlight=False, soft_wrap=True)
    for path in written:
        out.print(f"  {path}", highlight=False, soft_wrap=True)
    out.print(
        f"Next: put your labels into {folder / 'labels'}, fill in project.yaml, then `olmoearth validate {folder}`.",
        highlight=False,
        soft_wrap=True,
    )


def validate(project: ProjectArgument = Path(), as_json: JsonOption = False) -> None:
    """Check the project with its labels and catalogue before anything is spent."""
    from flows.report import outlook_lines, outlook_table
    from olmoearth_core.outlook import outlook
    from olmoearth_core.project import load_project
    from olmoearth_core.validate import check

    loaded = load_project(project)
    with progress(as_json) as listener:
        findings, counted = check(loaded, listener)
        errors = [finding for finding in findings if finding.severity == "error"]
        expected = None if errors else outlook(loaded, listener, counted)
    if as_json:
        rows = [{"severity": f.severity, "where": f.where, "message": f.message} for f in findings]
        facts = None if expected is None else asdict(expected)
        print_json({"project": loaded.config.name, "valid": not errors, "findings": rows, "outlook": facts})
    else:
        out = console()
        if expected is not None:
            out.print(outlook_table(expected, loaded.config.task.kind))
            for line in outlook_lines(expected):
                out.print(line, highlight=False, markup=False, soft_wrap=True)
        for finding in findings:
            mark = "[red]error[/]  " if finding.severity == "error" else "[yellow]warning[/]"
            out.print(f"{mark} [bold]{finding.where}[/]: ", end="")
            out.print(finding.message, highlight=False, markup=False, soft_wrap=True)
        out.print(
            f"[red]{len(errors)} error(s)[/]: mend them before a run."
            if errors
            else f"[green]{loaded.config.name} is ready[/]: `olmoearth run {project}`."
        )
    raise typer.Exit(1 if errors else 0)
