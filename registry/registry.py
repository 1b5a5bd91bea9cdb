"""The registry: told of every stage's result, it knows what came from what."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult, read_record
from olmoearth_core.stages import stage_named
from registry.chain.anchors import anchor_map
from registry.context import RunContext
from registry.facts import gather
from registry.mlflow.models import ModelVersion, find_model
from registry.outputs import Output, find_output
from registry.recording import run_of, write_result
from registry.tables import schema
from registry.tables.database import Database
from registry.workspace import Workspace


def open_registry(workspace: Workspace, *, patience: float = 0.0) -> Registry:
    """Open the workspace's registry, made or migrated where needed. Use it in a `with`, or close it.

    Args:
        workspace: names the database.
        patience: seconds in which a server that does not answer is asked again.

    Raises:
        DatabaseError: unreachable, refused, read-only, or of a newer schema than this code.
    """
    return Registry(workspace, Database(workspace.registry_url, patience=patience))


class Registry(AbstractContextManager["Registry"]):
    """An open registry."""

    def __init__(self, workspace: Workspace, database: Database) -> None:
        self.workspace = workspace
        self.database = database

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the database's connections."""
        self.database.close()

    def record(
        self,
        project: Project,
        result: StageResult,
        context: RunContext,
        *,
        dvc_hash: str | None = None,
        model: ModelVersion | None = None,
    ) -> schema.Run:
        """Take a stage's result down: its run, and the dataset version, model version or map it is.

        Telling twice leaves one row. Stages before it that the registry does not know yet are taken down first, from
        their manifests in the project folder, as found.

        Args:
            project: whose result it is.
            result: of any stage.
            context: made before the stage ran.
            dvc_hash: as `dvc.commit` returned it (export, preprocess); computed where it is not given.
            model: as `register_model` returned it (finetune); the model is registered where it is not given.

        Raises:
            DatabaseError: the database refuses.
            ModelError: MLflow refuses.
        """
        known = self._known(project, result)
        if known is not None:
            return known
        for stage in stage_named(result.stage).after:
            before = find_output(project.root, stage, result.manifest.inputs[stage])
            if before is not None:
                self.record(project, found_result(project, before), context)
        facts = gather(self.workspace, project, result, code=context.code_sha256, dvc_hash=dvc_hash, model=model)
        return self.database.transact(
            lambda session: write_result(session, project, result, context, facts),
            result.stage,
            project=project.config.name,
            key=result.manifest.key,
            digest=result.manifest.outputs_digest,
            **({"map": result.manifest.summary["map_id"]} if result.stage == "postprocess" else {}),
        )

    def anchor(self, project: Project, result: StageResult) -> None:
        """Have a recorded map take the head of the chain with it, beside its files (anchors.py); twice is once.

        Raises:
            DatabaseError: the registry does not know the map, or refuses.
            SettingError: OLMOEARTH_SIGNING_KEY is no key.
        """
        name, digest = result.manifest.summary["map_id"], result.manifest.outputs_digest
        anchor_map(self.database, self.workspace, project.root, result.folder, name, digest)

    def models(self, project: str | None = None) -> list[schema.ModelVersion]:
        """The model versions of a project, or all, newest first; with their run and dataset version."""
        return self._list(
            schema.ModelVersion,
            project,
            selectinload(schema.ModelVersion.run),
            selectinload(schema.ModelVersion.dataset),
        )

    def maps(self, project: str | None = None) -> list[schema.Map]:
        """The maps of a project, or all, newest first; with their run, products and model version."""
        return self._list(
            schema.Map,
            project,
            selectinload(schema.Map.run),
            selectinload(schema.Map.products),
            selectinload(schema.Map.model),
        )

    def datasets(self, project: str | None = None) -> list[schema.DatasetVersion]:
        """The dataset versions of a project, or all, newest first; with their run."""
        return self._list(schema.DatasetVersion, project, selectinload(schema.DatasetVersion.run))

    def runs(self, project: str | None = None) -> list[schema.Run]:
        """The runs of a project, or all, newest first."""
        return self._list(schema.Run, project)

    def _list(self, table: Any, project: str | None, *loads: Any) -> list[Any]:
        wanted = select(table).options(selectinload(table.project), *loads).order_by(table.id.desc())
        if project is not None:
            wanted = wanted.join(table.project).where(schema.Project.name == project)
        with self.database.read() as session:
            return list(session.scalars(wanted))

    def _known(self, project: Project, result: StageResult) -> schema.Run | None:
        """The run of a result that was found complete and is in the registry with all that it made."""
        if not result.skipped:
            return None
        with self.database.read() as session:
            manifest = result.manifest
            run = run_of(session, project.config.name, result.stage, manifest.outputs_digest, manifest.key)
            made = {"preprocess": schema.DatasetVersion, "finetune": schema.ModelVersion, "postprocess": schema.Map}
            table: Any = made.get(result.stage)
            if run is None:
                return None
            if table is None:
                return run
            if result.stage == "finetune" and find_model(self.workspace, project.config.name, run.digest) is None:
                return None  # MLflow lost it: it is registered again
            same = (table.project_id == run.project_id) & (table.digest == run.digest)
            return run if session.scalars(select(table.id).where(same).limit(1)).first() is not None else None


def found_result(project: Project, output: Output) -> StageResult:
    """Outputs in the project folder as the result of a stage that was skipped."""
    manifest = output.manifest
    place = output.folder.relative_to(project.root).as_posix()
    cost = read_record(project, manifest.stage, manifest.key)
    return StageResult(manifest.stage, output.folder, place, manifest, True, cost)
