"""How a stage's result becomes rows, in one transaction; told twice, it leaves them once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_json
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.context import RunContext
from registry.facts import Facts
from registry.tables import schema
from registry.tables.database import add_missing, change, find_or_add

SOME = 500
"""Values that one question asks for."""
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
    "hardware",
    "flow_run",
)
"""What a run's row takes from its context; of outputs that were merely found none of it is known."""


def run_of(session: Session, project: str, stage: str, digest: str, key: str | None = None) -> schema.Run | None:
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


@dataclass(frozen=True)
class _Telling:
    """A stage's result on its way into the tables."""

    session: Session
    owner: schema.Project
    run: schema.Run
    result: StageResult
    context: RunContext
    facts: Facts
    now: datetime

    @property
    def key(self) -> dict[str, Any]:
        """Natural key of what the stage made."""
        return {"project_id": self.owner.id, "digest": self.result.manifest.outputs_digest}

    @property
    def revision(self) -> dict[str, Any]:
        """Of the project; unknown where the outputs were found."""
        names = ("project_commit", "project_dirty")
        return {name: None if self.result.skipped else getattr(self.context, name) for name in names}


def write_result(
    session: Session, project: Project, result: StageResult, context: RunContext, facts: Facts
) -> schema.Run:
    """Write the run, and the dataset version, model version or map that it made; what is there already stays."""
    now = datetime.now(UTC)
    owner = find_or_add(session, schema.Project, {"name": project.config.name}, {"created": now})
    run = _write_run(session, owner, project, result, context, facts, now)
    told = _Telling(session, owner, run, result, context, facts, now)
    match result.stage:
        case "preprocess":
            _write_dataset(told)
        case "finetune":
            _write_model(told)
        case "postprocess":
            _write_map(told)
    return run


def _write_dataset(told: _Telling) -> None:
    session, facts = told.session, told.facts
    label_set = _write_labels(told)
    export = run_of(session, told.owner.name, "export", told.result.manifest.inputs["export"])
    values = {
        "run_id": told.run.id,
        "export_run_id": export and export.id,
        "label_set_id": label_set.id,
        "dvc_hash": facts.dvc_hash,
        "remote": facts.remote,
        **told.revision,
        "created": told.now,
    }
    dataset = find_or_add(session, schema.DatasetVersion, told.key, values)
    _link_scenes(told, schema.DatasetScene, "dataset_id", dataset.id)


def _write_labels(told: _Telling) -> schema.LabelSet:
    digest = sha256_json({label["name"]: label["sha256"] for label in told.facts.labels})
    key = {"project_id": told.owner.id, "digest": digest}
    found = find_or_add(told.session, schema.LabelSet, key, {**told.revision, "created": told.now})
    add_missing(told.session, schema.LabelFile, [{"label_set_id": found.id, **label} for label in told.facts.labels])
    return found


def _write_model(told: _Telling) -> None:
    session, facts, trained_on = told.session, told.facts, told.result.manifest.inputs["preprocess"]
    base = find_or_add(session, schema.BaseEncoder, {"digest": sha256_json(facts.base)}, facts.base)
    dataset_id = _id_of(session, schema.DatasetVersion, told.owner.id, trained_on)
    known = {"base_encoder_id": base.id, **facts.model}
    values = {"run_id": told.run.id, "dataset_id": dataset_id, "created": told.now, **known}
    model = find_or_add(session, schema.ModelVersion, told.key, values)
    change(session, model, **known)  # registered again, it may have another version
    who = None if told.result.skipped else f"finetune by {told.context.who}"
    shared: dict[str, Any] = {"model_id": model.id, "dataset_id": dataset_id, "dataset_digest": trained_on}
    shared |= {"run_id": told.run.id, "evaluator": who, "created": told.now}
    add_missing(session, schema.Evaluation, [{**shared, **scores} for scores in facts.evaluations])


def _write_map(told: _Telling) -> None:
    session, facts, manifest = told.session, told.facts, told.result.manifest
    tiles = run_of(session, told.owner.name, "infer", manifest.inputs["infer"])
    values = {
        "run_id": told.run.id,
        "tiles_run_id": tiles and tiles.id,
        "model_id": tiles and _id_of(session, schema.ModelVersion, told.owner.id, tiles.inputs["finetune"]),
        "date": date.fromisoformat(manifest.settings["map"]["date"]),
        "created": told.now,
    }
    made = find_or_add(session, schema.Map, {**told.key, "name": manifest.summary["map_id"]}, values)
    add_missing(session, schema.Product, [{"map_id": made.id, **product} for product in facts.products])
    write_tiles(session, made.id, tiles.id if tiles else None, facts.tiles)
    _link_scenes(told, schema.MapScene, "map_id", made.id)


def write_tiles(session: Session, map_id: int, run_id: int | None, tiles: Sequence[Mapping[str, Any]]) -> None:
    """Write tiles of a map; each belongs to the run that first computed its key, which may be an earlier map's.

    Args:
        session: of `Database.write` or `transact`.
        map_id: of the map's row.
        run_id: of the run that left these tiles: theirs, where no earlier one computed them.
        tiles: name, key (or None), sha256, bytes.
    """
    keys = sorted({tile["key"] for tile in tiles if tile["key"] is not None})
    first: dict[str | None, int | None] = {}
    for start in range(0, len(keys), SOME):
        earliest = select(schema.Tile.key, func.min(schema.Tile.run_id)).group_by(schema.Tile.key)
        rows = session.execute(earliest.where(schema.Tile.key.in_(keys[start : start + SOME])))
        first |= {key: run for key, run in rows if run is not None}
    rows_of = [{"map_id": map_id, **tile, "run_id": first.get(tile["key"], run_id)} for tile in tiles]
    add_missing(session, schema.Tile, rows_of)


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
        known = run_of(session, owner.name, result.stage, manifest.outputs_digest, manifest.key)
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
        "seed": manifest.settings.get("training", manifest.settings).get("seed"),
        "inputs": manifest.inputs,
        "summary": manifest.summary,
        "project_folder": str(project.root),
        "folder": result.place,
        "dvc_hash": facts.dvc_hash,
        **facts.kept,
        **({} if result.skipped else {name: getattr(context, name) for name in CIRCUMSTANCES}),
        "started": None if result.skipped else context.started,
        "finished": None if result.skipped else context.finished or now,
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


def _link_scenes(told: _Telling, table: type[schema.Base], column: str, owner: int) -> None:
    session, scenes = told.session, told.facts.scenes
    add_missing(session, schema.Scene, scenes)
    names = sorted({scene["name"] for scene in scenes})
    wanted = {(scene["catalogue"], scene["modality"], scene["name"]) for scene in scenes}
    ids: dict[tuple[str, str], int] = {}
    for start in range(0, len(names), SOME):
        found = session.scalars(select(schema.Scene).where(schema.Scene.name.in_(names[start : start + SOME])))
        ids |= {(s.modality, s.name): s.id for s in found if (s.catalogue, s.modality, s.name) in wanted}
    add_missing(session, table, [{column: owner, "scene_id": scene} for scene in ids.values()])
    _write_assets(told, ids)


def _write_assets(told: _Telling, ids: Mapping[tuple[str, str], int]) -> None:
    """The assets of scenes as they were first read: what is known already keeps its date of access."""
    found = [
        {"scene_id": ids[asset.modality, asset.scene], "name": asset.name, "href": asset.href}
        | {"checksum": asset.checksum, "accessed": told.now}
        for asset in told.facts.assets
    ]
    add_missing(told.session, schema.SceneAsset, found)
