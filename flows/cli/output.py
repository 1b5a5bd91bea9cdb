"""What every command shares: where people look, where machines look, and how a command fails."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from flows.progress import Bars, Silent

ProjectArgument = Annotated[Path, typer.Argument(help="The project folder.", metavar="[PROJECT]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]


def listed(text: str) -> list[str]:
    """The parts of an option that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def file_name(text: str) -> Path:
    """A file that an option names; an empty text, as an unset variable leaves it, would mean the folder here."""
    if not text.strip():
        raise typer.BadParameter("names nothing; give a file.")
    return Path(text)


def console() -> Console:
    """For results: standard output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def side_console() -> Console:
    """For progress and errors: standard error, so that `--json` output stays clean."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 120)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def progress(as_json: bool) -> Iterator[Bars | Silent]:
    """Bars for people, silence for machines."""
    from flows.progress import Bars, Silent

    if as_json:
        yield Silent()
        return
    with Bars(side_console()) as bars:
        yield bars


def quiet_libraries(debug: bool) -> None:
    """Keep the libraries' own chatter (telemetry, server logs) from between the partner and the message."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    if not debug:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")  # workers come and go; what matters is told
        # services that send events and logs to Prefect's own server: what they could not send is nobody's loss, and
        # what fails in a run comes as an error of its own
        os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
        for service in ("EventsWorker", "APILogWorker"):
            logging.getLogger(service).setLevel(logging.CRITICAL)
        # each retry of a download is a warning; what fails in the end is an error
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        logging.getLogger("great_expectations").propagate = False  # its modules raise their own levels


def fail(error: BaseException, as_json: bool, code: int) -> int:
    """Say in one message what went wrong; returns the exit code."""
    message = "\n".join(" ".join(line.split()) for line in str(error).splitlines()) or error.__class__.__name__
    if as_json:
        print_json({"error": message, "kind": error.__class__.__name__})
    else:
        side_console().print(f"[bold red]Error:[/] {_escape(message)}", highlight=False, soft_wrap=True)
    return code


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
