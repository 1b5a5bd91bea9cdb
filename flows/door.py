"""The one door: the command line, Prefect and dvc.yaml all run a stage through `run_stage`.

Core runs or skips the stage; then what it made is told to DVC, MLflow and the registry. All three are told again after a
skip: each knows what it has, so that a run killed between making and telling is completed by the same command.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from olmoearth_core import stage as core
from olmoearth_core.errors import ProjectError
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from olmoearth_core.stages import STAGES


def check_stage(name: str) -> None:
    """Refuse a name that is no stage.

    Raises:
        ProjectError: `name` is no stage; the message lists them.
    """
    if name not in STAGES:
        raise ProjectError(f"'{name}' is no stage; the stages are {', '.join(STAGES)}.")


def describe(result: StageResult) -> dict[str, Any]:
    """A stage result as plain JSON values; the folder is relative to the project."""
    return {
        "stage": result.stage,
        "key": result.manifest.key,
        "folder": result.place,
        "skipped": result.skipped,
        "outputs_digest": result.manifest.outputs_digest,
        "summary": result.manifest.summary,
        "record": result.record,
    }


def forget_scenes(project: Project) -> None:
    """Drop the frozen scene lists, so that the next run searches the catalogue again."""
    shutil.rmtree(project.root / "scenes", ignore_errors=True)
