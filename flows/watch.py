"""Watching: a small flow that looks whether retraining of any project is due, and tells Prefect of it by events.

A new map is measured once, by the flow `monitor`; people hear of its drift, whether or not drift makes retraining due.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.due import reasons, tell
from flows.errors import FlowError
from flows.monitor import monitored
from flows.monitoring import newest_drift, tell_of_drift
from flows.notify import wanted
from flows.progress import current_progress
from olmoearth_core.errors import CoreError
from olmoearth_core.project import PROJECT_FILE, Project, load_project
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
            told[str(place)] = _look(load_project(place))
        except (CoreError, RegistryError, FlowError) as error:
            current_progress().note(f"{place} cannot be looked at: {error}")
    return told


def _look(project: Project) -> list[str]:
    """Tell of what became due in one project; returns the sentences."""
    trigger = "drift" in getattr(project.config.retraining, "triggers", ())
    report = newest_drift(project, monitored) if trigger or wanted(project, "drift") else None
    if report is not None:
        tell_of_drift(project, report, current_progress())
    return [reason.sentence for reason in tell(project, reasons(project, drift=lambda _project: report))]
