"""What was computed once and may be needed again: folders by key, of which the least used go when they grow too large.

Nothing here is an output: all of it can be computed again, and may be deleted at any time.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.digest import sha256_json
from olmoearth_core.store import disk_errors, whole_file
from olmoearth_core.training.answers import Task
from olmoearth_core.training.tally import Counter, Tally

_DAMAGED = (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError)
"""What reading a truncated or changed .npz raises; each array in it has a checksum."""
LIMIT = 4 * 2**30
"""Bytes that embeddings of a project may take."""


@dataclass(frozen=True)
class Kept:
    """A folder of folders, each named by what its content depends on."""

    folder: Path
    limit: int = LIMIT

    def place(self, depends_on: dict[str, Any]) -> Path:
        """The folder of what depends on these JSON values; it counts as used now.

        Raises:
            StoreError: the place cannot be written.
        """
        place = self.folder / sha256_json(depends_on)[:32]
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            os.utime(place)
        return place

    def trim(self, *used: Path) -> None:
        """Remove the folders that were used longest ago until the rest fits the limit; those in `used` stay."""
        places = sorted((p for p in self.folder.glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime_ns)
        sizes = {place: sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) for place in places}
        total = sum(sizes.values())
        for place in places:
            if total <= self.limit:
                return
            if place not in used:
                shutil.rmtree(place, ignore_errors=True)
                total -= sizes[place]


def kept_tally(
    path: Path, task: Task, make: Callable[[], tuple[Tally, dict[str, Any]]]
) -> tuple[Tally, dict[str, Any]]:
    """What `make` gives, a tally and what is to be known of it (JSON values), made once and read from `path` after.

    A file that is damaged is made again.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    empty = Counter(task).tally()
    names = [field.name for field in fields(empty) if field.name != "task"]
    with suppress(FileNotFoundError, *_DAMAGED):
        return _read(path, empty, names)
    tally, about = make()
    arrays = {name: getattr(tally, name) for name in names} | {"about": np.array(json.dumps(about))}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return tally, about


def _read(path: Path, empty: Tally, names: list[str]) -> tuple[Tally, dict[str, Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        values = {name: found[name] for name in names}
        about = json.loads(str(found["about"]))
    if "temperature" in values:
        values["temperature"] = float(values["temperature"])
    return replace(empty, **values), about
