"""`olmoearth keys`: make a key that signs the provenance of maps, and check a signed statement without any registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, console, print_json

keys = typer.Typer(help="Keys that sign the provenance of maps.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(keys, name="keys")


@keys.command()
def new(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the private key goes; FILE.pub is the public one.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Make an ed25519 key pair, as `openssl genpkey -algorithm ed25519` would."""
    from registry.chain.signing import make_key

    private, public, name = make_key(path.expanduser().absolute())
    if as_json:
        print_json({"private": str(private), "public": str(public), "id": name})
        return
    out = console()
    out.print(
        f"Private key: {private} (keep it secret; set OLMOEARTH_SIGNING_KEY to it)", highlight=False, soft_wrap=True
    )
    out.print(
        f"Public key:  {public} (give it to whoever checks; OLMOEARTH_TRUSTED_KEYS)", highlight=False, soft_wrap=True
    )
    out.print(f"Id:          {name}", highlight=False, soft_wrap=True)


@keys.command()
def check(
    statement: Annotated[Path, typer.Argument(help="provenance.json, beside the files of a map.")],
    key: Annotated[Path, typer.Option(help="File with the public keys that are trusted (PEM).")],
    as_json: JsonOption = False,
) -> None:
    """Check a statement's signature and the files beside it, with nothing but the public key.

    Exits with 1 unless it is signed by the key and every file of it that lies here is the one that was signed.
    """
    from registry.chain.check_anchors import check_statement_alone
    from registry.chain.statement import CHAIN

    path = statement / "provenance.json" if statement.is_dir() else statement
    found, told = check_statement_alone(path, str(key))
    if as_json:
        print_json({"status": found.status, "detail": found.detail, "problems": found.problems, "statement": told})
    else:
        out, anchor = console(), told["predicate"][CHAIN]
        out.print(f"[bold]{'[green]SIGNED' if found.status == 'ok' else '[red]NOT AS SIGNED'}[/][/]  ", end="")
        out.print(found.detail, highlight=False, markup=False, soft_wrap=True)
        for problem in found.problems:
            out.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)
        where = f"event {anchor['position']} of the chain {anchor['chain']}, {anchor['head']}"
        out.print(f"Map {told['predicate']['buildDefinition']['externalParameters']['map']}: {where}", highlight=False)
    raise typer.Exit(0 if found.status == "ok" else 1)
