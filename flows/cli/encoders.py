"""`olmoearth encoders`: the base encoders that a project can name."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.output import JsonOption, console, print_json


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    encoders = typer.Typer(help="Base encoders: versions, sizes, band sets, licence.")
    encoders.callback(invoke_without_command=True)(all_encoders)
    encoders.command("list")(list_encoders)
    encoders.command("show")(show_encoder)
    app.add_typer(encoders, name="encoders")


def all_encoders(context: typer.Context, as_json: JsonOption = False) -> None:
    """Base encoders: versions, sizes, band sets, licence. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_encoders(as_json)


def list_encoders(as_json: JsonOption = False) -> None:
    """List the known encoders."""
    from rich.table import Table

    from olmoearth_core.models.catalogue import table as rows

    if as_json:
        print_json(rows())
        return
    table = Table(title="Encoders", title_justify="left")
    table.add_column("name")
    for column in ("parameters", "width", "tokens a patch\nand S2 timestep"):
        table.add_column(column, justify="right")
    table.add_column("weights here")
    table.add_column("what is new")
    for row in rows():
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f} M",
            str(row["embedding_size"]),
            str(row["tokens_per_sentinel2_timestep"]),
            "yes" if row["cached"] else "no",
            row["news"],
        )
    out = console()
    out.print(table)
    out.print("More on one: olmoearth encoders show v1.1-nano", highlight=False)


def show_encoder(
    name: Annotated[str, typer.Argument(help="As in `encoders list`.")], as_json: JsonOption = False
) -> None:
    """Show one encoder: sizes, band sets, weights, licence and its restrictions."""
    from olmoearth_core.models.catalogue import show

    row = show(name)
    if as_json:
        print_json(row)
        return
    out = console()
    for key, value in row.items():
        lines = [str(value)]
        if isinstance(value, dict):
            lines = ["", *(f"  {m}: {' | '.join(' '.join(bands) for bands in sets)}" for m, sets in value.items())]
        elif isinstance(value, list):
            lines = ["", *(f"  {item}" for item in value)] if value and isinstance(value[0], str) else [str(value)]
        out.print(f"{key.replace('_', ' ')}: " + "\n".join(lines), highlight=False, markup=False, soft_wrap=True)
