"""`olmoearth audit --verify`, of nothing in particular: is the registry what it was?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from flows.cli.output import console, print_json

if TYPE_CHECKING:
    from registry.chain.anchors import Head
    from registry.workspace import Workspace


def verify_all(workspace: Workspace, heads: Sequence[str], as_json: bool) -> int:
    """Verify every event, row and anchor, tell what differs and what the head is; the exit code."""
    from flows.cli.audit_text import show_check
    from registry.chain.verify import verify_workspace

    checks, head = verify_workspace(workspace, [_head(text) for text in heads])
    verified = all(check.status == "ok" for check in checks)
    if as_json:
        told = [{"what": c.what, "status": c.status, "detail": c.detail, "problems": c.problems} for c in checks]
        chain = {"chain": head.chain, "position": head.position, "hash": head.hash}
        print_json({"verified": verified, "head": chain, "checks": told})
        return 0 if verified else 1
    out = console()
    out.print(f"[bold]{'[green]VERIFIED' if verified else '[red]NOT VERIFIED'}[/][/]  {head.place}", highlight=False)
    for check in checks:
        show_check(check, out)
    out.print(
        f"Head of the chain, worth to be kept elsewhere: {head.position}:{head.hash}", highlight=False, soft_wrap=True
    )
    return 0 if verified else 1


def _head(text: str) -> Head:
    from registry.chain.anchors import Head

    position, colon, digest = text.partition(":")
    if not (colon and position.isdigit() and len(digest) == 64):
        raise typer.BadParameter(
            f"--head '{text}': give position and hash as `olmoearth audit --verify` told them, 17:3f0c..."
        )
    return Head("", int(position), digest, "the head that was kept")
