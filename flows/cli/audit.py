"""`olmoearth audit` and `olmoearth lineage`: what made this, what was made from it, and does every checksum hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import JsonOption, console, print_json, progress, side_console

if TYPE_CHECKING:
    from registry.audit.report import AuditReport
    from registry.workspace import Workspace

ThingArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|ID",
        show_default=False,
        help="A file or folder (any product of a map, a tile, weights, a model, a dataset, labels), or a name: a map's "
        "id, a model `name/3`, a digest, a DVC hash, a scene's id.",
    ),
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Verify every event and row of the registry, too, not only what made it.")
]
HeadOption = Annotated[
    list[str] | None,
    typer.Option("--head", metavar="POSITION:HASH", help="With --verify: a head of the chain that somebody kept."),
]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write one self-contained page, for people.")]
ProvOption = Annotated[Path | None, typer.Option("--prov", help="Write the lineage as W3C PROV-JSON, for other tools.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(audit)
    app.command()(lineage)


def audit(
    thing: ThingArgument = "",
    verify: VerifyOption = False,
    head: HeadOption = None,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    prov: ProvOption = None,
) -> None:
    """Tell what made a thing and what was made from it, and verify every checksum behind it.

    With --verify and nothing named, it is the registry alone. Exits with 1 unless all verify.
    """
    from registry.audit.audit import audit as look_up
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    if not thing or head:
        from flows.cli.verify import verify_all

        if thing or not verify:
            raise typer.BadParameter("name a file or an id, or give --verify alone; --head goes with --verify alone.")
        raise typer.Exit(verify_all(workspace, head or [], as_json))
    with progress(as_json) as listener:
        report = look_up(workspace, thing, listener, whole_registry=verify)
    _tell(report, workspace, as_json, html, prov)
    raise typer.Exit(0 if report.verified else 1)


def lineage(
    thing: ThingArgument, as_json: JsonOption = False, html: HtmlOption = None, prov: ProvOption = None
) -> None:
    """Tell what the registry recorded of a thing, both ways: what made it, and what was made from it.

    "This scene was withdrawn, which maps are touched?" Verifies nothing but the file itself; exits with 1 where the
    registry does not know it, or the file is not what it says.
    """
    from registry.audit.audit import lineage as look_up
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    report = look_up(workspace, thing)
    _tell(report, workspace, as_json, html, prov)
    raise typer.Exit(0 if report.verdict == "recorded" else 1)


def _tell(report: AuditReport, workspace: Workspace, as_json: bool, html: Path | None, prov: Path | None) -> None:
    if html is not None:
        _write_page(html, report, workspace)
    if prov is not None:
        from olmoearth_core.store import write_json
        from registry.audit.prov import prov_document

        write_json(prov, prov_document(report))
    if as_json:
        print_json(report.to_json())
        return
    from flows.cli.audit_text import show

    show(report, console())
    for path in (html, prov):
        if path is not None:
            side_console().print(f"Wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _write_page(path: Path, report: AuditReport, workspace: Workspace) -> None:
    from datetime import UTC, datetime
    from importlib.metadata import version

    from olmoearth_core.store import write_text
    from registry.audit.report_html import page

    registry = workspace.shown_registry
    write_text(path, page(report, when=datetime.now(UTC), by=version("olmoearth-platform"), registry=registry))
