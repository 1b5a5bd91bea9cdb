"""`olmoearth reproduce`: make a recorded map again and compare the two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.output import JsonOption, console, print_json, progress

if TYPE_CHECKING:
    from registry.reproduce.reproduction import Reproduction

SAMPLE = 8
"""Tiles that are made again unless more are asked for."""
SHOWN = 5


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(reproduce)


def reproduce(
    map_: Annotated[str, typer.Argument(metavar="MAP", help="A file of the map, or its id.")],
    tiles: Annotated[
        int | None, typer.Option(min=1, help=f"Make a sample of so many tiles again; {SAMPLE} by default.")
    ] = None,
    all_tiles: Annotated[
        bool, typer.Option("--all", help="Make all tiles again, and the products of the map.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="Folder in which it is made, empty or not there; `<map id>-again` by default.")
    ] = None,
    environment: Annotated[
        Literal["current", "recorded"],
        typer.Option(help="recorded: by the code and the libraries of that time, in an environment made for it."),
    ] = "current",
    dataset: Annotated[bool, typer.Option("--dataset", help="Fetch the training set from its DVC remote.")] = False,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the model again as well, and compare the weights.")
    ] = False,
    catalogue: Annotated[
        str | None, typer.Option(help="Where the imagery's catalogue lies now, if it was a file elsewhere.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that compute tiles.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Make a map again from what was recorded, and compare pixel by pixel. Exits with 1 unless it comes out alike."""
    from flows.errors import FlowError
    from flows.reproduce import REPORT
    from flows.reproduce import reproduce as make
    from registry.reproduce.lay_out import Wish

    if all_tiles and tiles is not None:
        raise FlowError("--tiles and --all: name one of them.")
    wish = Wish(None if all_tiles else tiles or SAMPLE, dataset, retrain, catalogue, processes)
    with progress(as_json) as listener:
        found = make(map_, to, wish, environment, listener)
    if as_json:
        print_json({**found.to_json(), "report": str(Path(found.folder) / REPORT)})
    else:
        _show(found, Path(found.folder) / REPORT)
    raise typer.Exit(0 if found.holds else 1)


def _show(found: Reproduction, report: Path) -> None:
    from registry.reproduce.reproduction import differing

    out = console()
    title = {
        "equal": "[green]EQUAL",
        "tolerated": "[yellow]WITHIN TOLERANCE",
        "differs": "[red]DIFFERS",
        "not made": "[red]NOT MADE",
    }
    out.print(f"[bold]{title[found.verdict]}[/][/]  ", end="")
    out.print(found.sentence, highlight=False, markup=False, soft_wrap=True)
    if found.same_weights is not None:
        told = "the weights came out bit for bit" if found.same_weights else "the weights came out otherwise"
        out.print(f"[bold]{'model':<9}[/]trained again: {told}", highlight=False)
    rest = list(differing(found))
    for one in rest[:SHOWN]:
        apart = one.difference
        pixels = f"{apart.differing:,} of {apart.pixels:,} pixels differ" if apart else ""
        line = ", ".join(filter(None, [one.outcome, one.detail, pixels]))
        out.print(f"  {one.name}: {line}", highlight=False, markup=False, soft_wrap=True)
    if len(rest) > SHOWN:
        out.print(f"  and {len(rest) - SHOWN} more (--json lists all)", highlight=False)
    for k, reason in enumerate(found.reasons):
        out.print(f"[bold]{'not as it was' if k == 0 else '':<15}[/]", end="")
        out.print(reason, highlight=False, markup=False, soft_wrap=True)
    out.print(f"Report:   {report}", highlight=False, soft_wrap=True)
