"""Which model, data, code and scenes made this, what was made from it, and does every checksum still hold?

`audit` works from a file alone, or from a name. What is found is verified down to the export: nothing is believed
because a row says so. `lineage` tells what the registry recorded, both ways, and verifies nothing but the file itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from olmoearth_core.progress import Progress, Silent
from registry.audit.case import Case
from registry.audit.checks import identify, verify
from registry.audit.find import find
from registry.audit.imagery import IMAGERY
from registry.audit.lineage import origin, touched
from registry.audit.report import AuditReport, Check, Verdict
from registry.audit.telling import (
    dataset_facts,
    encoder_facts,
    label_facts,
    map_facts,
    model_facts,
    run_facts,
    scenes_asked,
    subject_facts,
)
from registry.audit.thing import MAP_ID, Thing
from registry.inputs import INPUTS
from registry.tables.database import Database, is_missing
from registry.workspace import Workspace

PREVIEW = "preview.png"

Checks = Callable[[Case], list[Check]]


def audit(
    workspace: Workspace,
    thing: str | Path,
    progress: Progress | None = None,
    *,
    imagery: bool = False,
    whole_registry: bool = False,
) -> AuditReport:
    """Find out what made a thing and what was made from it, and verify all that made it.

    Args:
        workspace: whose registry is asked.
        thing: a file or folder, in its place or copied elsewhere: any product of a map, a tile, a model, a dataset,
            labels; or a name: a map's id, a model `name/3`, a digest, a DVC hash, a scene's id. A `Path` has to exist.
        progress: who listens; every byte of what made it is read.
        imagery: look at the scenes' files as they are now as well; servers are asked for ETags.
        whole_registry: verify every event and row of the registry as well, whatever they are of.

    Raises:
        AuditError: the file is not there or cannot be read.
        DatabaseError: the registry cannot be reached.
    """
    checks = partial(verify, imagery=imagery, registry=whole_registry)
    return _look_up(workspace, thing, checks, progress or Silent())


def lineage(workspace: Workspace, thing: str | Path) -> AuditReport:
    """What the registry recorded of a thing, both ways; of the files only the one asked about is looked at.

    Args and errors as `audit`.
    """
    return _look_up(workspace, thing, identify, Silent())


def _look_up(workspace: Workspace, asked: str | Path, checks: Checks, progress: Progress) -> AuditReport:
    thing = Thing.named(asked)
    if is_missing(workspace.registry_url):  # who only asks leaves nothing behind
        return AuditReport(thing.asked, "unknown", _unknown(workspace, thing), [])
    database = Database(workspace.registry_url)
    try:
        with database.read() as session:
            return _report(session, workspace, thing, checks, progress)
    finally:
        database.close()


def _report(session: Session, workspace: Workspace, thing: Thing, checks: Checks, progress: Progress) -> AuditReport:
    found = find(session, workspace, thing)
    if found is None:
        return AuditReport(thing.asked, "unknown", _unknown(workspace, thing), [])
    made_of = origin(session, found)
    case = Case(session, workspace, thing, found, made_of, progress)
    made = checks(case)
    verdict = _verdict(case, made, whole=checks is not identify)
    return AuditReport(
        asked=thing.asked,
        verdict=verdict,
        sentence=_sentence(found.name, verdict, made),
        checks=made,
        subject=subject_facts(found),
        map=map_facts(session, made_of.map, made_of) if made_of.map is not None else None,
        model=model_facts(made_of.model),
        dataset=dataset_facts(made_of.dataset, made_of.runs),
        scenes=scenes_asked(found.rows) if found.kind == "scene" else None,
        labels=label_facts(session, found.rows) if found.kind == "labels" else None,
        encoder=encoder_facts(found.rows[0]) if found.kind == "encoder" else None,
        runs=[run_facts(run) for run in made_of.runs],
        touched=touched(session, found),
        preview=_preview(case),
    )


def _verdict(case: Case, checks: list[Check], *, whole: bool) -> Verdict:
    """`whole`: everything was checked that can be; else the best that can be said is that it is recorded."""
    found = {check.status for check in checks}
    if "differs" in found:
        return "differs"
    if not whole or not case.origin.runs:  # a scene, labels, a base encoder: nothing made them that could be verified
        return "recorded"
    return "incomplete" if "missing" in found else "verified"


def _sentence(name: str, verdict: Verdict, checks: list[Check]) -> str:
    wrong = ", ".join(check.what for check in checks if check.status == "differs")
    gone = ", ".join(check.what for check in checks if check.status == "missing")
    if verdict == "differs":
        return f"Not verified: what was recorded of {name} does not match for: {wrong}."
    if verdict == "incomplete":
        return f"Not verified: nothing contradicts the record of {name}, but this cannot be checked here: {gone}."
    if verdict == "recorded":
        unsure = f", and whether this is it cannot be told here ({gone})" if gone else ""
        return f"Recorded, not verified: this is what the registry says of {name}{unsure}."
    other = [check for check in checks if check.status == "changed"]
    changed = [problem for check in other if check.what.startswith(INPUTS) for problem in check.problems]
    changed += [check.detail for check in other if check.what == IMAGERY]
    if not changed:
        held = sum(check.status == "ok" for check in checks)
        return f"Verified: this is {name}; all {held} checks hold."
    return (
        f"Verified: this is {name}; every output and record holds. What it was made from is not all as it was "
        f"({', '.join(dict.fromkeys(changed))}); the record has its checksums."
    )


def _unknown(workspace: Workspace, thing: Thing) -> str:
    missing = ", which is not there" if is_missing(workspace.registry_url) else ""
    here = f"the registry of this workspace ({workspace.shown_registry}{missing})"
    claimed = thing.claims.get(MAP_ID)
    if claimed is not None:
        return (
            f"{thing.path}: says that it is the map {claimed}, which {here} does not know. It is of another workspace "
            "(set OLMOEARTH_HOME or OLMOEARTH_REGISTRY_URL), or its tags are forged."
        )
    if thing.path is None:
        return (
            f"{thing.asked}: no such file, and {here} knows no map, scene, label file, model (name/version), base "
            "encoder or digest of that name."
        )
    if thing.file is None:
        return f"{thing.path}: a folder, but no map, tiles, model, dataset or export that {here} knows."
    if thing.why_no_raster:
        return (
            f"{thing.why_no_raster.removesuffix('.')}, and no product of a map, model, dataset or label file that "
            "this workspace's registry knows by its checksum."
        )
    return (
        f"{thing.path}: a raster without the platform's tags, and neither its checksum nor its pixels are those of a "
        f"map in {here}."
    )


def _preview(case: Case) -> Path | None:
    """The map's preview, where a project folder has it as it was made."""
    made = case.origin.map
    recorded = next((product for product in made.products if product.name == PREVIEW), None) if made else None
    if made is None or recorded is None:
        return None
    beside = [case.thing.file.with_name(PREVIEW)] if case.thing.file is not None else []
    paths = [*beside, *(root / made.run.folder / PREVIEW for root in case.roots(made.run))]
    return next((path for path in paths if path.is_file() and sha256_file(path) == recorded.sha256), None)
