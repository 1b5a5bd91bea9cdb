"""Listeners for the core's progress: bars for people, log lines for workers; and the one in force for a flow run."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from olmoearth_core.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 30
"""In a log, long work is heard of this often."""
_CURRENT: ContextVar[Progress | None] = ContextVar("olmoearth_progress", default=None)
"""A flow's parameters travel as JSON, a listener cannot; a context variable reaches the tasks of this process."""


@contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Make `progress` the listener of the flows called inside the block."""
    token = _CURRENT.set(progress)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_progress() -> Progress:
    """The listener in force: the one `listening` set, or a log listener on a worker."""
    return _CURRENT.get() or LogLines()


def _run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Of the flow or task run in force, whose lines Prefect's pages show; `olmoearth` outside of runs."""
    outside = logging.getLogger("olmoearth")
    if "prefect" not in sys.modules:  # no run can be in force, and importing it takes seconds
        return outside
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return outside


class LogLines:
    """Writes notes, and the beginning and end of long work, to the log of the run in force."""

    def __init__(self) -> None:
        self._log = _run_logger()

    @contextmanager
    def bar(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Log that `what` begins and ends."""
        self._log.info("%s%s", what, f" ({total})" if total is not None else "")
        yield lambda _steps: None
        self._log.info("%s: done", what)

    def note(self, message: str) -> None:
        """Log the sentence."""
        self._log.info(message)


class Bars:
    """Rich progress bars on a terminal; where there is none, a line now and then, and one for finished work."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._console = console
        self._bars = RichProgress(
            TextColumn("  {task.description:<34}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    @contextmanager
    def bar(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a bar; it stays, full, when the work is done."""
        task = self._bars.add_task(what, total=total)
        done, told = 0, time.monotonic()

        def advance(steps: int) -> None:
            nonlocal done, told
            done += steps
            self._bars.advance(task, steps)
            if not self._console.is_terminal and time.monotonic() - told > LINE_SECONDS:
                told = time.monotonic()
                of = f" of {total}" if total else ""
                self._console.print(f"  {what}: {done}{of}", highlight=False, markup=False)

        yield advance
        if total is None:
            self._bars.update(task, total=1, completed=1)
        if not self._console.is_terminal:
            self._console.print(f"  {what}{f' ({total})' if total else ''}: done", highlight=False, markup=False)

    def note(self, message: str) -> None:
        """Print the sentence above the bars."""
        self._bars.console.print(f"  {message}", highlight=False, markup=False)


__all__ = ["Bars", "LogLines", "Silent", "current_progress", "listening"]
