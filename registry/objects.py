"""What runs read, kept under the sha256 of its bytes: keeping a file twice is keeping it once, and what comes back is
checked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from olmoearth_core.digest import sha256_file
from registry.errors import ArtifactError
from registry.places import open_place
from registry.workspace import Workspace

FOLDER = "objects"
"""Below the workspace's artifacts."""


def store_of(workspace: Workspace) -> str:
    """Where the workspace keeps what its runs read: a folder or s3:// URL."""
    return f"{workspace.artifacts}/{FOLDER}"


def keep(store: str, source: Path | bytes) -> str:
    """Keep a file, or bytes, in a store; their sha256.

    Raises:
        ArtifactError: the store cannot be reached or refuses.
        StoreError: its disk is full, or cannot be written.
        OSError: `source` cannot be read.
    """
    if isinstance(source, bytes):
        with tempfile.TemporaryDirectory(prefix="olmoearth-object-") as temporary:
            (file := Path(temporary) / "bytes").write_bytes(source)
            return keep(store, file)
    digest, place = sha256_file(source), open_place(store)
    if place.size(_name(digest)) != source.stat().st_size:
        place.write(_name(digest), source)
    return digest


def fetch(stores: Sequence[str], digest: str, target: Path) -> bool:
    """Copy what is kept as `digest` to `target`, from the first store that has it whole; False where none has it.

    Raises:
        ArtifactError: a store cannot be reached or has other bytes under this name, and no other has the right ones.
    """
    wrong: ArtifactError | None = None
    for store in stores:
        try:
            if not open_place(store).read(_name(digest), target):
                continue
        except ArtifactError as error:
            wrong = error
            continue
        if sha256_file(target) == digest:
            return True
        target.unlink()
        wrong = ArtifactError(f"{store}: what is kept there as {digest} has other bytes; it is damaged.")
    if wrong is not None:
        raise wrong
    return False


def _name(digest: str) -> str:
    return f"{digest[:2]}/{digest[2:]}"
