"""Watching: a small flow that looks whether retraining of any project is due, and tells Prefect of it by events."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.due import reasons, tell
from flows.errors import FlowError
from flows.progress import current_progress
from olmoearth_core.errors import CoreError
from olmoearth_core.project import PROJECT_FILE, load_project
from registry.errors import RegistryError


@flow(flow_run_name="watch")
def watch(projects: list[str] | None = None, folder: str | None = None) -> dict[str, list[str]]:
    """Tell of what became due in the project folders `projects`, and in all below `folder`.

    Returns:
        Project folder -> the sentences that were told. A project that cannot be looked at is told of in the log, and
        keeps no other from being looked at.
    """
    below = sorted(Path(folder).expanduser().glob(f"*/{PROJECT_FILE}")) if folder else []
    told: dict[str, list[str]] = {}
    for place in dict.fromkeys([*map(Path, projects or []), *(path.parent for path in below)]):
        try:
            loaded = load_project(place)
            told[str(place)] = [reason.sentence for reason in tell(loaded, reasons(loaded))]
        except (CoreError, RegistryError, FlowError) as error:
            current_progress().note(f"{place} cannot be looked at: {error}")
    return told
