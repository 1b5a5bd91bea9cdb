"""`olmoearth backup` and `restore`: an embedded workspace in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import JsonOption, console, print_json, progress

if TYPE_CHECKING:
    from registry.backup import Backup


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(backup)
    app.command()(restore)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write; not there yet.")],
    as_json: JsonOption = False,
) -> None:
    """Write the workspace to one file: registry, MLflow, artifacts, datasets, templates. Others may work in it."""
    from registry.backup import back_up
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    with progress(as_json) as listener:
        made = back_up(workspace, file, listener)
    _show(made, f"The workspace {workspace.home} is in {made.file}", as_json)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    as_json: JsonOption = False,
) -> None:
    """Make a workspace from a backup, in OLMOEARTH_HOME, which must be empty. Every checksum is verified first."""
    from registry.backup import restore as bring_back
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    with progress(as_json) as listener:
        made = bring_back(workspace, file, listener)
    _show(made, f"The workspace of {made.created} is in {workspace.home}", as_json)
    before = made.places["dvc-remote"]
    if not as_json and before != workspace.dvc_remote:
        console().print(
            f"Projects whose DVC remote is {before} need the new place: "
            f"dvc remote modify --local workspace url {workspace.dvc_remote}",
            highlight=False,
            soft_wrap=True,
        )


def _show(made: Backup, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json({"file": made.file, "created": made.created, "files": made.files, "bytes": made.bytes})
    else:
        size = f"{made.files:,} files, {made.bytes / 2**20:,.1f} MiB"
        console().print(f"{sentence}: {size}.", highlight=False, markup=False, soft_wrap=True)
