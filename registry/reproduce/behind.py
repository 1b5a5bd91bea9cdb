"""A map, as a file or by its id, and the runs behind it: for each stage all that made the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from registry.audit.find import find
from registry.audit.lineage import origin
from registry.audit.thing import Thing
from registry.errors import ReproduceError
from registry.tables import schema
from registry.workspace import Workspace


@dataclass(frozen=True)
class Behind:
    """A map and what made it."""

    map: schema.Map
    file: Path | None
    """The file that was asked about."""
    alike: Mapping[str, Sequence[schema.Run]]
    """Stage -> the runs that made the same outputs, newest first."""

    def run(self, stage: str) -> schema.Run:
        """The run to follow: of those that made the same outputs the newest whose code was kept, else the newest.

        Raises:
            ReproduceError: the registry knows none.
        """
        runs = self.alike.get(stage, ())
        if not runs:
            raise ReproduceError(f"{self.map.name}: the registry does not know the stage {stage} of this map.")
        return next((run for run in runs if run.code_sha256), runs[0])

    @property
    def runs(self) -> list[schema.Run]:
        """All runs, of all stages."""
        return [run for runs in self.alike.values() for run in runs]


def find_behind(session: Session, workspace: Workspace, asked: str) -> Behind:
    """The map that is asked about: a file of it, or its id.

    Raises:
        ReproduceError: the registry does not know it, or it is something else.
        AuditError: the file cannot be read.
    """
    thing = Thing.named(asked)
    found = find(session, workspace, thing)
    if found is None:
        what = "neither a file nor the id of a map that" if thing.path is None else "a file of no map that"
        raise ReproduceError(
            f"{asked}: {what} the registry knows. Name a map's file or id; set OLMOEARTH_REGISTRY_URL."
        )
    if found.map is None:
        raise ReproduceError(f"{asked}: is {found.name}; only maps are made again. Name a map's file or id.")
    _ = found.map.tiles, found.map.products  # what is asked for when the session is closed
    return Behind(found.map, thing.file, origin(session, found).alike)
