"""Keeping what a run read and was made by, so that an empty folder is enough to do it again.

Everything goes into the artifact store under its sha256, and most of these names are in the run's row already: those of
its input files, of the lock, of the list of installed packages, and the digest of its outputs, under which their names
and checksums are kept. Weights from a hub or bucket are not kept: the model card names source and revision. Models are
kept by MLflow, training sets by DVC, imagery by its catalogue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olmoearth_core.digest import canonical_json, sha256_file
from olmoearth_core.machine import packages
from olmoearth_core.manifest import Manifest
from olmoearth_core.project import PROJECT_FILE, Project
from olmoearth_core.stage import StageResult
from olmoearth_core.stages import STAGES
from registry.context import CODE, LOCK
from registry.inputs import places_of, was_fetched
from registry.objects import keep, store_of
from registry.reproduce.code_archive import pack_source, source_sha256
from registry.workspace import Workspace

PLAN = "plan.json"
"""Of the stage infer: how its tiles are computed. (The module that writes it needs torch.)"""


def keep_run(workspace: Workspace, project: Project, result: StageResult, code: str | None) -> dict[str, Any]:
    """Keep what `result` was made of; by what (code, packages) only where it is known.

    Args:
        workspace: names the store.
        project: whose result it is.
        result: of any stage.
        code: the name of the code that computed it; where other code runs by now, that one cannot be kept any more.

    Returns:
        The columns of the run that name what they alone know: store, project_sha256, code_sha256.

    Raises:
        StoreError: the store cannot be reached, refuses, or is full.
    """
    store, manifest = store_of(workspace), result.manifest
    for path in _inputs(project, manifest):
        keep(store, path)
    keep(store, listing(manifest))
    if PLAN in manifest.outputs:
        keep(store, result.folder / PLAN)
    columns: dict[str, Any] = {"store": store, "project_sha256": keep(store, project.root / PROJECT_FILE)}
    if result.skipped:
        return columns
    keep(store, canonical_json(list(packages())).encode())
    if (CODE / LOCK).is_file():
        keep(store, CODE / LOCK)
    return {**columns, "code_sha256": keep(store, pack_source())} if source_sha256() == code else columns


def listing(manifest: Manifest) -> bytes:
    """Names and checksums of a stage's outputs; its sha256 is the digest of the outputs."""
    return canonical_json({name: output.sha256 for name, output in manifest.outputs.items()}).encode()


def _inputs(project: Project, manifest: Manifest) -> list[Path]:
    """The input files that are still what the stage read."""
    found = []
    for name, sha256 in manifest.inputs.items():
        if name not in STAGES and not was_fetched(manifest.settings, name):
            places = (path for path in places_of(manifest.settings, name, project.root) if path.is_file())
            found += [path for path in places if sha256_file(path) == sha256][:1]
    return found
