"""`olmoearth init`, `templates` and `validate`: before anything is spent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, file_name, print_json, progress


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(init)
    app.command()(templates)
    app.command()(validate)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="Folder of the new project; its last part is the name.")
    ],
    template: Annotated[
        str | None,
        typer.Option("--template", "-t", help="`olmoearth templates` lists them; or a folder, or a git URL (#folder)."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            parser=file_name,
            metavar="FILE",
            help="Your label file: vector, CSV table or raster; repeatable. Fills in what follows from it.",
        ),
    ] = None,
    class_property: Annotated[str | None, typer.Option(help="Its property, or column, with the class.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Values that mean a class: forest=30-100; repeatable."),
    ] = None,
    value: Annotated[str | None, typer.Option(help="Its property with what was measured, instead of classes.")] = None,
    value_range: Annotated[str | None, typer.Option("--range", help="Values that are possible: 0,100.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of --value.")] = None,
    date_property: Annotated[str | None, typer.Option(help="Its property with the day a label is true for.")] = None,
    label_date: Annotated[str | None, typer.Option(help="Day that all labels are true for: 2024-05-01.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of CSV tables with x and y.")] = None,
    catalogue: Annotated[
        str | None, typer.Option(help="Imagery: earth-search, a STAC API's URL, or a folder with catalog.json.")
    ] = None,
    area: Annotated[Path | None, typer.Option(help="Vector file of the area to map; else around the labels.")] = None,
    date: Annotated[str | None, typer.Option(help="Date of the map; else that of the newest labels.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a project folder: project.yaml, labels/, a git + DVC repository. In a terminal asks what is left open."""
    from flows.cli.asking import ask_answers, ask_template, in_a_terminal
    from flows.cli.days import parse_day
    from flows.starting import fetch_template, project_folder, start_project
    from olmoearth_core.importing.labelling import label_files, parse_classes, parse_measured
    from olmoearth_core.templates import Answers, templates
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    project_folder(folder)  # before anything is asked
    ranged = value_range is not None or unit is not None
    measured = parse_measured(value, value_range, unit, classes=bool(classes)) if ranged else None
    answers = Answers(
        labels=label_files(labels or ()),
        class_property=class_property,
        classes=parse_classes(classes or ()),
        measured=measured,
        value_property=value,
        date_property=date_property,
        label_day=parse_day("--label-date", label_date),
        crs=crs,
        catalogue=catalogue,
        area=area,
        day=parse_day("--date", date),
    )
    if in_a_terminal() and not as_json:
        template = template or ask_template(templates(workspace.templates))
        answers = ask_answers(answers, fetch_template(template, workspace))
    made = start_project(folder, template or "blank", answers, workspace)
    if as_json:
        files = [str(path) for path in made.files]
        print_json(
            {"project": str(made.root), "template": made.template.name, "files": files, "notes": made.filled.notes}
        )
        return
    out = console()
    out.print(f"Made {made.root} from the template '{made.template.name}':", highlight=False, soft_wrap=True)
    for path in made.files:
        out.print(f"  {path}", highlight=False, soft_wrap=True)
    for note in made.filled.notes:
        out.print(f"{note}.", highlight=False, markup=False, soft_wrap=True)
    kept = {made.root / name for name in made.kept}
    if left := [path for path in made.files if path not in kept]:
        names = ", ".join(str(path.relative_to(made.root)) for path in left)
        out.print(f"Not committed to git, being large or in a repository of yours: {names}.", highlight=False)
    else:
        out.print("All of it is committed to git; `olmoearth run` says what to commit later.", highlight=False)
    first = "" if made.filled.labels else f"put your labels into {folder / 'labels'}, fill in project.yaml, then "
    out.print(f"Next: {first}`olmoearth validate {folder}`.", highlight=False, soft_wrap=True)


def templates(
    add: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Keep a template of your own: a folder or git URL."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name; that of the folder when not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List what `olmoearth init` can begin with; templates of your own lie in OLMOEARTH_TEMPLATES."""
    from rich.table import Table

    from flows.starting import keep_template
    from olmoearth_core.templates import templates as known
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    if add is not None:
        keep_template(add if "/" in add or add.endswith(".git") else f"./{add}", workspace, name)
    found = known(workspace.templates)
    if as_json:
        print_json([{"name": t.name, "about": t.about, "origin": t.origin} for t in found])
        return
    table = Table(title="olmoearth init NAME --template", title_justify="left")
    for column in ("template", "what it maps", "from"):
        table.add_column(column, overflow="fold")
    for template in found:
        table.add_row(template.name, template.about, template.origin)
    console().print(table)


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
        if loaded.config.model.weights is None:
            out.print(
                "[yellow]note[/]    [bold]model.weights[/]: not set, so the encoder begins with random weights. "
                "Published ones (hf://allenai/...) mostly map better; set them where this machine reaches them.",
                highlight=False,
                soft_wrap=True,
            )
        out.print(
            f"[red]{len(errors)} error(s)[/]: mend them before a run."
            if errors
            else f"[green]{loaded.config.name} is ready[/]: `olmoearth run {project}`."
        )
        if not errors:
            text = f"Whether labels fit the imagery, `olmoearth run {project} --until preprocess` tells from pixels."
            out.print(text, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if errors else 0)
