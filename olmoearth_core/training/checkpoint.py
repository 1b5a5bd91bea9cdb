"""Checkpoints of a training run: whole or not at all, checked when read, the last two kept."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from olmoearth_core.store import write_bytes

KEPT = 2
_DIGEST_BYTES = 32


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write `state` after `epoch` finished epochs; all but the last two checkpoints go away.

    The file is the sha256 of what follows, then what `torch.save` makes of `state`.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_bytes(_path(folder, epoch), hashlib.sha256(content).digest() + content)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def load_checkpoint(folder: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The state (on the CPU) of the newest checkpoint that verifies; None where there is none.

    One that does not is told through `note` and passed over.
    """
    for path in _newest_first(folder):
        content = path.read_bytes()
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            note(f"The checkpoint {path.name} is damaged and is passed over.")
            continue
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            note(f"The checkpoint {path.name} cannot be read by torch {torch.__version__} and is passed over: {error}")
            continue
        return state
    return None


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}.checkpoint"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.checkpoint"), reverse=True)
