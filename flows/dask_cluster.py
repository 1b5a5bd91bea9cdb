"""A Dask cluster as the engine sees it: Prefect's Dask task runner on a running cluster, or on a temporary one here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.errors import EngineError
from flows.run import prepare_prefect
from olmoearth_core.inference.bench import Batch, Done

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

GPU = "GPU"
"""The resource by which a Dask worker offers a device: `dask worker ... --resources GPU=1`."""
CONNECT = 15.0
"""Seconds that a scheduler may take to answer."""
FIRST = 60.0
"""Seconds to wait for the first worker."""
COUNTED = 5.0
"""Seconds for which a count of workers is believed."""


class Cluster:
    """A started task runner, and what the engine asks of it.

    Args:
        runner: of Prefect, on a Dask cluster.
        api: URL of the Prefect server that workers tell.
        device: of the plan.
        task: the Prefect task that makes a `Done` of a `batch`.
    """

    def __init__(self, runner: DaskTaskRunner, api: str, device: str, task: Any = None) -> None:
        from flows.dask_worker import compute_tiles

        self._runner, self._api, self._device, self._task = runner, api, device, task or compute_tiles
        self._count, self._counted, self._seen = 0, 0.0, time.monotonic()
        self._wishes = {"resources": {GPU: 1}} if device == "cuda" else {}

    @property
    def workers(self) -> int:
        """Workers that can compute our tiles (of a plan for cuda those with a GPU), as of a few seconds ago."""
        now = time.monotonic()
        if now - self._counted > COUNTED:
            self._count, self._counted = 0, now
            if self._connected:
                with suppress(OSError, TimeoutError):  # it is being connected anew
                    self._count = _offering(self._runner.client, self._device)
            if self._count:
                self._seen = now
        return self._count

    def submit(self, batch: Batch) -> Any:
        """Give out a batch as a Prefect task; the future is Dask's."""
        # as the runner's own `submit`, which cannot tell Dask a key, so that each batch is hashed with all its tiles
        key = f"tiles-{secrets.token_hex(8)}"
        with self._settings():
            return self._runner.client.submit(
                self._task, parameters={"batch": batch}, return_type="state", key=key, **self._wishes
            )

    def result(self, future: Any) -> Done | None:
        """What a batch came to; None where its worker is lost.

        Raises:
            EngineError: the scheduler is gone, or workers cannot run the platform.
            Exception: whatever the batch raised.
        """
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        if future.status == "lost":  # it was done, and its worker was lost before it told
            return None
        try:
            done: Done = future.result().result()
        except KilledWorker:
            self._tell_crashed(future)
            return None
        except FutureCancelledError as error:
            raise EngineError(f"The Dask scheduler is gone, or was started anew ({error}). {_KEPT}") from error
        except ImportError as error:
            raise EngineError(
                f"Dask workers cannot run the platform ({error}). Install the same versions on all machines."
            ) from error
        return done

    def check(self, patience: float) -> None:
        """Refuse to wait any longer where for `patience` seconds nobody was there.

        Raises:
            EngineError: no worker, or no scheduler.
        """
        if self._runner.client.status == "closed":
            raise EngineError(f"The Dask scheduler is gone. {_KEPT}")
        if not self.workers and time.monotonic() - self._seen > patience:
            raise EngineError(f"For {patience:.0f} s the Dask cluster has had no worker for these tiles. {_KEPT}")

    def cancel(self, futures: Sequence[Any]) -> None:
        """Have batches not computed that nobody began yet."""
        if futures and self._connected:
            with suppress(OSError, TimeoutError):
                self._runner.client.cancel(list(futures), force=True)

    def clear_up(self, run: str) -> None:
        """Have the workers let go of model and job."""
        from flows.dask_worker import clear_up

        if self._connected:
            self._runner.client.run(clear_up, run, on_error="ignore")

    @property
    def _connected(self) -> bool:
        return bool(self._runner.client.status == "running")

    def _tell_crashed(self, future: Any) -> None:
        """Or Prefect's pages would show the task as running for ever."""
        from prefect import State, get_client
        from prefect.states import Crashed

        state: State[Any] = Crashed(message="The worker is lost; its tiles go to others.")
        with suppress(Exception), self._settings(), get_client(sync_client=True) as client:  # it decides nothing
            client.set_task_run_state(future.task_run_id, state, force=True)

    def _settings(self) -> Any:
        """Of Prefect, for workers: they take what is in force where a task is submitted."""
        from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

        # a line in the log for each batch tells nothing that its state does not, and costs the server as much
        return temporary_settings({PREFECT_API_URL: self._api, PREFECT_LOGGING_TO_API_ENABLED: False})


_KEPT = "Finished tiles are kept; run the same command again when that is mended."


@contextmanager
def open_cluster(scheduler: str | None, workers: int, device: str, task: Any = None) -> Iterator[Cluster]:
    """Prefect's Dask task runner on the cluster of `scheduler`, or on a temporary one of `workers` processes.

    Args:
        scheduler: its address, or None.
        workers: of a temporary cluster.
        device: of the plan; workers for "cuda" are those that offer the resource GPU.
        task: given to `Cluster`.

    Raises:
        EngineError: the scheduler does not answer, has no worker for the device, or no Prefect server can be told.
    """
    prepare_prefect()
    from prefect_dask.task_runners import DaskTaskRunner

    api = _prefect_server(scheduler)
    if scheduler:
        with _client(scheduler):  # what it refuses is said in a sentence, before Prefect tries
            pass
        runner = DaskTaskRunner(address=scheduler, client_kwargs={"timeout": CONNECT})
    else:
        runner = DaskTaskRunner(cluster_class=_temporary, cluster_kwargs={"workers": workers, "device": device})
    with runner:
        if not scheduler and device == "cuda":
            from flows.dask_worker import OneDevice

            runner.client.register_plugin(OneDevice())
        deadline = time.monotonic() + FIRST
        while not _offering(runner.client, device):
            if time.monotonic() > deadline:
                offer = f" that offers {GPU} (`dask worker ... --resources {GPU}=1`)" if device == "cuda" else ""
                raise EngineError(f"{scheduler or 'The cluster'}: has no worker{offer}. Start some, then try again.")
            time.sleep(0.2)
        yield Cluster(runner, api, device, task)


def device_of_cluster(scheduler: str | None) -> str:
    """The kind of device of a cluster's workers: "cuda" or "cpu"; of a temporary one this machine's.

    Raises:
        EngineError: the scheduler does not answer.
    """
    if scheduler is None:
        from olmoearth_core.models.precision import resolve_device

        return resolve_device("auto").type
    with _client(scheduler) as client:
        return "cuda" if _offering(client, "cuda") else "cpu"


def _offering(client: Any, device: str) -> int:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(device != "cuda" or worker["resources"].get(GPU, 0) >= 1 for worker in workers)


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise EngineError(
            f"OLMOEARTH_DASK_SCHEDULER {scheduler}: no Dask scheduler answers there. Start it (`dask scheduler`), "
            "correct the address, or leave it out for a temporary cluster on this machine."
        ) from error
    with client:
        yield client


def _temporary(workers: int = 1, device: str = "cpu") -> Any:
    import logging

    import dask
    from distributed import LocalCluster

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # the engine knows what to do with lost tiles
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # a worker paused for its memory would wait for ever
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            resources={GPU: 1} if device == "cuda" else None,
        )


def _prefect_server(scheduler: str | None) -> str:
    """URL of the server that tasks are told to; a temporary one serves workers of this machine only.

    Raises:
        EngineError: workers elsewhere, and no server is set.
    """
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        return str(url)
    if scheduler and urlsplit(scheduler).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise EngineError(
            f"OLMOEARTH_DASK_SCHEDULER {scheduler}: its workers tell a Prefect server of their tasks, and none is set. "
            "Set PREFECT_API_URL to one that they reach."
        )
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    try:
        server.start()
    except RuntimeError as error:
        raise EngineError(f"No temporary Prefect server could be started ({error}). Set PREFECT_API_URL.") from error
    return server.api_url
