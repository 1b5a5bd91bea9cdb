"""MLflow without its noise: no telemetry, bars, notices or warnings, and one kind of error.

MLflow is imported when a client is asked for: it takes two seconds.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from olmoearth_core.store import whole_file
from registry.errors import ModelError, without_passwords
from registry.workspace import Workspace

SQLITE = "sqlite:///"


@contextmanager
def open_client(workspace: Workspace) -> Iterator[Any]:
    """An MLflow client; whatever MLflow refuses becomes one sentence."""
    where = without_passwords(workspace.tracking_uri)
    with quiet(where):
        from mlflow import MlflowClient

        _lay_database(workspace.tracking_uri)
        yield MlflowClient(tracking_uri=workspace.tracking_uri, registry_uri=workspace.tracking_uri)


def absent(workspace: Workspace) -> str | None:
    """Why there is no MLflow to ask, without making one: its SQLite database is not there; None where there may be."""
    file = _file(workspace.tracking_uri)
    if file is None or file.exists():
        return None
    return f"{file}: MLflow's database is not here; name the server or database in MLFLOW_TRACKING_URI"


def _file(tracking_uri: str) -> Path | None:
    plain = tracking_uri.startswith(SQLITE) and "?" not in tracking_uri
    return Path(tracking_uri.removeprefix(SQLITE)) if plain else None


def _lay_database(tracking_uri: str) -> None:
    """Make MLflow's SQLite database, whole or not at all: killed half-way through its migrations it is of no use.

    The file gets its name when it is complete.
    """
    file = _file(tracking_uri)
    if file is None or file.exists():
        return
    from mlflow import MlflowClient

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():  # another process was faster
            return
        with whole_file(file) as partial:
            partial.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"{SQLITE}{partial}").search_experiments(max_results=1)


@contextmanager
def quiet(where: str) -> Iterator[None]:
    """MLflow without telemetry, progress bars, notices and warnings; what it refuses becomes a ModelError."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read once, when mlflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # else a server's runs spoil --json
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        for logger in loggers:  # after the import, which sets levels of its own
            logger.setLevel(logging.ERROR)
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            said = without_passwords(" ".join(str(getattr(error, "orig", None) or error).split()))[:300]
            raise ModelError(f"MLflow ({where}) says: {said}. Check MLFLOW_TRACKING_URI and the server.") from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
