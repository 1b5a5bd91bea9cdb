"""Projects as Prefect deployments: lifecycle, mapping and retraining on the queue `default` of a work pool, fine-tuning
on `gpu`; and one watch over all projects (flows/watch.py).

Only fine-tuning needs a device for hours. As a flow run of its own, on a queue that only machines with a GPU work on,
it waits for a device without keeping anything else from running. What a deployment should be is compared with what the
server has, and only differences are written: deploying again changes nothing, and two hundred projects take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.deployment import (
    Deployed,
    Done,
    Wanted,
    apply,
    automations_on,
    flows_of_projects,
    found_on,
    owner_of,
    remove,
    schedules_of,
    usual,
)
from flows.due import EVENTS, is_watched
from flows.errors import DeployError
from flows.server import prefect_server
from olmoearth_core.project import Project

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

POOL = "olmoearth"
DEFAULT_QUEUE, GPU_QUEUE = "default", "gpu"
GPU_RUNS = 1
"""Runs at once on a new queue `gpu`. The operator raises it to the number of devices; deploying leaves it as it is."""
WATCH, WATCH_CRON = "projects", "*/15 * * * *"
"""The deployment that watches over all projects, and when a new one does."""


def deploy(projects: Sequence[Project], pool: str | None = None) -> list[Deployed]:
    """Make the pool, its queues, and the projects' deployments on the Prefect server, or change what is different.

    A pool that is there keeps its type, a queue its limit, a schedule that somebody paused stays so. One run at a time
    of each deployment, others wait: two runs of a project would refuse each other. What fails half-way takes back what
    it made.

    Args:
        projects: each with a name of its own.
        pool: work pool of all; that of each project's settings when not given.

    Raises:
        DeployError: no server is set, it does not answer or refuses the credentials, or a name is deployed for another
            folder.
    """
    _refuse_doubles(projects)
    with prefect_server() as client:
        wanted = [one for project in projects for one in _wanted(project, pool or _pool_of(project))]
        found = found_on(client, [project.config.name for project in projects])
        _refuse_others(wanted, found)
        for name in dict.fromkeys(one.pool for one in wanted):
            _make_pool(client, name)
        flows = {name: client.create_flow_from_name(name) for name in dict.fromkeys(one.key[0] for one in wanted)}
        automations = automations_on(client)
        made: list[UUID] = []
        with _taken_back(client, made):
            told = [apply(client, one, found.get(one.key), flows[one.key[0]], automations, made) for one in wanted]
            watched = {str(project.root): is_watched(project) for project in projects}
            return told + watch_over(client, watched, pool or _pool_of(projects[0]))


def undeploy(projects: Sequence[Project]) -> list[Deployed]:
    """Remove the projects' deployments and what starts them; runs that there were stay in Prefect's books.

    Raises:
        DeployError: no server is set, it does not answer or refuses, or a name is deployed for another folder.
    """
    with prefect_server() as client:
        found = found_on(client, [project.config.name for project in projects])
        roots = {project.config.name: str(project.root) for project in projects}
        for key, old in found.items():
            _refuse_another(key, old, roots[key[1]])
        gone = [remove(client, key, old) for key, old in found.items()]
        return gone + watch_over(client, dict.fromkeys(roots.values(), False), POOL)


def _wanted(project: Project, pool: str) -> Iterator[Wanted]:
    flows = flows_of_projects()
    config, root = project.config, str(project.root)
    retraining, own, name = config.retraining, config.deployment, config.name
    gpu, many = {"finetune_by": f"finetune/{name}"}, {"engine": own.engine, "processes": own.processes}
    here = {"project": root}
    yield Wanted(flows["lifecycle"], project, pool, DEFAULT_QUEUE, here | gpu | many, own.lifecycle)
    yield Wanted(flows["finetune"], project, pool, GPU_QUEUE, here)
    yield Wanted(flows["mapping"], project, pool, DEFAULT_QUEUE, here | many | {"refresh": True}, own.mapping)
    cron = retraining.cron if retraining else None
    events = tuple(EVENTS[kind] for kind in dict.fromkeys(retraining.triggers)) if retraining else ()
    yield Wanted(flows["retrain"], project, pool, DEFAULT_QUEUE, here | gpu | many, cron, events)


def _pool_of(project: Project) -> str:
    return project.config.deployment.pool or POOL


def watch_over(client: SyncPrefectClient, projects: Mapping[str, bool], pool: str) -> list[Deployed]:
    """Bring the list of the watch up to date; it is made for the first project and removed with the last.

    Args:
        client: of the server.
        projects: folder -> whether it is to be watched.
        pool: where a new watch runs; one that is there keeps its pool and schedule.
    """
    from prefect.exceptions import ObjectNotFound

    from flows.watch import watch

    key, found, before = (watch.name, WATCH), None, set()
    with suppress(ObjectNotFound):
        found = client.read_deployment_by_name("/".join(key))
        before = set(found.parameters["projects"])
    after = before - projects.keys() | {folder for folder, wanted in projects.items() if wanted}
    if not after:
        return [] if found is None else [remove(client, key, found)]
    cron, timezone = schedules_of(found)[0] if found is not None and found.schedules else (WATCH_CRON, "UTC")
    if after != before:
        client.create_deployment(
            client.create_flow_from_name(watch.name),
            WATCH,
            parameters={"projects": sorted(after)},
            work_pool_name=str(found.work_pool_name) if found is not None else pool,
            work_queue_name=DEFAULT_QUEUE,
            tags=["olmoearth"],
            entrypoint=f"{watch.__module__}.{watch.fn.__name__}",
            **usual(watch, cron, timezone),
        )
    done: Done = "made" if found is None else "changed" if after != before else "unchanged"
    return [Deployed("/".join(key), DEFAULT_QUEUE, cron, done)]


@contextmanager
def _taken_back(client: SyncPrefectClient, made: Sequence[UUID]) -> Iterator[None]:
    """Remove what was newly made inside the block when something fails in it."""
    try:
        yield
    except BaseException:
        for deployment_id in made:
            with suppress(Exception):  # the failure itself is what has to be told
                client.delete_resource_owned_automations(owner_of(deployment_id))
                client.delete_deployment(deployment_id)
        raise


def _refuse_doubles(projects: Sequence[Project]) -> None:
    roots: dict[str, Any] = {}
    for project in projects:
        other = roots.setdefault(project.config.name, project.root)
        if other != project.root:
            raise DeployError(
                f"{other} and {project.root} are both called '{project.config.name}'. A name is one project's: change "
                "`name` in one project.yaml."
            )


def _refuse_others(wanted: Sequence[Wanted], found: Mapping[tuple[str, str], DeploymentResponse]) -> None:
    for one in wanted:
        if (old := found.get(one.key)) is not None:
            _refuse_another(one.key, old, str(one.project.root))


def _refuse_another(key: tuple[str, str], found: DeploymentResponse, root: str) -> None:
    if (other := found.parameters.get("project")) != root:
        name = "/".join(key)
        raise DeployError(
            f"{name} is deployed already, for {other}. A name is one project's: change `name` in {root}/project.yaml, "
            f"or, where the folder has moved, remove it first: `prefect deployment delete {name}`."
        )


def _make_pool(client: SyncPrefectClient, pool: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):  # a new pool brings its queue `default`
        client.create_work_pool(WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template))
    with suppress(ObjectAlreadyExists):
        client.create_work_queue(GPU_QUEUE, concurrency_limit=GPU_RUNS, work_pool_name=pool)
