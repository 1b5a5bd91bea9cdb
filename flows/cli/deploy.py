"""`olmoearth deploy`: the project on a Prefect server, for workers to run."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json
from flows.deploy import POOL


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(deploy)


def deploy(
    project: ProjectArgument,
    pool: Annotated[str, typer.Option(help="Work pool; made where it is not there.")] = POOL,
    as_json: JsonOption = False,
) -> None:
    """Deploy the project on the Prefect server: its lifecycle, and fine-tuning on the queue `gpu`."""
    from flows.deploy import deploy as make
    from olmoearth_core.project import load_project

    made = make(load_project(project), pool)
    if as_json:
        print_json({"pool": pool, "deployments": [{"name": d.name, "queue": d.queue} for d in made]})
        return
    out = console()
    for deployment in made:
        out.print(f"{deployment.name}: pool {pool}, queue {deployment.queue}", highlight=False, soft_wrap=True)
    for queue in dict.fromkeys(deployment.queue for deployment in made):
        command = f"prefect worker start --pool {pool} --work-queue {queue}"
        out.print(f"A worker:  {command}", highlight=False, soft_wrap=True)
    out.print(f"A run:     prefect deployment run {made[0].name}", highlight=False, soft_wrap=True)
