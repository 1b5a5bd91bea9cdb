"""A dataset version from its DVC remote alone: no project, no git repository, no dvc.lock."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from olmoearth_core.errors import StoreError
from olmoearth_core.manifest import damage, read_manifest
from olmoearth_core.store import disk_errors, move, write_text
from registry.errors import VersioningError
from registry.versioning.dvc import run_dvc

CONFIG = """[core]
    no_scm = true
    analytics = false
    remote = there
['remote "there"']
    url = {remote}
[cache]
    type = "reflink,hardlink,copy"
"""
"""What is pulled is linked out of the cache, which then goes: nothing lies on the disk twice."""


def pull_version(remote: str, dvc_hash: str, digest: str, target: Path) -> None:
    """Fetch the folder that DVC knows as `dvc_hash` to `target`, and verify it.

    Args:
        remote: URL or folder of the remote.
        dvc_hash: as the registry has it, with the ending `.dir`.
        digest: of the outputs, as the registry has it.
        target: is not there yet.

    Raises:
        VersioningError: the remote cannot be reached, lacks a file, or has other bytes than were recorded.
        StoreError: the disk is full.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="dvc-") as temporary:
            folder = Path(temporary)
            run_dvc(folder, "init", "--no-scm", "--quiet")
            write_text(folder / ".dvc" / "config", CONFIG.format(remote=remote))
            tracked = {"outs": [{"md5": dvc_hash, "hash": "md5", "path": "data"}]}
            write_text(folder / "data.dvc", yaml.safe_dump(tracked))
            run_dvc(folder, "pull", "data.dvc")
            move(folder / "data", target)
    _verify(remote, digest, target)


def _verify(remote: str, digest: str, folder: Path) -> None:
    try:
        manifest = read_manifest(folder)
    except StoreError:
        manifest = None
    if manifest is None or manifest.outputs_digest != digest:
        raise VersioningError(f"{remote}: what came from there into {folder} is not the dataset version {digest[:16]}.")
    if wrong := damage(folder, manifest):
        raise VersioningError(f"{remote}: what came from there into {folder} is damaged ({'; '.join(wrong[:3])}).")
