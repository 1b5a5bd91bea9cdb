"""A map, as a file or by its id, and the runs behind it: for each stage all that made the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from registry import schema
from registry.audit import MAP_ID, _find, _look
from registry.errors import ReproduceError


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


def find_behind(session: Session, asked: str) -> Behind:
    """The map that is asked about: a file of it, or its id.

    Raises:
        ReproduceError: the registry does not know it.
        AuditError: the file cannot be read.
    """
    path = Path(asked).expanduser().absolute()
    if path.is_file():
        tags, pixels, _ = _look(path)
        made, _, _ = _find(session, sha256_file(path), tags.get(MAP_ID), pixels)
    else:
        named = select(schema.Map).where(schema.Map.name == asked).order_by(schema.Map.id.desc())
        made = session.scalars(named.limit(1)).first()
    if made is None:
        what = "a file of no map that" if path.is_file() else "neither a file nor the id of a map that"
        raise ReproduceError(
            f"{asked}: {what} the registry knows. Name a map's file or id; set OLMOEARTH_REGISTRY_URL."
        )
    _ = made.project, made.tiles, made.products  # what is asked for when the session is closed
    dataset = made.model.dataset if made.model else None
    runs = [
        made.run,
        made.tiles_run,
        made.model.run if made.model else None,
        dataset.run if dataset else None,
    ]
    alike = {run.stage: _alike(session, run) for run in runs if run is not None}
    return Behind(made, path if path.is_file() else None, alike)


def _alike(session: Session, run: schema.Run) -> list[schema.Run]:
    wanted = select(schema.Run).where(
        schema.Run.project_id == run.project_id, schema.Run.stage == run.stage, schema.Run.digest == run.digest
    )
    return list(session.scalars(wanted.order_by(schema.Run.id.desc())))
