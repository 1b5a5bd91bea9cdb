"""What runs read, kept under the sha256 of its bytes: keeping a file twice is keeping it once, and what comes back is
checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import StoreError
from olmoearth_core.objects import open_objects
from registry.errors import ArtifactError
from registry.workspace import Workspace

FOLDER = "objects"
"""Below the workspace's artifacts."""


def store_of(workspace: Workspace) -> str:
    """Where the workspace keeps what its runs read: a folder or s3:// URL."""
    return f"{workspace.artifacts}/{FOLDER}"


def keep(store: str, content: bytes | Path) -> str:
    """Keep bytes, or a file, in a store; their sha256.

    Raises:
        StoreError: the store cannot be reached, refuses, is full, or cannot be written.
        OSError: the file cannot be read.
    """
    if isinstance(content, bytes):
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
    else:
        digest, size = sha256_file(content), content.stat().st_size
    objects = open_objects(store)
    if objects.size(_name(digest)) != size:
        objects.put(_name(digest), content)
    return digest


def fetch(stores: Sequence[str], digest: str, target: Path) -> bool:
    """Copy what is kept as `digest` to `target`, from the first store that has it whole; False where none has it.

    Raises:
        ArtifactError: a store cannot be reached or has other bytes under this name, and no other has the right ones.
    """
    wrong: ArtifactError | None = None
    for store in stores:
        try:
            if not open_objects(store).copy(_name(digest), target):
                continue
        except StoreError as error:
            wrong = ArtifactError(str(error))
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
