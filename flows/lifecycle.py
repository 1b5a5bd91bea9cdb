"""The lifecycle as a Prefect flow: five stages, one task each.

A stage task is cached by the stage key and nothing else. Prefect retries what is worth trying again (I/O), and shows
each stage's manifest as an artifact that a person can read.

`olmoearth run` calls `lifecycle` in its own process, which holds the project all the while. Deployed (flows/deploy.py),
nobody holds the project between two stages, so that fine-tuning can be a flow run of its own, on a machine with a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.tasks import Task, exponential_backoff

from flows.door import describe, governed, run_stage, stage_key
from flows.door import refresh as ask_again
from flows.engines import check_engine
from flows.errors import ElsewhereError, LostRunError
from flows.progress import current_progress
from flows.report import stage_markdown
from olmoearth_core.errors import BusyError, TransientError
from olmoearth_core.project import Project, load_project
from olmoearth_core.stages import STAGES

TURN_SECONDS, TURN_PAUSE_SECONDS = 6 * 3600, 5.0
"""How long a deployed stage waits for another run's stage of the same project."""
T = TypeVar("T")


def _opened(project: str, start: str | None = None) -> Project:
    """The project of a folder; fine-tuning goes on from the model in the folder `start`, where one is named."""
    return replace(load_project(Path(project)), start=None if start is None else Path(start))


def _key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    project = _opened(parameters["project"], parameters["start"])
    key, _complete = stage_key(project, parameters["stage"], current_progress())
    return key


def in_turn(work: Callable[[], T]) -> T:
    """What `work` gives, once no other run is at work on the project.

    Deployed, mapping and retraining of a project may come at the same time, and each holds it for a stage only; a
    command holds it from the beginning, so that it never waits here.

    Raises:
        BusyError: the other one has not ended after TURN_SECONDS.
    """
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        try:
            return work()
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(TURN_PAUSE_SECONDS)


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
def stage_task(
    project: str,
    stage: str,
    deployment: str | None = None,
    engine: str | None = None,
    processes: int = 1,
    start: str | None = None,
) -> dict[str, Any]:
    """Run one stage of the project folder `project` through the door; returns its result as plain JSON values.

    Where `deployment` is named and the stage has to run, it runs there; this process waits, then tells what was made.
    """
    loaded = _opened(project, start)
    elsewhere = deployment is not None and not stage_key(loaded, stage, current_progress())[1]
    if deployment is not None and elsewhere:
        _run_elsewhere(deployment, project, start)
    ran = in_turn(
        lambda: run_stage(
            loaded, stage, progress=current_progress(), flow_run=flow_run.id, engine=engine, processes=processes
        )
    )
    result = describe(ran)
    create_markdown_artifact(
        key=f"{loaded.config.name}-{stage}".replace("_", "-"),
        markdown=stage_markdown(loaded.config.name, result),
        description=f"{loaded.config.name}: {stage}",
    )
    return result | {"skipped": result["skipped"] and not elsewhere}


def _run_elsewhere(deployment: str, project: str, start: str | None) -> None:
    """Run a deployment of one stage, wait for it, however long its queue is.

    Raises:
        ElsewhereError: it failed, or somebody stopped it; the message ends with what it said.
        LostRunError: its process or machine is gone; another run goes on where that one was.
    """
    parameters = {"project": project, "start": start}
    run: Any = run_deployment(deployment, parameters=parameters, poll_interval=2)
    if not run.state.is_completed():
        said = f"{deployment} (flow run {run.id}, queue {run.work_queue_name}): {run.state.message or run.state.name}"
        raise LostRunError(said) if run.state.is_crashed() else ElsewhereError(said)


@flow(flow_run_name="lifecycle of {project}")
def lifecycle(
    project: str,
    until: str = "postprocess",
    finetune_by: str | None = None,
    engine: str | None = None,
    processes: int = 1,
) -> list[dict[str, Any]]:
    """Run the stages of the project folder `project` in order, up to and including `until`.

    Fine-tuning that is not up to date is left to the deployment `finetune_by`, where one is named; so many `processes`
    of that `engine` map the area (flows/engines.py). Where a champion maps (map.model), nothing is trained: that is
    what `olmoearth retrain` is for.
    """
    check_engine(engine, processes)
    results = []
    for stage in STAGES:
        if stage == "finetune" and (champion := governed(load_project(Path(project)))) is not None:
            current_progress().note("A promoted model maps: nothing is trained. `olmoearth retrain` trains another.")
            results.append(describe(champion))
        else:
            results.append(run_one(project, stage, finetune_by if stage == "finetune" else None, engine, processes))
        if stage == until:
            break
    return results


@flow(flow_run_name="mapping of {project}")
def mapping(project: str, refresh: bool = False, engine: str | None = None, processes: int = 1) -> list[dict[str, Any]]:
    """Map the area of the project folder `project` with the model that maps; `refresh` asks the catalogue first."""
    check_engine(engine, processes)
    if refresh:
        in_turn(lambda: ask_again(load_project(Path(project)), current_progress(), labels=False))
    return map_again(project, engine, processes)


@flow(flow_run_name="finetune of {project}")
def finetune(project: str, start: str | None = None) -> dict[str, Any]:
    """Fine-tune the model of the project folder `project`: what a deployment sends to machines with a GPU.

    It goes on from the model in the folder `start`, where one is named.
    """
    return run_one(project, "finetune", start=start)


def map_again(project: str, engine: str | None = None, processes: int = 1) -> list[dict[str, Any]]:
    """The stages of the map, in a flow."""
    return [run_one(project, stage, None, engine, processes) for stage in ("infer", "postprocess")]


def run_one(
    project: str,
    stage: str,
    deployment: str | None = None,
    engine: str | None = None,
    processes: int = 1,
    *,
    start: str | None = None,
) -> dict[str, Any]:
    """One stage, as a task of the flow that calls; arguments and result as of `stage_task`."""
    _stage_key, complete = stage_key(_opened(project, start), stage, current_progress())
    # outputs that somebody removed or changed must be made again, whatever Prefect remembers
    task = stage_task.with_options(refresh_cache=not complete)
    state: Any = task(project, stage, deployment, engine, processes, start, return_state=True)
    result: dict[str, Any] = state.result()
    if state.name == "Cached":  # Prefect remembers the stage, but DVC, MLflow and the registry may have changed house
        return describe(run_stage(_opened(project, start), stage, progress=current_progress()))
    return result
