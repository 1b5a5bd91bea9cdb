"""The lifecycle as a Prefect flow: five stages, one task each.

A stage task is cached by the stage key and nothing else. Prefect retries what is worth trying again (I/O), and shows
each stage's manifest as an artifact that a person can read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.runtime import flow_run
from prefect.tasks import Task, exponential_backoff

from flows.door import describe, run_stage, stage_key
from flows.progress import current_progress
from flows.report import stage_markdown
from olmoearth_core.errors import TransientError
from olmoearth_core.project import load_project
from olmoearth_core.stages import STAGES


def _key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    key, _complete = stage_key(load_project(Path(parameters["project"])), parameters["stage"], current_progress())
    return key


async def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), TransientError)


@task(
    task_run_name="{stage}",
    persist_result=True,
    cache_key_fn=_key,
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=1,
    retry_condition_fn=_worth_retrying,
)
def stage_task(project: str, stage: str) -> dict[str, Any]:
    """Run one stage of the project folder `project` through the door; returns its result as plain JSON values."""
    loaded = load_project(Path(project))
    result = describe(run_stage(loaded, stage, progress=current_progress(), flow_run=flow_run.id))
    create_markdown_artifact(
        key=f"{loaded.config.name}-{stage}".replace("_", "-"),
        markdown=stage_markdown(loaded.config.name, result),
        description=f"{loaded.config.name}: {stage}",
    )
    return result


@flow(flow_run_name="lifecycle of {project}")
def lifecycle(project: str, until: str = "postprocess") -> list[dict[str, Any]]:
    """Run the stages of the project folder `project` in order, up to and including `until`."""
    results = []
    for stage in STAGES:
        _stage_key, complete = stage_key(load_project(Path(project)), stage, current_progress())
        # outputs that somebody removed or changed must be made again, whatever Prefect remembers
        state: Any = stage_task.with_options(refresh_cache=not complete)(project, stage, return_state=True)
        result = state.result()
        if (
            state.name == "Cached"
        ):  # Prefect remembers the stage, but DVC, MLflow and the registry may have changed house
            result = describe(run_stage(load_project(Path(project)), stage, progress=current_progress()))
        results.append(result)
        if stage == until:
            break
    return results
