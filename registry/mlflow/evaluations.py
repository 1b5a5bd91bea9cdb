"""Comparisons of model versions as the registry keeps them, and what is still known of a former training set."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_json
from olmoearth_core.project import Project
from registry.context import who
from registry.mlflow.models import ModelVersion
from registry.outputs import find_output
from registry.registry import Registry
from registry.tables import schema
from registry.tables.database import find_or_add
from registry.versioning import git
from registry.versioning.dvc_store import find_repository, stored_files

WINDOWS = "windows.parquet"
PARTS = {"test": "frozen test", "newest": "newest labels"}
"""Part of a comparison -> what the registry calls it; `test` is all test windows, which fine-tuning judges by."""


def record_comparison(
    registry: Registry,
    models: Mapping[str, ModelVersion],
    dataset_digest: str,
    task: str,
    comparison: Mapping[str, Any],
    *,
    by: str | None = None,
) -> None:
    """Take down how each model did on each part of the test; telling twice is once.

    Args:
        registry: that takes it down.
        models: "champion" and "challenger".
        dataset_digest: of the training set whose test windows were answered.
        task: name of the task.
        comparison: as `Comparison.to_json`.
        by: who or what asked; the user of this process when not given.

    Raises:
        DatabaseError: the registry cannot be written.
    """

    def write(session: Session) -> None:
        for which, version in models.items():
            _write(session, which, version, dataset_digest, task, comparison, by)

    registry.database.transact(write, "comparison", dataset=dataset_digest)


def _write(
    session: Session,
    which: str,
    version: ModelVersion,
    dataset_digest: str,
    task: str,
    comparison: Mapping[str, Any],
    by: str | None,
) -> None:
    wanted = select(schema.ModelVersion).where(schema.ModelVersion.digest == version.digest)
    row = session.scalars(wanted.join(schema.Project).where(schema.Project.name == version.name)).first()
    if row is None:  # trained elsewhere, and never told here
        return
    dataset = select(schema.DatasetVersion.id).where(
        schema.DatasetVersion.project_id == row.project_id, schema.DatasetVersion.digest == dataset_digest
    )
    for name, part in comparison["parts"].items():
        scores = part[which]
        key = {"model_id": row.id, "dataset_digest": dataset_digest, "split": PARTS[name], "task": task}
        values = {
            "scores": scores,
            "dataset_id": session.scalars(dataset).first(),
            "evaluator": f"compare by {by or who()}",
            "created": datetime.now(UTC),
        }
        find_or_add(session, schema.Evaluation, {**key, "digest": sha256_json(scores)}, values)


def windows_of(registry: Registry, project: Project, digest: str) -> Path | None:
    """windows.parquet of a dataset version, in the project folder or from DVC's stores on this machine; None: gone."""
    here = find_output(project.root, "preprocess", digest)
    if here is not None:
        return here.path(WINDOWS)
    row = _dataset(registry, project, digest)
    top = git.top(project.root) if row is not None and row.dvc_hash else None
    repository = find_repository(project.root, top.resolve()) if top else None
    if row is None or row.dvc_hash is None or repository is None:
        return None
    return (stored_files(repository, row.dvc_hash) or {}).get(WINDOWS)


def inputs_of(registry: Registry, project: Project, digest: str) -> list[dict[str, str]]:
    """What the runs read that made a dataset version (input -> digest); several, where inputs differ in form alone."""
    wanted = (
        select(schema.Run)
        .join(schema.Project)
        .where(
            schema.Project.name == project.config.name,
            schema.Run.stage == "preprocess",
            schema.Run.digest == digest,
        )
    )
    with registry.database.read() as session:
        return [dict(run.inputs) for run in session.scalars(wanted)]


def _dataset(registry: Registry, project: Project, digest: str) -> schema.DatasetVersion | None:
    return next((row for row in registry.datasets(project.config.name) if row.digest == digest), None)
