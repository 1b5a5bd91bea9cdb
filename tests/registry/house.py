"""A workspace that knows one project with one map, and ways to harm it that put back what they change."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import smallrun

from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult
from registry.audit.audit import audit
from registry.audit.report import AuditReport
from registry.context import RunContext
from registry.mlflow.models import ModelVersion
from registry.registry import open_registry
from registry.versioning import dvc
from registry.workspace import Workspace


@dataclass(frozen=True)
class House:
    """A workspace that knows one project with one map."""

    project: Project
    workspace: Workspace
    results: dict[str, StageResult]
    model: ModelVersion

    @property
    def map(self) -> Path:
        return self.results["postprocess"].folder / "map.tif"

    def audit(self, path: Path | None = None) -> AuditReport:
        return audit(self.workspace, path or self.map)

    def sql(self, statement: str) -> None:
        with sqlite3.connect(self.workspace.home / "registry.db") as connection:
            connection.execute(statement)
        connection.close()


def build(folder: Path, finished: Path, models_home: Workspace, registered: ModelVersion) -> House:
    """A copy of the project `finished` in `folder`, everything told to DVC, MLflow and the registry."""

    project = load_project(shutil.copytree(finished, folder / "small"))
    workspace = Workspace.at(folder / "home", tracking_uri=models_home.tracking_uri, artifacts=models_home.artifacts)
    results = {name: replace(result, skipped=False) for name, result in smallrun.run(project).items()}
    with open_registry(workspace) as registry:
        for name, result in results.items():
            if name in ("export", "preprocess"):
                dvc.commit(project, workspace, name)
            registry.record(project, result, RunContext.here(project), model=registered if name == "finetune" else None)
    return House(project, workspace, results, registered)


def bad(report: AuditReport) -> dict[str, str]:
    """What was checked and is not ok -> status."""
    return {check.what: check.status for check in report.checks if check.status != "ok"}


@contextmanager
def flipped_bit(path: Path) -> Iterator[None]:
    """One bit of a file is another for a while; size and time stay."""
    before, status = path.read_bytes(), path.stat()
    mode = status.st_mode
    path.chmod(0o644)
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """A file or folder is not there for a while."""
    hidden = path.rename(path.with_name(f"{path.name}.hidden"))
    try:
        yield
    finally:
        hidden.rename(path)


@contextmanager
def changed_rows(house: House, statement: str) -> Iterator[None]:
    """The registry's rows are others for a while."""
    path = house.workspace.home / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    house.sql(statement)
    try:
        yield
    finally:
        for name in ("registry.db-wal", "registry.db-shm"):
            path.with_name(name).unlink(missing_ok=True)
        path.write_bytes(before)
