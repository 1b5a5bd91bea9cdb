"""What `olmoearth init` asks in a terminal: only what was left open, each with a default that Enter takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from olmoearth_core.templates import Answers, Template


def in_a_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_template(found: list[Template]) -> str:
    """Which template."""
    for template in found:
        typer.echo(f"  {template.name:20} {template.about}")
    names = {template.name for template in found}
    while True:
        name: str = typer.prompt("Template", default="blank")
        if name in names or "/" in name:
            return name
        typer.echo(f"There is no '{name}'.")


def ask_answers(answers: Answers, template: Template) -> Answers:
    """Labels, their class property, the catalogue and the date of the map, as far as they are open.

    Raises:
        LabelError: a label file that cannot be read.
    """
    from olmoearth_core.project import PROJECT_FILE, parse_project
    from olmoearth_core.templates.template import PLACEHOLDER

    settings = parse_project(template.texts[PROJECT_FILE].replace(PLACEHOLDER, "asked"))
    if not answers.labels and (path := _ask_file("Label file (Enter: later)")) is not None:
        answers = replace(answers, labels=[path])
    if answers.labels and settings.task.kind != "regression" and answers.measured is None:
        answers = replace(answers, class_property=_ask_property(answers, settings.labels.class_property))
    if answers.catalogue is None:
        usual = settings.imagery.catalogue
        named: str = typer.prompt("Catalogue of imagery", default=usual if isinstance(usual, str) else "")
        answers = replace(answers, catalogue=named if named and named != usual else None)
    if answers.day is None:
        answers = replace(answers, day=_ask_day("Date of the map (Enter: that of the newest labels)"))
    return answers


def _ask_file(question: str) -> Path | None:
    while True:
        named: str = typer.prompt(question, default="", show_default=False)
        if not named:
            return None
        if (path := Path(named).expanduser()).exists():
            return path
        typer.echo(f"There is no file {path}.")


def _ask_property(answers: Answers, usual: str) -> str | None:
    """The class property, where the template's own is not one of the file's."""
    from olmoearth_core.templates.fill import columns_of

    columns = columns_of(answers.labels[0])
    if answers.class_property is not None or not columns or usual in columns:
        return answers.class_property
    for name, values in columns.items():
        typer.echo(f"  {name:20} {', '.join(values)}")
    while True:
        name = typer.prompt("Property with the class")
        if name in columns:
            return str(name)
        typer.echo(f"There is no '{name}'.")


def _ask_day(question: str) -> date | None:
    while True:
        text: str = typer.prompt(question, default="", show_default=False)
        if not text:
            return None
        try:
            return date.fromisoformat(text)
        except ValueError:
            typer.echo("A date is written 2024-05-01.")
