"""Tiles of earlier maps that are tiles of this one: equal key (keys.py), equal bytes, so they are taken over.

Looked into are the project's finished `tiles/*/` and what killed runs left. A tile is taken whole or not at all, and
only where its bytes are those that were written and no asset that it depends on had failed. What a refresh leaves is
what a full run would, so where a tile came from is no part of it: that lies in `.olmoearth/records` (`reused_tiles`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.errors import StoreError
from olmoearth_core.inference.journals import lost_assets
from olmoearth_core.inference.keys import TileKeys
from olmoearth_core.inference.product import TileRecord, finished_tile, take_tile
from olmoearth_core.manifest import SCRATCH, Manifest, read_manifest
from olmoearth_core.project import Project
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_json


@dataclass(frozen=True)
class _Former:
    """Tiles of an earlier run.

    Attributes:
        folder: where they are.
        key: stage key of the run, or as much of it as the folder's name holds.
        manifest: of a finished run: what its bytes should be.
        lost: scenes of which assets could not be read then.
    """

    folder: Path
    key: str
    manifest: Manifest | None
    lost: frozenset[str]

    def tile(self, name: str, key: str) -> TileRecord | None:
        """The record of a whole tile of that name and key."""
        if not (self.folder / f"{name}.json").is_file():
            return None
        record = finished_tile(self.folder, name)
        if record is None or record.key != key:
            return None
        expected = self.manifest and self.manifest.outputs.get(f"{name}.tif")
        return record if self.manifest is None or (expected and expected.sha256 == record.sha256) else None


def take_over(run: StageRun, keys: TileKeys, missing: Collection[str]) -> dict[str, TileRecord]:
    """Take those of the `missing` tiles over that an earlier run of the project made; their records.

    Raises:
        StoreError: the disk is full; what was taken is kept.
    """
    missing = frozenset(missing)
    found: dict[str, tuple[_Former, TileRecord]] = {}
    for former in _formers(run):
        hurt = keys.touched_by(former.lost) if former.lost else set()
        for name in missing:
            if name not in found and name not in hurt and (record := former.tile(name, keys.keys[name])):
                found[name] = former, record
    known = reused_tiles(run.project, run.key)
    origins = {name: key for name, key in known.items() if name not in missing}
    before = {former.key: reused_tiles(run.project, former.key) for former, _ in found.values()}
    origins |= {name: before[former.key].get(name, former.key) for name, (former, _) in found.items()}
    if origins != known:
        write_json(_origins(run.project, run.key), origins)  # before the first tile counts
    for name, (former, record) in found.items():
        take_tile(former.folder, run.out, name, record)
    return {name: record for name, (_, record) in found.items()}


def reused_tiles(project: Project, key: str) -> Mapping[str, str]:
    """Tile -> stage key of the run that computed it, of the tiles that the run `key` of infer took over.

    Empty where it computed all, or that is not known here.
    """
    try:
        origins: dict[str, str] = json.loads(_origins(project, key).read_bytes())
    except (OSError, ValueError):
        return {}
    return origins


def _origins(project: Project, key: str) -> Path:
    return project.state / "records" / f"tiles-{key[:12]}.json"


def _formers(run: StageRun) -> Iterator[_Former]:
    """Earlier runs of infer, finished ones first, the latest first."""
    finished = (run.project.root / "tiles").glob("*/")
    for folder in sorted(finished, key=lambda f: (-f.stat().st_mtime_ns, f.name)):
        manifest = _manifest(folder)
        if folder != run.out and manifest is not None and manifest.stage == "infer":
            yield _Former(folder, manifest.key, manifest, _lost(manifest.summary))
    for folder in sorted((run.project.state / "work").glob("infer-*/")):
        if folder != run.out:
            journal = frozenset(failure.scene for failure in lost_assets(folder / SCRATCH))
            before = _manifest(folder / SCRATCH)  # of outputs that were damaged
            lost = _lost(before.summary) if before else frozenset()
            yield _Former(folder, folder.name.removeprefix("infer-"), None, journal | lost)


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except StoreError:  # damaged: nothing vouches for its tiles
        return None


def _lost(summary: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(failure["scene"] for failure in summary.get("failed_assets", ()))
