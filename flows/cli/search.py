"""`olmoearth search`: which learning rate, recipe and encoder, by a small sweep on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, listed, print_json, progress


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(search)


def search(
    project: ProjectArgument = Path(),
    learning_rates: Annotated[
        str, typer.Option(help="Separated by commas. Default: a third of, just, and three times the recipe's.")
    ] = "",
    recipes: Annotated[str, typer.Option(help="Separated by commas. Default: the project's.")] = "",
    encoders: Annotated[str, typer.Option(help="Separated by commas. Default: the project's.")] = "",
    weights: Annotated[
        str, typer.Option(help="For each of --encoders, in their order, separated by commas; 'random' for none.")
    ] = "",
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many, drawn from all combinations.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Set what won in project.yaml.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try learning rates, recipes and encoders: a few epochs for all, more for the best third, until one is left.

    Needs the training set (`olmoearth run --until preprocess`). Judges by validation alone; killed, it goes on.
    """
    from flows.search import run_search, winning_sections, write_winner
    from olmoearth_core.project import load_project

    loaded = load_project(project)
    with progress(as_json) as listener:
        found = run_search(
            loaded,
            encoders=listed(encoders),
            weights=listed(weights),
            recipes=_recipes(recipes),
            learning_rates=_rates(learning_rates),
            most=trials,
            progress=listener,
        )
    if write:
        write_winner(loaded, found["winner"])
    if as_json:
        print_json(found | {"written": write})
        return
    _show(found)
    out = console()
    out.print("Written to project.yaml:" if write else "For project.yaml (--write sets it there):", highlight=False)
    for section, values in winning_sections(found["winner"]).items():
        keys = ", ".join(f"{key}: {value}" for key, value in values.items() if value is not None)
        out.print(f"  {section}: {{{keys}}}", highlight=False, markup=False, soft_wrap=True)


def _recipes(text: str) -> list[str]:
    from typing import get_args

    from olmoearth_core.project_training import Recipe

    found = listed(text)
    if wrong := [name for name in found if name not in get_args(Recipe)]:
        raise typer.BadParameter(f"'{wrong[0]}' is no recipe; recipes are {', '.join(get_args(Recipe))}.")
    return found


def _rates(text: str) -> list[float]:
    found = []
    for part in listed(text):
        try:
            rate = float(part)
        except ValueError:
            rate = 0.0
        if not 0 < rate <= 1:
            raise typer.BadParameter(f"'{part}' is no learning rate; expected a number above 0, up to 1.")
        found.append(rate)
    return found


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    from olmoearth_core.models.score_text import NAMES, shown

    table = Table(title=f"{found['project']}: {len(found['trials'])} trials", title_justify="left")
    for column in ("", "encoder", "weights", "recipe"):
        table.add_column(column, overflow="fold")
    for column in ("learning rate", "epochs", f"validation {NAMES[found['headline']]}"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in found["trials"]:
        table.add_row(
            str(row["trial"]),
            row["encoder"],
            row["weights"] or "random",
            row["recipe"],
            f"{row['learning_rate']:g}",
            f"{row['epochs']} of {row['of']}",
            shown(found["headline"], row["score"]),
            row["outcome"],
            style="bold" if row["outcome"] == "won" else None,
        )
    out = console()
    out.print(table)
    out.print(
        "Chosen by validation, whose score is too high for what was chosen by it: believe the test score that "
        "`olmoearth finetune` gives.",
        highlight=False,
        style="dim",
    )
