"""A project as Prefect deployments: its lifecycle on the queue `default` of a work pool, fine-tuning on `gpu`.

Only fine-tuning needs a device for hours. As a flow run of its own, on a queue that only machines with a GPU work on,
it waits for a device without keeping anything else from running. What is there already is brought up to date:
deploying again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.errors import DeployError
from olmoearth_core.project import Project

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "olmoearth"
DEFAULT_QUEUE, GPU_QUEUE = "default", "gpu"
GPU_RUNS = 1
"""Runs at once on a new queue `gpu`. The operator raises it to the number of devices; deploying leaves it as it is."""
ENVIRONMENT = {"PREFECT_LOGGING_EXTRA_LOGGERS": "olmoearth"}
"""What the processes of flow runs get on top of their worker's environment: our log lines appear on Prefect's pages."""


@dataclass(frozen=True)
class Deployed:
    """A deployment of a project."""

    name: str
    """As `prefect deployment run` wants it: flow/project."""
    queue: str


def deploy(project: Project, pool: str = POOL) -> list[Deployed]:
    """Make the pool, its queues, and the project's deployments on the Prefect server, where they are not there yet.

    A pool that is there keeps its type, a queue its limit. One run at a time of each deployment, others wait: two runs
    of a project would refuse each other.

    Raises:
        DeployError: no server is set or it does not answer, or the project's name is deployed for another folder.
    """
    with _server() as client:
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.types.entrypoint import EntrypointType

        from flows.lifecycle import finetune, lifecycle

        name, root = project.config.name, str(project.root)
        flows: dict[str, tuple[Any, dict[str, str]]] = {
            DEFAULT_QUEUE: (lifecycle, {"project": root, "finetune_by": f"{finetune.name}/{name}"}),
            GPU_QUEUE: (finetune, {"project": root}),
        }
        for flow, _ in flows.values():
            _refuse_another(client, f"{flow.name}/{name}", root)
        _make_pool(client, pool)
        made = []
        for queue, (flow, parameters) in flows.items():
            deployment = flow.to_deployment(
                name,
                parameters=parameters,
                tags=["olmoearth", name],
                concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
                work_pool_name=pool,
                work_queue_name=queue,
                job_variables={"env": ENVIRONMENT},
                entrypoint_type=EntrypointType.MODULE_PATH,  # workers have the platform installed: no code travels
            )
            deployment.apply()
            made.append(Deployed(f"{flow.name}/{name}", queue))
        return made


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    """A client of the server that the settings name; whatever it refuses becomes one sentence."""
    from flows.run import prepare_prefect

    prepare_prefect()
    import httpx
    from prefect import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        raise DeployError(
            "No Prefect server is set, and deployments live on one. Start it (`prefect server start`) and set "
            "PREFECT_API_URL, for example to http://127.0.0.1:4200/api."
        )
    with get_client(sync_client=True) as client:
        if (problem := client.api_healthcheck()) is not None:
            raise DeployError(
                f"PREFECT_API_URL {url} does not answer ({problem}). Start the server, or correct the setting."
            )
        try:
            yield client
        except (PrefectException, httpx.HTTPError) as error:
            raise DeployError(f"The Prefect server at {url} says: {error}") from error


def _refuse_another(client: SyncPrefectClient, name: str, root: str) -> None:
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_deployment_by_name(name).parameters.get("project")
    except ObjectNotFound:
        return
    if found != root:
        raise DeployError(
            f"{name} is deployed already, for {found}. A name is one project's: change `name` in {root}/project.yaml, "
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
