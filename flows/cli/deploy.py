"""`olmoearth deploy` and `undeploy`: projects on a Prefect server, for workers to run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, console, print_json

ProjectsArgument = Annotated[list[Path], typer.Argument(help="Project folders.", metavar="PROJECT...")]
SHOWN = 12
"""Deployments that are told one by one; of more, how many."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(deploy)
    app.command()(undeploy)


def deploy(
    projects: ProjectsArgument,
    pool: Annotated[
        str | None, typer.Option(help="Work pool, made where it is not there; deployment.pool, or olmoearth.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy projects on the Prefect server: lifecycle, mapping, retraining, and fine-tuning on the queue `gpu`."""
    from flows.deploy import POOL
    from flows.deploy import deploy as make
    from olmoearth_core.project import load_project

    loaded = [load_project(project) for project in projects]
    made = make(loaded, pool)
    if as_json:
        print_json({"deployments": [vars(d) for d in made]})
        return
    out = console()
    for deployment in made[:SHOWN]:
        when = f", at {deployment.schedule}" if deployment.schedule else ""
        told = f"{deployment.name}: {deployment.done}, queue {deployment.queue}{when}"
        out.print(told, highlight=False, soft_wrap=True)
    if len(made) > SHOWN:
        out.print(f"... and {len(made) - SHOWN} more", highlight=False)
    counts = Counter(deployment.done for deployment in made)
    out.print(", ".join(f"{count} {done}" for done, count in counts.items()), highlight=False)
    pools = dict.fromkeys(pool or project.config.deployment.pool or POOL for project in loaded)
    for name in pools:
        for queue in dict.fromkeys(deployment.queue for deployment in made):
            command = f"prefect worker start --pool {name} --work-queue {queue}"
            out.print(f"A worker:  {command}", highlight=False, soft_wrap=True)
    out.print(f"A run:     prefect deployment run {made[0].name}", highlight=False, soft_wrap=True)


def undeploy(projects: ProjectsArgument, as_json: JsonOption = False) -> None:
    """Take projects off the Prefect server; their folders, models and maps stay."""
    from flows.deploy import undeploy as remove
    from olmoearth_core.project import load_project

    loaded = [load_project(project) for project in projects]
    gone = remove(loaded)
    if as_json:
        print_json({"deployments": [vars(d) for d in gone]})
        return
    out = console()
    for deployment in gone[:SHOWN]:
        out.print(f"{deployment.name}: {deployment.done}", highlight=False, soft_wrap=True)
    done = Counter(deployment.done for deployment in gone)
    nothing = "" if gone else f": {', '.join(project.config.name for project in loaded[:SHOWN])} is not deployed"
    out.print(f"{done['removed']} deployments removed{nothing}", highlight=False, soft_wrap=True)
