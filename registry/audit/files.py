"""The files that a run made: where they lie, and whether each is what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from olmoearth_core.digest import sha256_file
from olmoearth_core.manifest import MANIFEST, Manifest
from olmoearth_core.stages import PLACES
from registry.audit.report import Check
from registry.outputs import Output, find_output
from registry.tables import schema
from registry.versioning import git
from registry.versioning.dvc_store import default_remote, find_repository, stored_files

NAMES = {
    "postprocess": "products",
    "infer": "tiles",
    "finetune": "model files",
    "preprocess": "dataset",
    "export": "export",
}
"""Stage -> what a person calls its outputs."""


@dataclass(frozen=True)
class Held:
    """What lies here of a run's outputs."""

    check: Check
    """Every file compared with its manifest."""
    output: Output | None = None
    """None where there are none, or others than the registry names."""


def look_for(run: schema.Run, roots: Sequence[Path], at_hand: Output | None) -> Held:
    """Find what the run made, in `at_hand`, the project folders `roots` or DVC's store, and read every byte of it."""
    what = NAMES[run.stage]
    found = (find_output(root, run.stage, run.digest) for root in roots)
    output = at_hand or next((output for output in found if output is not None), None)
    if output is not None:
        files = {name: output.path(name) for name in output.manifest.outputs}
        return Held(compare(what, output.manifest, files, str(output.folder)), output)
    for root in roots:
        held = _from_dvc(run, root)
        if held is not None:
            return held
    for root in roots:
        if "*" in PLACES[run.stage] and (root / run.folder).is_dir():
            detail = f"{root / run.folder}: its {MANIFEST} is not the recorded one"
            return Held(Check(what, "differs", detail, [f"recorded digest {run.digest}"]))
    where = f"made in {run.project_folder} on {run.host}" if run.host else f"found in {run.project_folder}"
    return Held(Check(what, "missing", f"{run.folder} with the recorded digest is not here; it was {where}"))


def _from_dvc(run: schema.Run, root: Path) -> Held | None:
    """A dataset version that a newer one replaced in the folder, from DVC's cache or a local remote."""
    repository = dvc_repository(root) if run.dvc_hash else None
    stored = stored_files(repository, run.dvc_hash) if repository and run.dvc_hash else None
    if repository is None or stored is None or MANIFEST not in stored:
        return None
    try:
        manifest = Manifest.model_validate_json(stored[MANIFEST].read_bytes())
    except ValueError:
        return None
    where = f"DVC's store of {repository}, {run.dvc_hash}"
    if manifest.outputs_digest != run.digest:
        return Held(Check(NAMES[run.stage], "differs", f"{where}: its {MANIFEST} is not the recorded one"))
    return Held(compare(NAMES[run.stage], manifest, stored, where), Output(repository, manifest, stored))


def dvc_repository(root: Path) -> Path | None:
    """The DVC repository around a project folder, where both are here."""
    top = git.top(root) if root.is_dir() else None
    return find_repository(root, top.resolve()) if top else None


def check_dvc(run: schema.Run, roots: Sequence[Path]) -> Check | None:
    """Whether DVC still keeps what it versioned, so that the folder may go; None where all is well or nothing is known.

    A remote behind a URL is believed: asking it is `dvc status --cloud`'s.
    """
    repository = next((found for root in roots if (found := dvc_repository(root)) is not None), None)
    if repository is None or run.dvc_hash is None or stored_files(repository, run.dvc_hash) is not None:
        return None
    remote = default_remote(repository)
    if remote is not None and urlsplit(remote).scheme:
        return None
    where = f"neither its cache nor its remote {remote}" if remote is not None else "not its cache, and no remote,"
    detail = f"{where} holds {run.dvc_hash}: run `dvc commit -f` and `dvc push` in {repository}"
    return Check(f"{NAMES[run.stage]} (DVC)", "changed", detail)


def compare(what: str, manifest: Manifest, files: Mapping[str, Path], where: str) -> Check:
    """The files at hand against the checksums of a manifest."""
    gone, wrong = [], []
    for name, expected in manifest.outputs.items():
        path = files.get(name)
        if path is None or not path.is_file():
            gone.append(f"{name}: missing")
        elif path.stat().st_size != expected.bytes or sha256_file(path) != expected.sha256:
            wrong.append(f"{name}: content differs from its checksum")
    count = len(manifest.outputs)
    if wrong:
        return Check(what, "differs", f"{len(wrong)} of {count} files in {where} changed", wrong + gone)
    if gone:
        return Check(what, "missing", f"{len(gone)} of {count} files are gone from {where}", gone)
    return Check(what, "ok", f"{count} files in {where}")
