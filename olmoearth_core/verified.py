"""Do a stage's outputs still verify? Asked before every skip, so untouched bytes are read once, not each time.

Beside a project's outputs lies a note: at this state of all files (size, times of last change, inode) their checksums
were right. While the state stays the same the checksums are not computed again; the time of the last status change
(ctime) is set by the kernel alone, so that no writer, copy or restored backup passes by it. An audit does not use the
note: it reads every byte (`manifest.damage`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import StoreError
from olmoearth_core.manifest import Manifest, damage
from olmoearth_core.store import write_text

SETTLED_NS = 2_000_000_000
"""A file younger than this could change again within one tick of its file system's clock: no note is made."""


def changed_outputs(folder: Path, manifest: Manifest, note: Path) -> list[str]:
    """What differs between `folder` and its manifest, one sentence a file; empty when all verify.

    Args:
        folder: the stage's outputs.
        manifest: what they should be.
        note: the file that remembers the state in which they last verified.
    """
    state, youngest = _state(folder, manifest)  # before reading, so that a change while reading shows the next time
    if state is not None and _read(note) == state:
        return []
    findings = damage(folder, manifest)
    if findings:
        forget(note)
    if state is not None and not findings and time.time_ns() - youngest > SETTLED_NS:
        with suppress(StoreError):  # without the note the next time takes longer, nothing else
            write_text(note, state)
    return findings


def forget(note: Path) -> None:
    """Have every byte read the next time: bits may rot below an unchanged state, and a reader may have met them."""
    with suppress(OSError):
        note.unlink(missing_ok=True)


def _state(folder: Path, manifest: Manifest) -> tuple[str | None, int]:
    files, youngest = {}, 0
    for name in manifest.outputs:
        try:
            stat = (folder / name).stat()
        except OSError:
            return None, 0
        files[name] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        youngest = max(youngest, stat.st_mtime_ns, stat.st_ctime_ns)
    return sha256_json([manifest.outputs_digest, files]), youngest


def _read(note: Path) -> str | None:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
