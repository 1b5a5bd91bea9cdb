"""What an audit knows while it checks: the thing, what it was made of, and where the files of its lineage lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy.orm import Session

from olmoearth_core.progress import Progress
from olmoearth_core.project import PROJECT_FILE
from registry.audit.files import Held, look_for
from registry.audit.find import Found
from registry.audit.lineage import Origin
from registry.audit.thing import Thing
from registry.outputs import Output
from registry.tables import schema
from registry.workspace import Workspace


@dataclass(frozen=True)
class Case:
    """One audit."""

    session: Session
    workspace: Workspace
    thing: Thing
    found: Found
    origin: Origin
    progress: Progress

    @cached_property
    def held(self) -> Mapping[str, Held]:
        """Stage -> what lies here of its outputs, every byte compared with the manifest."""
        held = {}
        with self.progress.bar("verifying checksums", len(self.origin.runs)) as advance:
            for run in self.origin.runs:
                held[run.stage] = look_for(run, self.roots(run), self._at_hand(run))
                advance(1)
        return held

    @property
    def outputs(self) -> Mapping[str, Output]:
        """Stage -> its outputs, of those that are here."""
        return {stage: held.output for stage, held in self.held.items() if held.output is not None}

    def roots(self, run: schema.Run) -> list[Path]:
        """Project folders that may hold its outputs: the one around the file, then those recorded, the newest first."""
        path = self.thing.path
        around = [folder for folder in (path, *path.parents) if (folder / PROJECT_FILE).is_file()][:1] if path else []
        known = [Path(other.project_folder) for other in self.origin.alike[run.stage]]
        return list(dict.fromkeys([*around, *known]))

    def _at_hand(self, run: schema.Run) -> Output | None:
        """The outputs that were asked about, where they are the run's."""
        if self.thing.manifest is None:
            return None
        folder, manifest = self.thing.manifest
        is_it = (manifest.stage, manifest.outputs_digest) == (run.stage, run.digest)
        return Output(folder, manifest) if is_it else None
