"""A flow with a task that runs what it is given, as flows/lifecycle.py runs a stage; workers can import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, task


class Stage:
    """What the task runs; neither a parameter nor in the flow's closure, for both travel to workers."""

    call: Callable[[], Any]


@task
def task_of_a_stage() -> None:
    Stage.call()


@flow
def flow_of_a_stage() -> None:
    task_of_a_stage()
