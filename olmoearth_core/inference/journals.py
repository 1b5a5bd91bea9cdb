"""What went wrong while mapping, kept beside the tiles while the stage runs, so that a kill forgets none of it.

A file a tile, so that workers never write the same one: `lost/<tile>.json` lists assets that could not be read and were
left out of what was computed up to that tile, `failed/<tile>.json` says why a tile could not be computed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from olmoearth_core.imagery.read import Failure
from olmoearth_core.store import write_json

LOST, FAILED = "lost", "failed"


def note_lost(scratch: Path, name: str, failures: Sequence[Failure]) -> None:
    """Remember the assets that were found unreadable up to the tile `name`; nothing is written where there are none."""
    if failures:
        write_json(scratch / LOST / f"{name}.json", [asdict(failure) for failure in failures])


def lost_assets(scratch: Path) -> list[Failure]:
    """All assets that could not be read so far, by scene and asset."""
    found = {Failure(**one) for path in (scratch / LOST).glob("*.json") for one in json.loads(path.read_bytes())}
    return sorted(found)


def note_failed(scratch: Path, name: str, reason: str) -> None:
    """Remember that the tile `name` could not be computed, and why."""
    write_json(scratch / FAILED / f"{name}.json", {"reason": reason})


def failed_tiles(scratch: Path) -> Mapping[str, str]:
    """Name -> reason of the tiles that could not be computed, by name."""
    paths = sorted((scratch / FAILED).glob("*.json"))
    return {path.stem: json.loads(path.read_bytes())["reason"] for path in paths}


def forget_failed(scratch: Path) -> list[str]:
    """Have the tiles that failed tried again; their names."""
    names = list(failed_tiles(scratch))
    shutil.rmtree(scratch / FAILED, ignore_errors=True)
    return names
