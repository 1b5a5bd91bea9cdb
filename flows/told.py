"""What was told already: kept in a project's state, so that nobody hears the same news every quarter of an hour."""

from __future__ import annotations

import json
from collections.abc import Mapping

from olmoearth_core.project import Project
from olmoearth_core.store import write_json

TOLD = "told.json"


def was_told(project: Project, kind: str, about: str) -> bool:
    """Whether the last news of a `kind` was that `about` this."""
    return _told(project).get(kind) == about


def write_told(project: Project, news: Mapping[str, str]) -> None:
    """Keep news: kind -> what it is about.

    Raises:
        StoreError: it cannot be written.
    """
    write_json(project.state / TOLD, {**_told(project), **news})


def _told(project: Project) -> dict[str, str]:
    try:
        told: dict[str, str] = json.loads((project.state / TOLD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told
