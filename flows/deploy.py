"""Projects as Prefect deployments: lifecycle, mapping and retraining on the queue `default` of a work pool, fine-tuning
on `gpu`; and one watch over all projects that retrain (flows/watch.py).

Only fine-tuning needs a device for hours. As a flow run of its own, on a queue that only machines with a GPU work on,
it waits for a device without keeping anything else from running. What a deployment should be is compared with what the
server has, and only differences are written: deploying again changes nothing, and two hundred projects take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from flows.errors import DeployError
from flows.server import prefect_server
from olmoearth_core.project import Project

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

POOL = "olmoearth"
DEFAULT_QUEUE, GPU_QUEUE = "default", "gpu"
GPU_RUNS = 1
"""Runs at once on a new queue `gpu`. The operator raises it to the number of devices; deploying leaves it as it is."""
ENVIRONMENT = {"PREFECT_LOGGING_EXTRA_LOGGERS": "olmoearth"}
"""What the processes of flow runs get on top of their worker's environment: our log lines appear on Prefect's pages."""
PAGE = 200
"""Deployments and automations that the server tells at once."""
WATCH, WATCH_CRON = "projects", "*/15 * * * *"
"""The deployment that watches over all projects, and when a new one does."""
RUNS_AHEAD = 2
"""Runs of a schedule that the server enters in its books beforehand; its default, a hundred, is slow for many."""
CRASHED_SECONDS = 300
"""A run whose worker never started it gives its place free after this long."""


Done = Literal["made", "changed", "unchanged", "removed"]


@dataclass(frozen=True)
class Deployed:
    """A deployment of a project.

    Attributes:
        name: as `prefect deployment run` wants it: flow/project.
        queue: of the work pool.
        schedule: cron; None where nothing starts it by the clock.
        done: what was done about it.
    """

    name: str
    queue: str
    schedule: str | None
    done: Done


@dataclass(frozen=True)
class _Wanted:
    """A deployment as it should be."""

    flow: Flow[..., Any]
    project: Project
    pool: str
    queue: str
    parameters: Mapping[str, Any]
    cron: str | None = None
    events: tuple[str, ...] = ()
    """That start it, when they are about the project."""

    @property
    def key(self) -> tuple[str, str]:
        """Flow and deployment name."""
        return self.flow.name, self.project.config.name

    @property
    def name(self) -> str:
        """As Prefect writes it."""
        return "/".join(self.key)

    @property
    def tags(self) -> list[str]:
        """The platform's, the project's, and the partner's own."""
        return list(dict.fromkeys(["olmoearth", self.project.config.name, *self.project.config.deployment.tags]))


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
        found = _found(client, [project.config.name for project in projects])
        _refuse_others(wanted, found)
        for name in dict.fromkeys(one.pool for one in wanted):
            _make_pool(client, name)
        flows = {name: client.create_flow_from_name(name) for name in dict.fromkeys(one.key[0] for one in wanted)}
        automations = _automations(client)
        made: list[UUID] = []
        with _taken_back(client, made):
            told = [_apply(client, one, found.get(one.key), flows[one.key[0]], automations, made) for one in wanted]
        watched = {str(project.root): project.config.retraining is not None for project in projects}
        return told + watch_over(client, watched, pool or _pool_of(projects[0]))


def undeploy(projects: Sequence[Project]) -> list[Deployed]:
    """Remove the projects' deployments and what starts them; runs that there were stay in Prefect's books.

    Raises:
        DeployError: no server is set, it does not answer or refuses, or a name is deployed for another folder.
    """
    with prefect_server() as client:
        found = _found(client, [project.config.name for project in projects])
        roots = {project.config.name: str(project.root) for project in projects}
        for key, old in found.items():
            _refuse_another(key, old, roots[key[1]])
        gone = [_remove(client, key, old) for key, old in found.items()]
        return gone + watch_over(client, dict.fromkeys(roots.values(), False), POOL)


def flows_of_projects() -> dict[str, Flow[..., Any]]:
    """Name -> flow, of those that projects are deployed with."""
    from flows.lifecycle import finetune, lifecycle, mapping
    from flows.retrain import retrain

    return {flow.name: flow for flow in (lifecycle, finetune, mapping, retrain)}


def _wanted(project: Project, pool: str) -> Iterator[_Wanted]:
    from flows.due import EVENTS

    flows = flows_of_projects()
    config, root = project.config, str(project.root)
    retraining, own, name = config.retraining, config.deployment, config.name
    gpu, many = {"finetune_by": f"finetune/{name}"}, {"processes": own.processes}
    here = {"project": root}
    yield _Wanted(flows["lifecycle"], project, pool, DEFAULT_QUEUE, here | gpu | many, own.lifecycle)
    yield _Wanted(flows["finetune"], project, pool, GPU_QUEUE, here)
    yield _Wanted(flows["mapping"], project, pool, DEFAULT_QUEUE, here | many | {"refresh": True}, own.mapping)
    cron = retraining.cron if retraining else None
    events = tuple(EVENTS[kind] for kind in dict.fromkeys(retraining.triggers)) if retraining else ()
    yield _Wanted(flows["retrain"], project, pool, DEFAULT_QUEUE, here | gpu | many, cron, events)


def _pool_of(project: Project) -> str:
    return project.config.deployment.pool or POOL


def _found(client: SyncPrefectClient, names: Sequence[str]) -> dict[tuple[str, str], DeploymentResponse]:
    """(flow, name) -> deployment of our flows with one of these names, as the server has them."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowFilter,
        FlowFilterName,
    )

    ours = FlowFilter(name=FlowFilterName(any_=list(flows_of_projects())))
    flows = {flow.id: flow.name for flow in client.read_flows(flow_filter=ours)}
    found = {}
    for first in range(0, len(names), PAGE // len(flows_of_projects())):
        some = list(names[first : first + PAGE // len(flows_of_projects())])
        wanted = DeploymentFilter(name=DeploymentFilterName(any_=some))
        for one in client.read_deployments(flow_filter=ours, deployment_filter=wanted, limit=PAGE):
            found[flows[one.flow_id], one.name] = one
    return found


def _apply(
    client: SyncPrefectClient,
    wanted: _Wanted,
    found: DeploymentResponse | None,
    flow_id: UUID,
    automations: Mapping[UUID, list[frozenset[str]]],
    made: list[UUID],
) -> Deployed:
    same = found is not None and _as_found(found) == _as_wanted(wanted)
    deployment_id = found.id if found is not None and same else _create(client, wanted, flow_id)
    if found is None:
        made.append(deployment_id)
    events = [frozenset(wanted.events)] if wanted.events else []
    if automations.get(deployment_id, []) != events:
        same = False
        _start_by_events(client, wanted, deployment_id, new=found is None)
    done: Done = "made" if found is None else "unchanged" if same else "changed"
    return Deployed(wanted.name, wanted.queue, wanted.cron, done)


def _create(client: SyncPrefectClient, wanted: _Wanted, flow_id: UUID) -> UUID:
    """Make the deployment, or overwrite the one of its name."""
    return client.create_deployment(
        flow_id,
        wanted.key[1],
        parameters=dict(wanted.parameters),
        work_pool_name=wanted.pool,
        work_queue_name=wanted.queue,
        tags=wanted.tags,
        entrypoint=_entrypoint(wanted),
        **_usual(wanted.flow, wanted.cron, wanted.project.config.deployment.timezone),
    )


def _usual(flow: Flow[..., Any], cron: str | None, timezone: str) -> dict[str, Any]:
    """What all of our deployments have: one run at a time, others wait; the schedule; the flow's parameters."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.client.schemas.schedules import CronSchedule

    return {
        "schedules": [
            DeploymentScheduleCreate(schedule=CronSchedule(cron=one, timezone=timezone), max_scheduled_runs=RUNS_AHEAD)
            for one in ([cron] if cron else [])
        ],
        "concurrency_limit": 1,
        "concurrency_options": ConcurrencyOptions(
            collision_strategy=ConcurrencyLimitStrategy.ENQUEUE, grace_period_seconds=CRASHED_SECONDS
        ),
        "description": flow.description,
        "parameter_openapi_schema": _schema(flow),
        "enforce_parameter_schema": True,
        "pull_steps": [],
        "job_variables": {"env": ENVIRONMENT},
    }


@cache
def _schema(flow: Flow[..., Any]) -> dict[str, Any]:
    """What parameters a flow takes."""
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(flow).model_dump(exclude_unset=True)


def _entrypoint(wanted: _Wanted) -> str:
    """A module's name: workers have the platform installed, no code travels."""
    return f"{wanted.flow.__module__}.{wanted.flow.fn.__name__}"


def _as_wanted(wanted: _Wanted) -> dict[str, Any]:
    timezone = wanted.project.config.deployment.timezone
    return {
        "parameters": dict(wanted.parameters),
        "tags": sorted(wanted.tags),
        "pool": wanted.pool,
        "queue": wanted.queue,
        "entrypoint": _entrypoint(wanted),
        "schedules": [(wanted.cron, timezone)] if wanted.cron else [],
        "limit": 1,
        "job_variables": {"env": ENVIRONMENT},
    }


def _as_found(found: DeploymentResponse) -> dict[str, Any]:
    return {
        "parameters": found.parameters,
        "tags": sorted(found.tags),
        "pool": found.work_pool_name,
        "queue": found.work_queue_name,
        "entrypoint": found.entrypoint,
        "schedules": _schedules(found),
        "limit": found.global_concurrency_limit.limit if found.global_concurrency_limit else None,
        "job_variables": found.job_variables,
    }


def _schedules(found: DeploymentResponse) -> list[tuple[Any, ...]]:
    """(cron, time zone) of each schedule."""
    return [tuple(getattr(one.schedule, key, None) for key in ("cron", "timezone")) for one in found.schedules]


def _owner(deployment_id: UUID) -> str:
    return f"prefect.deployment.{deployment_id}"


def _automations(client: SyncPrefectClient) -> dict[UUID, list[frozenset[str]]]:
    """Deployment -> the events that each automation of ours starts it by."""
    found: dict[UUID, list[frozenset[str]]] = {}
    for first in range(0, 1_000_000, PAGE):
        page = client.read_automations(limit=PAGE, offset=first)
        for one in page:
            if one.name.startswith(AUTOMATION) and one.enabled:
                (action,) = one.actions
                deployment_id = getattr(action, "deployment_id", None)
                found.setdefault(deployment_id, []).append(frozenset(getattr(one.trigger, "expect", ())))  # type: ignore[arg-type]
        if len(page) < PAGE:
            break
    return found


AUTOMATION = "olmoearth: retraining of "


def _start_by_events(client: SyncPrefectClient, wanted: _Wanted, deployment_id: UUID, *, new: bool) -> None:
    """Have Prefect start the deployment when one of its events is about the project."""
    from prefect.events import DeploymentEventTrigger

    from flows.due import resource_of

    if not new:
        client.delete_resource_owned_automations(_owner(deployment_id))
    if not wanted.events:
        return
    trigger = DeploymentEventTrigger(
        name=f"{AUTOMATION}{wanted.key[1]}",
        expect=set(wanted.events),
        match={"prefect.resource.id": resource_of(wanted.project)},
        parameters={"why": "{{ event.payload.why }}"},
    )
    trigger.set_deployment_id(deployment_id)
    client.create_automation(trigger.as_automation())


def _remove(client: SyncPrefectClient, key: tuple[str, str], found: DeploymentResponse) -> Deployed:
    client.delete_resource_owned_automations(_owner(found.id))
    client.delete_deployment(found.id)
    return Deployed("/".join(key), str(found.work_queue_name), None, "removed")


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
        return [] if found is None else [_remove(client, key, found)]
    cron, timezone = _schedules(found)[0] if found is not None and found.schedules else (WATCH_CRON, "UTC")
    if after != before:
        client.create_deployment(
            client.create_flow_from_name(watch.name),
            WATCH,
            parameters={"projects": sorted(after)},
            work_pool_name=str(found.work_pool_name) if found is not None else pool,
            work_queue_name=DEFAULT_QUEUE,
            tags=["olmoearth"],
            entrypoint=f"{watch.__module__}.{watch.fn.__name__}",
            **_usual(watch, cron, timezone),
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
                client.delete_resource_owned_automations(_owner(deployment_id))
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


def _refuse_others(wanted: Sequence[_Wanted], found: Mapping[tuple[str, str], DeploymentResponse]) -> None:
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
