"""Is this machine fit for work? Every check says what it found and, where something is wrong, what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from registry.workspace import Workspace

Verdict = Literal["ok", "warning", "error"]
LEAST_FREE_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    verdict: Verdict
    found: str


def examine() -> Iterator[Check]:
    """Look at Python, libraries, device, tools, workspace, and the servers the settings name."""
    yield _python()
    yield from _libraries()
    yield _device()
    yield _git()
    workspace: Workspace | None = None

    def read_settings() -> str:
        nonlocal workspace
        workspace = Workspace.from_environment()
        return str(workspace.home)

    yield _attempt("workspace (OLMOEARTH_HOME)", read_settings)
    if workspace is None:
        return
    yield _disk(workspace)
    yield _attempt("registry", lambda: _registry(workspace))
    yield _attempt("MLflow", lambda: _mlflow(workspace))
    yield _attempt("Prefect", _prefect)


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except Exception as error:  # whatever a server or driver raises is the finding
        return Check(name, "error", " ".join(str(error).split())[:300] or error.__class__.__name__)


def _python() -> Check:
    found = sys.version.split()[0]
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Check("Python", "ok" if fits else "error", found if fits else f"{found}; needed is 3.11 or 3.12")


def _libraries() -> Iterator[Check]:
    """The combinations that install cleanly and fail at work (docs/decisions, ../shared/facts/stack.md)."""
    for package, below, why in (
        ("fastapi", (0, 151), "Prefect flows die with it"),
        ("sqlalchemy", (2, 1), "Prefect never fires a schedule with it"),
    ):
        found = version(package)
        numbers = tuple(int(part) for part in found.split(".")[:2])
        if numbers >= below:
            limit = ".".join(map(str, below))
            yield Check(package, "error", f"{found}; needed is below {limit}: {why}. `make install` brings it.")
        else:
            yield Check(package, "ok", found)
    with suppress(PackageNotFoundError):
        yield Check("torchvision", "warning", f"{version('torchvision')} is installed; it may break torchmetrics")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", "ok", f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    return Check("device", "ok", f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads")


def _git() -> Check:
    found = shutil.which("git")
    return Check("git", "ok" if found else "error", found or "not found; install git, projects are git repositories")


def _disk(workspace: Workspace) -> Check:
    workspace.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(workspace.home).free
    return Check("free disk", "ok" if free >= LEAST_FREE_BYTES else "warning", f"{free / 1e9:.1f} GB")


def _registry(workspace: Workspace) -> str:
    from sqlalchemy.engine import make_url

    from registry.registry import open_registry

    open_registry(workspace)
    return make_url(workspace.registry_url).render_as_string(hide_password=True)


def _mlflow(workspace: Workspace) -> str:
    from registry.mlflow.models import list_models

    list_models(workspace)
    return workspace.tracking_uri


def _prefect() -> str:
    from flows.run import prepare_prefect

    prepare_prefect()
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        return f"{version('prefect')}; no server set, one is started while a run needs it"
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ConnectionError(f"PREFECT_API_URL {url} does not answer ({problem}); start the server or unset it")
    return f"{version('prefect')} at {url}"
