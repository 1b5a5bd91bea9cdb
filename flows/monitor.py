"""Watching a map as a Prefect flow: the drift of a project's last map, with a table that a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.monitoring import drift_rows
from flows.progress import current_progress
from olmoearth_core.monitoring.drift import drift
from olmoearth_core.project import load_project


@flow(flow_run_name="drift of {project}")
def monitor(project: str) -> dict[str, Any]:
    """Measure the drift of the last map of the project folder `project`; returns the report as plain JSON values."""
    report = drift(load_project(Path(project)), progress=current_progress())
    create_table_artifact(
        key=f"{report.project}-drift".replace("_", "-"), table=drift_rows(report), description=report.sentence
    )
    return report.to_json()
