"""`olmoearth change`: two maps of one area to a map of change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, console, print_json


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(change)


def change(
    maps: Annotated[
        list[Path],
        typer.Argument(metavar="OLD NEW", help="The earlier and the later map: map files, or folders below maps/."),
    ],
    to: Annotated[Path, typer.Option(help="Folder for the map of change.")] = Path("change"),
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Below this probability in either map a difference is uncertain.")
    ] = 0.0,
    resample: Annotated[bool, typer.Option("--resample", help="Take nearest pixels where the grids differ.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two maps of one area: what became what, as a map, a matrix in hectares and a picture."""
    from olmoearth_core.assessment import change as comparing
    from olmoearth_core.assessment.sample import map_files

    if len(maps) != 2:
        raise typer.BadParameter(f"two maps are compared, the earlier one first; {len(maps)} are named.")
    before, after = (map_files(place) for place in maps)
    found = comparing.change(before, after, to, min_confidence=min_confidence, resample=resample)
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    out = console()
    out.print(f"{found['map_id']}: hectares, rows became columns", highlight=False, soft_wrap=True, style="italic")
    table = Table()
    table.add_column("")
    for name in found["classes"]:
        table.add_column(name, justify="right")
    for name, row in zip(found["classes"], found["hectares"], strict=True):
        table.add_row(name, *(f"{value:,.1f}" for value in row))
    out.print(table)
    made = to / comparing.MAP if len(after) == 1 else to
    out.print(f"{found['changed_hectares']:,.1f} ha changed by the maps: {made}", highlight=False)
    text = f"Two maps make two maps' mistakes. Areas with errors: olmoearth sample {made}"
    out.print(text, highlight=False, soft_wrap=True)
