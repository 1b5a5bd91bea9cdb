"""Watching a map as a Prefect flow: the drift of a project's last map, with a table that a person can read.

The watch (flows/watch.py) runs it for each new map; it needs no deployment of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.monitoring import drift_rows, tell_of_drift
from flows.progress import current_progress
from olmoearth_core.monitoring.drift import DriftReport, drift
from olmoearth_core.project import Project, load_project


@flow(flow_run_name="drift of {project}")
def monitor(project: str) -> dict[str, Any]:
    """Measure the drift of the last map of the project folder `project`; returns the report as plain JSON values."""
    loaded, progress = load_project(Path(project)), current_progress()
    report = drift(loaded, progress=progress)
    create_table_artifact(
        key=f"{report.project}-drift".replace("_", "-"), table=drift_rows(report), description=report.sentence
    )
    tell_of_drift(loaded, report, progress)
    return report.to_json()


def monitored(project: Project) -> DriftReport:
    """The report of a run of `monitor`.

    Raises:
        CoreError: as `drift`.
    """
    return DriftReport.from_json(monitor(str(project.root)))
