"""The imagery behind a map or training set, as it is now: files here by their bytes, others by their ETags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CoreError
from olmoearth_core.imagery.access import Access, access_of
from olmoearth_core.imagery.etag import etags
from olmoearth_core.project import load_project
from registry.assets import ETAG
from registry.audit.case import Case
from registry.audit.report import Check
from registry.tables import schema

IMAGERY, SHA256 = "imagery", "sha256:"


def check_imagery(case: Case) -> Iterator[Check]:
    """Whether the files of the scenes are those that were read; where not, a map stays what it was made from."""
    made = case.found.rows[0] if case.found.kind in ("map", "dataset") else None
    if made is None:
        return
    known: dict[str, set[str]] = {}  # of a file that was replaced there are several rows
    for scene in made.scenes:
        for asset in scene.assets:
            if asset.checksum.startswith((ETAG, SHA256)):
                known.setdefault(asset.href, set()).add(asset.checksum)
    if not known:
        return
    now = {href: f"{ETAG}{etag}" for href, etag in etags(known, _access(case)).items()}
    now |= {href: f"{SHA256}{sha256_file(Path(href))}" for href in known if Path(href).is_file()}
    changed = sorted(href for href, checksum in now.items() if checksum not in known[href])
    gone = len(known) - len(now)
    left = f"; {gone} are not here, or their server does not say" if gone else ""
    if changed:
        yield Check(IMAGERY, "changed", f"{len(changed)} of {len(known)} files of scenes are others now{left}", changed)
    elif now:
        yield Check(IMAGERY, "ok", f"{len(now)} files of scenes are as they were read{left}")
    else:
        yield Check(IMAGERY, "changed", f"none of {gone} files of scenes is here, or their servers do not say")


def _access(case: Case) -> Access:
    """By the settings of a project folder that is here, else by those of the environment."""
    runs: list[schema.Run] = list(case.origin.runs)
    for root in (root for run in runs for root in case.roots(run)):
        try:
            return access_of(load_project(root))
        except CoreError:
            continue
    return Access()
