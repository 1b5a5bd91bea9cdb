"""What was made and is not on record yet. A note in the project's state keeps who made it, when and by which code.

Where a store or a server refuses to be told, the stage is made all the same; the next call finds its outputs up to
date, and tells by the note what else nobody could know any more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from olmoearth_core.store import write_json
from registry.context import RunContext

FOLDER = "untold"
"""Below the project's state: a note for each stage key."""
MOMENTS = ("started", "finished")


def remember(project: Project, result: StageResult, context: RunContext) -> tuple[StageResult, RunContext]:
    """Note what was made just now, or recall the note of what was made before; result and context to be told.

    Args:
        project: whose.
        result: as the stage gave it.
        context: of this call.

    Returns:
        Both as they are, or, of outputs that an earlier call made and could not tell of, both as that call had them.

    Raises:
        StoreError: the note cannot be written.
    """
    place = _place(project, result)
    if not result.skipped:
        values = {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(context).items()}
        write_json(place, {"digest": result.manifest.outputs_digest, "context": values})
        return result, context
    noted = _read(place, result.manifest.outputs_digest)
    return (result, context) if noted is None else (replace(result, skipped=False), noted)


def forget(project: Project, result: StageResult) -> None:
    """It is on record: the note goes."""
    _place(project, result).unlink(missing_ok=True)


def _place(project: Project, result: StageResult) -> Path:
    return project.state / FOLDER / f"{result.stage}-{result.manifest.key}.json"


def _read(path: Path, digest: str) -> RunContext | None:
    """The note; None where there is none, or it is of other outputs or another version of the platform."""
    try:
        noted = json.loads(path.read_bytes())
        values = noted["context"]
        moments = {name: datetime.fromisoformat(values[name]) for name in MOMENTS if values[name] is not None}
        return RunContext(**{**values, **moments}) if noted["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
