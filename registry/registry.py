"""The registry: told of every stage's result, it knows what came from what."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult, read_record
from olmoearth_core.stages import stage_named
from registry import schema
from registry.context import RunContext
from registry.database import Database, add_missing, find_or_add
from registry.facts import Facts, gather
from registry.models import ModelVersion, find_model
from registry.outputs import Output, find_output
from registry.workspace import Workspace

CIRCUMSTANCES = (
    "platform_version",
    "code_commit",
    "code_dirty",
    "project_commit",
    "project_dirty",
    "lock_sha256",
    "environment_sha256",
    "who",
    "host",
    "flow_run",
)
"""What a run's row takes from its context; of outputs that were merely found none of it is known."""


def open_registry(workspace: Workspace) -> Registry:
    """Open the workspace's registry, made or migrated where needed. Use it in a `with`, or close it.

    Raises:
        DatabaseError: unreachable, refused, read-only, or of a newer schema than this code.
    """
    return Registry(workspace, Database(workspace.registry_url))


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
        facts = gather(self.workspace, project, result, dvc_hash=dvc_hash, model=model)
        with self.database.write() as session:
            return _write(session, project, result, context, facts)

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
            run = _run_of(session, project.config.name, result.stage, manifest.outputs_digest, manifest.key)
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


def _run_of(session: Session, project: str, stage: str, digest: str, key: str | None = None) -> schema.Run | None:
    """The newest run that made the outputs `digest`; inputs that differ in form alone make them under several keys."""
    wanted = (
        select(schema.Run)
        .join(schema.Project)
        .where(schema.Project.name == project, schema.Run.stage == stage, schema.Run.digest == digest)
        .order_by(schema.Run.id.desc())
    )
    if key is not None:
        wanted = wanted.where(schema.Run.key == key)
    return session.scalars(wanted.limit(1)).first()


def _write(session: Session, project: Project, result: StageResult, context: RunContext, facts: Facts) -> schema.Run:
    now = datetime.now(UTC)
    owner = find_or_add(session, schema.Project, {"name": project.config.name}, {"created": now})
    run = _write_run(session, owner, project, result, context, facts, now)
    key = {"project_id": owner.id, "digest": result.manifest.outputs_digest}
    inputs = result.manifest.inputs
    match result.stage:
        case "preprocess":
            export = _run_of(session, owner.name, "export", inputs["export"])
            values: dict[str, Any] = {"run_id": run.id, "export_run_id": export and export.id, "created": now}
            dataset = find_or_add(
                session, schema.DatasetVersion, key, {**values, "dvc_hash": facts.dvc_hash, "remote": facts.remote}
            )
            _link_scenes(session, schema.DatasetScene, "dataset_id", dataset.id, facts)
        case "finetune":
            dataset_id = _id_of(session, schema.DatasetVersion, owner.id, inputs["preprocess"])
            values = {"run_id": run.id, "dataset_id": dataset_id, "created": now, **facts.model}
            model = find_or_add(session, schema.ModelVersion, key, values)
            for column, value in facts.model.items():  # registered again, it may have another version
                setattr(model, column, value)
        case "postprocess":
            tiles = _run_of(session, owner.name, "infer", inputs["infer"])
            values = {
                "run_id": run.id,
                "tiles_run_id": tiles and tiles.id,
                "model_id": tiles and _id_of(session, schema.ModelVersion, owner.id, tiles.inputs["finetune"]),
                "date": date.fromisoformat(result.manifest.settings["map"]["date"]),
                "created": now,
            }
            made = find_or_add(session, schema.Map, {**key, "name": result.manifest.summary["map_id"]}, values)
            add_missing(session, schema.Product, [{"map_id": made.id, **product} for product in facts.products])
            add_missing(session, schema.Tile, [{"map_id": made.id, **tile} for tile in facts.tiles])
            _link_scenes(session, schema.MapScene, "map_id", made.id, facts)
    return run


def _write_run(
    session: Session,
    owner: schema.Project,
    project: Project,
    result: StageResult,
    context: RunContext,
    facts: Facts,
    now: datetime,
) -> schema.Run:
    """The run of this result: one row a computation, and one for outputs that were found without any."""
    manifest, cost = result.manifest, result.record
    if result.skipped:
        known = _run_of(session, owner.name, result.stage, manifest.outputs_digest, manifest.key)
        if known is not None:
            return known
    key = {
        "project_id": owner.id,
        "stage": result.stage,
        "key": manifest.key,
        "invocation": "" if result.skipped else context.invocation,
    }
    values = {
        "status": "found" if result.skipped else "computed",
        "digest": manifest.outputs_digest,
        "stage_version": manifest.stage_version,
        "settings": manifest.settings,
        "inputs": manifest.inputs,
        "summary": manifest.summary,
        "project_folder": str(project.root),
        "folder": result.place,
        "dvc_hash": facts.dvc_hash,
        **facts.kept,
        **({} if result.skipped else {name: getattr(context, name) for name in CIRCUMSTANCES}),
        "started": None if result.skipped else context.started,
        "finished": None if result.skipped else now,
        "recorded": now,
        **{
            name: cost.get(name) for name in ("wall_seconds", "device", "device_seconds", "bytes_read", "bytes_written")
        },
    }
    return find_or_add(session, schema.Run, key, values)


def _id_of(session: Session, table: Any, project_id: int, digest: str) -> int | None:
    found: int | None = session.scalars(
        select(table.id).where(table.project_id == project_id, table.digest == digest)
    ).one_or_none()
    return found


def _link_scenes(session: Session, table: type[schema.Base], column: str, owner: int, facts: Facts) -> None:
    add_missing(session, schema.Scene, facts.scenes)
    names = [scene["name"] for scene in facts.scenes]
    wanted = {(scene["catalogue"], scene["modality"], scene["name"]) for scene in facts.scenes}
    for start in range(0, len(names), 500):
        some: Sequence[str] = names[start : start + 500]
        found = session.scalars(select(schema.Scene).where(schema.Scene.name.in_(some)))
        links = [{column: owner, "scene_id": s.id} for s in found if (s.catalogue, s.modality, s.name) in wanted]
        add_missing(session, table, links)
