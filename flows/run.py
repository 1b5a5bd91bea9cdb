"""Running the lifecycle flow from a command: a Prefect state folder in the workspace, a server only while it is needed."""

from __future__ import annotations

import os
from typing import Any

from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import project_lock


def prepare_prefect() -> None:
    """Point Prefect at the workspace, before it is first imported, unless the environment points it elsewhere."""
    from registry.workspace import Workspace

    os.environ.setdefault("PREFECT_HOME", str(Workspace.from_environment().home / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


def run_lifecycle(
    project: Project, progress: Progress, *, until: str = "postprocess", refresh: bool = False
) -> list[dict[str, Any]]:
    """Run the lifecycle flow on `project` in this process.

    Args:
        project: the project.
        progress: who listens.
        until: the last stage to run.
        refresh: search the catalogue again instead of using the frozen scene lists.

    Returns:
        One dict a stage, as `flows.door.describe` makes it.

    Raises:
        BusyError: another run holds the project.
        CoreError, RegistryError: whatever a stage refuses.
    """
    prepare_prefect()
    with project_lock(project):  # before the server starts: a busy project is refused at once
        from flows.door import forget_scenes
        from flows.lifecycle import lifecycle
        from flows.progress import listening

        if refresh:
            forget_scenes(project)
        with listening(progress):
            return lifecycle(str(project.root), until)
