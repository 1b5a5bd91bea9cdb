"""One deployment as it should be, as the server has it, and the calls that make the one into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from olmoearth_core.project import Project

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.responses import DeploymentResponse

AUTOMATION = "olmoearth: retraining of "
PAGE = 200
"""Deployments and automations that the server tells at once."""
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
class Wanted:
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


def flows_of_projects() -> dict[str, Flow[..., Any]]:
    """Name -> flow, of those that projects are deployed with."""
    from flows.lifecycle import finetune, lifecycle, mapping
    from flows.retrain import retrain

    return {flow.name: flow for flow in (lifecycle, finetune, mapping, retrain)}


def found_on(client: SyncPrefectClient, names: Sequence[str]) -> dict[tuple[str, str], DeploymentResponse]:
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


def apply(
    client: SyncPrefectClient,
    wanted: Wanted,
    found: DeploymentResponse | None,
    flow_id: UUID,
    automations: Mapping[UUID, list[frozenset[str]]],
    made: list[UUID],
) -> Deployed:
    """Write what differs, if anything does.

    Args:
        client: of the server.
        wanted: as it should be.
        found: as the server has it; None where it does not.
        flow_id: of its flow.
        automations: as `automations_on` tells them.
        made: gets the id of a deployment that is new.
    """
    same = found is not None and _asfound_on(found) == _as_wanted(wanted)
    deployment_id = found.id if found is not None and same else _create(client, wanted, flow_id, found)
    if found is None:
        made.append(deployment_id)
    events = [frozenset(wanted.events)] if wanted.events else []
    if automations.get(deployment_id, []) != events:
        same = False
        _start_by_events(client, wanted, deployment_id, new=found is None)
    done: Done = "made" if found is None else "unchanged" if same else "changed"
    return Deployed(wanted.name, wanted.queue, wanted.cron, done)


def _create(client: SyncPrefectClient, wanted: Wanted, flow_id: UUID, found: DeploymentResponse | None) -> UUID:
    """Make the deployment, or overwrite the one of its name, but for the job variables that its operator set.

    We set none: the server checks them against the pool's template, which takes it longer than all the rest.
    """
    return client.create_deployment(
        flow_id,
        wanted.key[1],
        parameters=dict(wanted.parameters),
        work_pool_name=wanted.pool,
        work_queue_name=wanted.queue,
        tags=wanted.tags,
        entrypoint=_entrypoint(wanted),
        job_variables=None if found is None else found.job_variables,
        **usual(wanted.flow, wanted.cron, wanted.project.config.deployment.timezone),
    )


def usual(flow: Flow[..., Any], cron: str | None, timezone: str) -> dict[str, Any]:
    """What all of our deployments have: one run at a time, others wait; the schedule; the flow's parameters."""
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions

    return {
        "schedules": [_schedule(cron, timezone)] if cron else [],
        "concurrency_limit": 1,
        "concurrency_options": ConcurrencyOptions(
            collision_strategy=ConcurrencyLimitStrategy.ENQUEUE, grace_period_seconds=CRASHED_SECONDS
        ),
        "description": flow.description,
        "parameter_openapi_schema": _schema(flow),
        "enforce_parameter_schema": True,
        "pull_steps": [],
    }


@cache
def _schedule(cron: str, timezone: str) -> DeploymentScheduleCreate:
    """Made once: Prefect looks through the machine's time zones for each."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    return DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone=timezone), max_scheduled_runs=RUNS_AHEAD)


@cache
def _schema(flow: Flow[..., Any]) -> dict[str, Any]:
    """What parameters a flow takes."""
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(flow).model_dump(exclude_unset=True)


def _entrypoint(wanted: Wanted) -> str:
    """A module's name: workers have the platform installed, no code travels."""
    return f"{wanted.flow.__module__}.{wanted.flow.fn.__name__}"


def _as_wanted(wanted: Wanted) -> dict[str, Any]:
    timezone = wanted.project.config.deployment.timezone
    return {
        "parameters": dict(wanted.parameters),
        "tags": sorted(wanted.tags),
        "pool": wanted.pool,
        "queue": wanted.queue,
        "entrypoint": _entrypoint(wanted),
        "schedules": [(wanted.cron, timezone)] if wanted.cron else [],
        "limit": 1,
    }


def _asfound_on(found: DeploymentResponse) -> dict[str, Any]:
    return {
        "parameters": found.parameters,
        "tags": sorted(found.tags),
        "pool": found.work_pool_name,
        "queue": found.work_queue_name,
        "entrypoint": found.entrypoint,
        "schedules": schedules_of(found),
        "limit": found.global_concurrency_limit.limit if found.global_concurrency_limit else None,
    }


def schedules_of(found: DeploymentResponse) -> list[tuple[Any, ...]]:
    """(cron, time zone) of each schedule."""
    return [tuple(getattr(one.schedule, key, None) for key in ("cron", "timezone")) for one in found.schedules]


def owner_of(deployment_id: UUID) -> str:
    """What Prefect calls a deployment that automations belong to."""
    return f"prefect.deployment.{deployment_id}"


def automations_on(client: SyncPrefectClient) -> dict[UUID, list[frozenset[str]]]:
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


def _start_by_events(client: SyncPrefectClient, wanted: Wanted, deployment_id: UUID, *, new: bool) -> None:
    """Have Prefect start the deployment when one of its events is about the project."""
    from prefect.events import DeploymentEventTrigger

    from flows.due import resource_of

    if not new:
        client.delete_resource_owned_automations(owner_of(deployment_id))
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


def remove(client: SyncPrefectClient, key: tuple[str, str], found: DeploymentResponse) -> Deployed:
    """Remove a deployment and the automations that start it; `key` is flow and name."""
    client.delete_resource_owned_automations(owner_of(found.id))
    client.delete_deployment(found.id)
    return Deployed("/".join(key), str(found.work_queue_name), None, "removed")
