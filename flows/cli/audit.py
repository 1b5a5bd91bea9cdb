"""`olmoearth audit` and `olmoearth lineage`: what made this, what was made from it, and does every checksum hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import JsonOption, console, print_json, progress, side_console

if TYPE_CHECKING:
    from registry.audit.report import AuditReport
    from registry.workspace import Workspace

ThingsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE|ID]...",
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
    things: ThingsArgument = None,
    verify: VerifyOption = False,
    head: HeadOption = None,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    prov: ProvOption = None,
) -> None:
    """Tell what made a thing and what was made from it, and verify every checksum behind it; of each that is named.

    With --verify and nothing named, it is the registry alone. Exits with 1 unless all verify.
    """
    from registry.audit.audit import audit as look_up
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    if not things or head:
        from flows.cli.verify import verify_all

        if things or not verify:
            raise typer.BadParameter("name a file or an id, or give --verify alone; --head goes with --verify alone.")
        raise typer.Exit(verify_all(workspace, head or [], as_json))
    _one_page_each(things, html, prov)
    with progress(as_json) as listener:
        reports = [
            look_up(workspace, thing, listener, imagery=verify, whole_registry=verify and k == 0)
            for k, thing in enumerate(things)
        ]
    _tell(reports, workspace, as_json, html, prov)
    raise typer.Exit(0 if all(report.verified for report in reports) else 1)


def lineage(
    things: ThingsArgument = None, as_json: JsonOption = False, html: HtmlOption = None, prov: ProvOption = None
) -> None:
    """Tell what the registry recorded of a thing, both ways: what made it, and what was made from it.

    "This scene was withdrawn, which maps are touched?" Verifies nothing but the file itself; exits with 1 where the
    registry does not know it, or the file is not what it says.
    """
    from registry.audit.audit import lineage as look_up
    from registry.workspace import Workspace

    if not things:
        raise typer.BadParameter("name a file or an id.")
    _one_page_each(things, html, prov)
    workspace = Workspace.from_environment()
    reports = [look_up(workspace, thing) for thing in things]
    _tell(reports, workspace, as_json, html, prov)
    raise typer.Exit(0 if all(report.verdict == "recorded" for report in reports) else 1)


def _one_page_each(things: list[str], html: Path | None, prov: Path | None) -> None:
    if len(things) > 1 and (html is not None or prov is not None):
        raise typer.BadParameter(f"--html and --prov write a page of one thing; {len(things)} are named. Name one.")


def _tell(
    reports: list[AuditReport], workspace: Workspace, as_json: bool, html: Path | None, prov: Path | None
) -> None:
    """Tell one after the other; for machines one value, a list where several things were named."""
    if html is not None:
        _write_page(html, reports[0], workspace)
    if prov is not None:
        from olmoearth_core.store import write_json
        from registry.audit.prov import prov_document

        write_json(prov, prov_document(reports[0]))
    if as_json:
        told = [report.to_json() for report in reports]
        print_json(told if len(told) > 1 else told[0])
        return
    from flows.cli.audit_text import show

    out = console()
    for report in reports:
        show(report, out)
    if len(reports) > 1:
        words = "recorded" if any(report.verdict == "recorded" for report in reports) else "verified"
        held = sum(report.verdict in ("verified", "recorded") for report in reports)
        out.print(f"{held} of {len(reports)} {words}.", highlight=False)
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
