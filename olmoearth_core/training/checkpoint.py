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
    """Write `state` after `epoch` finished epochs; all but it and the one before go away.

    Later ones can only be damaged, or another run's: this run has not been there yet.

    The file is the sha256 of what follows, then what `torch.save` makes of `state`.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_bytes(_path(folder, epoch), hashlib.sha256(content).digest() + content)
    this = _path(folder, epoch)
    others = [path for path in _newest_first(folder) if path != this]
    before = [path for path in others if path.name < this.name]
    for other in others:
        if other not in before[: KEPT - 1]:
            other.unlink(missing_ok=True)


def load_checkpoint(folder: Path, note: Callable[[str], None], run_key: str) -> dict[str, Any] | None:
    """The state (on the CPU) of the newest checkpoint of the run `run_key` that verifies; None where there is none.

    One that does not, or is another run's (another encoder, other classes), is told through `note` and passed over.
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
        if state.get("run_key") != run_key:
            note(f"The checkpoint {path.name} is of another training (encoder, classes or settings) and passed over.")
            continue
        return state
    return None


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}.checkpoint"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.checkpoint"), reverse=True)
