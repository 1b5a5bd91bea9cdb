"""Which engine computes the tiles of a map: what `--engine` and `--processes` mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from olmoearth_core.errors import ProjectError

if TYPE_CHECKING:
    from olmoearth_core.inference.engines import Engine
    from registry.workspace import Workspace

ENGINES = ("local", "processes", "dask")


def check_engine(engine: str | None, processes: int) -> None:
    """Refuse what is no engine, before anything is done.

    Raises:
        ProjectError: with what is allowed.
    """
    if engine not in (None, *ENGINES):
        raise ProjectError(f"--engine {engine}: the engines are {', '.join(ENGINES)}.")
    if processes < 1:
        raise ProjectError(f"--processes {processes}: at least 1 is needed.")
    if engine == "local" and processes > 1:
        raise ProjectError(f"--processes {processes}: the engine local is one process; leave out one of the two.")


def make_engine(engine: str | None, processes: int, workspace: Workspace) -> Engine | None:
    """The engine of that name; without one, `processes` where there are several, else `local` (None).

    Args:
        engine: one of `ENGINES`.
        processes: of the engine `processes`, or of the temporary cluster of `dask`.
        workspace: knows the Dask scheduler, and where its workers exchange files with us.

    Raises:
        ProjectError: no such engine, or a number that it cannot have.
    """
    check_engine(engine, processes)
    if engine == "dask":
        from flows.dask_engine import DaskEngine

        return DaskEngine(workspace.exchange, workspace.dask_scheduler, processes)
    if engine == "processes" or processes > 1:
        from olmoearth_core.inference.processes import Processes

        return Processes(processes)
    return None
