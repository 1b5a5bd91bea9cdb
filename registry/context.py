"""The circumstances of a run: which code, in which environment, started by whom, where, when."""

from __future__ import annotations

import getpass
import os
import platform
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_file, sha256_json
from olmoearth_core.machine import hardware, packages
from olmoearth_core.project import Project
from registry.versioning import git

PACKAGE = "olmoearth-platform"
CODE = Path(__file__).resolve().parent.parent
FLOORS = ("olmoearth_core", "registry", "flows")
LOCK = "constraints.txt"
WRITTEN_BY_RUNS = (":(exclude)dvc.lock", ":(exclude)anchors.jsonl")
CODE_COMMIT = "OLMOEARTH_CODE_COMMIT"
"""Environment variable that names the commit of an installed platform; infra/Dockerfile sets it."""


@dataclass(frozen=True)
class RunContext:
    """The circumstances of one call of one stage."""

    platform_version: str
    code_commit: str | None
    """Of the platform's repository; None where it was installed without one and OLMOEARTH_CODE_COMMIT is not set."""
    code_dirty: bool | None
    """Whether the platform's code differs from that commit."""
    project_commit: str | None
    project_dirty: bool | None
    """Whether the project's files differ from that commit (dvc.lock and anchors.jsonl apart, which runs write)."""
    lock_sha256: str | None
    """Of constraints.txt; None where the platform was installed without it."""
    environment_sha256: str
    """Of the names and versions of all installed packages and of Python."""
    who: str
    host: str
    hardware: dict[str, Any]
    """processor, cores, memory_bytes, gpus."""
    flow_run: str | None
    """Prefect's id of the flow run, where there is one."""
    started: datetime
    finished: datetime | None = None
    """When the stage was done; None while it runs."""
    code_sha256: str | None = None
    """Of the archive of the platform's source that runs (reproduce/code_archive.py)."""
    invocation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names this call; telling the registry twice of one call leaves one row."""

    @classmethod
    def here(cls, project: Project, *, flow_run: str | None = None) -> RunContext:
        """The circumstances now; made just before the stage runs.

        Raises:
            VersioningError: git is not installed, or refuses.
        """
        from registry.reproduce.code_archive import source_sha256

        code_commit, code_dirty = _code()
        project_commit = git.commit_of(project.root)
        project_dirty = bool(git.changed(project.root, ".", *WRITTEN_BY_RUNS)) if project_commit else None
        return cls(
            platform_version=version(PACKAGE),
            code_commit=code_commit,
            code_dirty=code_dirty,
            project_commit=project_commit,
            project_dirty=project_dirty,
            lock_sha256=sha256_file(CODE / LOCK) if (CODE / LOCK).is_file() else None,
            environment_sha256=sha256_json(list(packages())),
            who=who(),
            host=platform.node(),
            hardware=hardware(),
            flow_run=flow_run,
            started=datetime.now(UTC),
            code_sha256=source_sha256(),
        )


@cache
def _code() -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the code; asked once, for the code that runs is the code that was imported.

    Installed without its repository, as in a container's image, it says what the one who built it wrote.
    """
    if not git.tracks(CODE, Path(__file__).resolve().relative_to(CODE).as_posix()):
        return os.environ.get(CODE_COMMIT) or None, None  # installed; a repository around it would be somebody else's
    return git.commit_of(CODE), bool(git.changed(CODE, *FLOORS))


def who() -> str:
    """The user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
