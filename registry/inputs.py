"""The files that a stage read (labels, areas, scene lists, a checkpoint), against the checksums in its manifest.

A file that changed since makes no map false: what the map was made of stays named by the recorded checksum. It is told
as `changed`, a note beside the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_file
from olmoearth_core.stages import STAGES
from registry.audit.report import Check
from registry.tables import schema

INPUTS = "inputs"


def check_inputs(run: schema.Run, roots: list[Path]) -> Check | None:
    """Compare the files that `run` read with what lies in the project folders `roots` now; None where it read none."""
    files = {n: str(digest) for n, digest in run.inputs.items() if n not in STAGES and not was_fetched(run.settings, n)}
    if not files:
        return None
    problems = [f"{name}: {found}" for name, sha256 in files.items() if (found := _look(run, name, sha256, roots))]
    what = f"{INPUTS} of {run.stage}"
    if not problems:
        return Check(what, "ok", f"{len(files)} files are those that the stage read")
    detail = (
        f"{len(problems)} of {len(files)} files are not those that the stage read; the record names those by sha256"
    )
    return Check(what, "changed", detail, problems)


def _look(run: schema.Run, name: str, sha256: str, roots: list[Path]) -> str:
    """What is wrong with an input; empty where a project folder has it as it was read."""
    found = "gone"
    for path in (path for root in roots for path in places_of(run.settings, name, root)):
        try:
            if sha256_file(path) == sha256:
                return ""
            found = "changed since"
        except OSError:
            continue
    return found


def _base_weights(settings: Mapping[str, Any]) -> str:
    return str(settings.get("model", {}).get("weights") or "")


def was_fetched(settings: Mapping[str, Any], name: str) -> bool:
    """Whether the input is base weights from a hub or bucket: the model card says where from, and which revision."""
    return name.startswith("weights/") and "://" in _base_weights(settings)


def places_of(settings: Mapping[str, Any], name: str, root: Path) -> Iterator[Path]:
    """Where an input of a stage with these settings may lie in a project folder, by the names that
    `olmoearth_core.stages` gives: most are paths of project.yaml."""
    if name == "scenes":
        yield from sorted((root / "scenes").glob("*.json"))
        return
    if name == "weights" or name.startswith("weights/"):
        yield root / Path(_base_weights(settings)).expanduser() / name.removeprefix("weights").removeprefix("/")
        return
    path = root / Path(name).expanduser()
    shapefile, space, suffix = str(path).rpartition(" ")
    yield Path(shapefile).with_suffix(suffix) if space and shapefile.lower().endswith(".shp") else path
