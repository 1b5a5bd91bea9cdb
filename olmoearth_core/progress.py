"""How the library tells somebody how far it is, without knowing who listens.

The `olmoearth` command passes Rich bars, Prefect flows pass a logger, a notebook passes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """A listener for long work."""

    def bar(self, what: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Open a bar named `what` with `total` steps; the value yielded advances it by n steps."""
        ...

    def note(self, message: str) -> None:
        """Tell the person one sentence (a skipped asset, which weights were loaded)."""
        ...


class Silent:
    """The listener that does not listen."""

    @contextmanager
    def bar(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Open a bar that is shown nowhere."""
        yield lambda _steps: None

    def note(self, message: str) -> None:
        """Drop the sentence."""
