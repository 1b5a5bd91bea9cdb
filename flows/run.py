"""Running the lifecycle flow from a command, with Prefect's state in the workspace and a server only while needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import project_lock
from olmoearth_core.store import disk_errors


def prepare_prefect() -> None:
    """Point Prefect at the workspace, before it is first imported, unless the environment points it elsewhere."""
    from registry.workspace import Workspace

    home = Path(os.environ.setdefault("PREFECT_HOME", str(Workspace.from_environment().home / "prefect")))
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # a busy laptop needs longer than Prefect's 20 seconds for the first start, which lays the database
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")


def run_lifecycle(
    project: Project,
    progress: Progress,
    *,
    until: str = "postprocess",
    refresh: bool = False,
    engine: str | None = None,
    processes: int = 1,
) -> list[dict[str, Any]]:
    """Run the lifecycle flow on `project` in this process.

    Args:
        project: the project.
        progress: who listens.
        until: the last stage to run.
        refresh: ask the catalogue again, for scenes and for assets that failed.
        engine: that computes tiles of the map (flows/engines.py).
        processes: of that engine.

    Returns:
        One dict a stage, as `flows.door.describe` makes it.

    Raises:
        BusyError: another run holds the project.
        CoreError, RegistryError: whatever a stage refuses.
    """
    prepare_prefect()
    with project_lock(project):  # before the server starts: a busy project is refused at once
        from flows.door import refresh as ask_again
        from flows.lifecycle import lifecycle
        from flows.progress import listening

        if refresh:
            ask_again(project, progress)
        with listening(progress):
            return lifecycle(str(project.root), until, engine=engine, processes=processes)


def run_retraining(
    project: Project,
    progress: Progress,
    *,
    why: str = "",
    only_if_due: bool = False,
    engine: str | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Run the retraining flow on `project` in this process; arguments and result as of `flows.retrain.retrain`.

    Raises:
        BusyError: another run holds the project.
        CoreError, RegistryError: whatever a stage, the comparison or MLflow refuses.
    """
    prepare_prefect()
    with project_lock(project):
        from flows.progress import listening
        from flows.retrain import retrain

        with listening(progress):
            return retrain(str(project.root), why, by_hand=not only_if_due, engine=engine, processes=processes)
