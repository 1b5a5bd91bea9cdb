"""Lineage both ways: what a thing was made of, and what was made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from registry.audit.find import Found
from registry.audit.report import DatasetLine, MapLine, ModelLine, Touched
from registry.tables import schema

AFTER = {"postprocess": "infer", "infer": "finetune", "finetune": "preprocess", "preprocess": "export"}
"""Stage -> the stage whose outputs it read."""
STAGES_BEHIND = {
    "map": ("postprocess", "infer", "finetune", "preprocess", "export"),
    "model": ("finetune", "preprocess", "export"),
    "dataset": ("preprocess", "export"),
}
"""Kind of thing -> the stages that made it, from it back to the export."""


@dataclass(frozen=True)
class Origin:
    """What a thing was made of; None where it is no such thing, or the registry does not know."""

    map: schema.Map | None = None
    model: schema.ModelVersion | None = None
    dataset: schema.DatasetVersion | None = None
    runs: Sequence[schema.Run] = ()
    """From the thing back to the export, as far as the registry knows them. Where several runs made the same bytes of
    the same bytes, it is the newest."""
    alike: Mapping[str, Sequence[schema.Run]] = field(default_factory=dict)
    """Stage -> all runs that made the same outputs, newest first: a label file saved with other white space gives a
    new key."""


def origin(session: Session, found: Found) -> Origin:
    """What `found` was made of; two queries."""
    made = found.map
    model = found.rows[0] if found.kind == "model" else made.model if made is not None else None
    dataset = found.rows[0] if found.kind == "dataset" else model.dataset if model is not None else None
    rows = [
        *((made.run, made.tiles_run) if made is not None else ()),
        *((model.run,) if model is not None else ()),
        *((dataset.run, dataset.export_run) if dataset is not None else ()),
    ]
    runs = [run for run in rows if run is not None]
    alike = _alike(session, runs)
    return Origin(made, model, dataset, [_newest(run, alike[run.stage]) for run in runs], alike)


def _alike(session: Session, runs: Sequence[schema.Run]) -> dict[str, list[schema.Run]]:
    outcome = tuple_(schema.Run.project_id, schema.Run.stage, schema.Run.digest)
    wanted = select(schema.Run).where(outcome.in_([(run.project_id, run.stage, run.digest) for run in runs]))
    found: dict[str, list[schema.Run]] = {run.stage: [] for run in runs}
    for run in session.scalars(wanted.order_by(schema.Run.id.desc())) if runs else ():
        found[run.stage].append(run)
    return found


def _newest(run: schema.Run, alike: Sequence[schema.Run]) -> schema.Run:
    before = AFTER.get(run.stage, "")
    return next((other for other in alike if other.inputs.get(before) == run.inputs.get(before)), run)


def touched(session: Session, found: Found) -> Touched:
    """What was made from `found`: dataset versions, the models trained on them, the maps these made.

    A scene goes into maps as imagery, too; a map that shows a scene which its model also learned from is told once.
    """
    datasets = _datasets_from(session, found)
    models = _models_from(session, found, datasets)
    shown = _ids(session, schema.MapScene.map_id, schema.MapScene.scene_id, found) if found.kind == "scene" else []
    maps = _maps(session, schema.Map.id.in_(shown), "imagery") if shown else []
    known = {(line.id, line.digest) for line in maps}
    learned = _maps(session, schema.Map.model_id.in_(models), "model") if models else []
    return Touched(
        datasets=_dataset_lines(session, datasets) if found.kind in ("scene", "labels") else [],
        models=_model_lines(session, models) if found.kind != "model" else [],
        maps=maps + [line for line in learned if (line.id, line.digest) not in known],
    )


def _datasets_from(session: Session, found: Found) -> list[int]:
    """Ids of the dataset versions that the thing is, or went into."""
    match found.kind:
        case "scene":
            return _ids(session, schema.DatasetScene.dataset_id, schema.DatasetScene.scene_id, found)
        case "labels":
            sets = {row.label_set_id for row in found.rows}
            wanted = select(schema.DatasetVersion.id).where(schema.DatasetVersion.label_set_id.in_(sets))
            return list(session.scalars(wanted))
        case "dataset":
            return [row.id for row in found.rows]
    return []


def _models_from(session: Session, found: Found, datasets: Sequence[int]) -> list[int]:
    """Ids of the model versions that the thing is, or went into."""
    if found.kind == "model":
        return [row.id for row in found.rows]
    if found.kind == "encoder":
        return _ids(session, schema.ModelVersion.id, schema.ModelVersion.base_encoder_id, found)
    wanted = select(schema.ModelVersion.id).where(schema.ModelVersion.dataset_id.in_(datasets))
    return list(session.scalars(wanted)) if datasets else []


def _ids(session: Session, wanted: Any, link: Any, found: Found) -> list[int]:
    """`wanted` of the rows whose `link` is the id of a row found, each once.

    Ids are fetched before what they name: PostgreSQL guesses badly how many a nested query gives, and would then read
    large tables from end to end.
    """
    return list(session.scalars(select(wanted).where(link.in_([row.id for row in found.rows])).distinct()))


def _dataset_lines(session: Session, ids: Sequence[int]) -> list[DatasetLine]:
    table = schema.DatasetVersion
    wanted: Select[Any] = select(table.digest, schema.Project.name, table.dvc_hash, table.created).join(table.project)
    return [DatasetLine(*row) for row in session.execute(wanted.where(table.id.in_(ids)).order_by(table.id.desc()))]


def _model_lines(session: Session, ids: Sequence[int]) -> list[ModelLine]:
    table, dataset = schema.ModelVersion, schema.DatasetVersion
    columns = (
        *(table.mlflow_name, table.mlflow_version, schema.Project.name),
        *(table.weights_sha256, dataset.digest, table.created),
    )
    wanted: Select[Any] = select(*columns).select_from(table).join(table.project).outerjoin(table.dataset)
    return [ModelLine(*row) for row in session.execute(wanted.where(table.id.in_(ids)).order_by(table.id.desc()))]


def _maps(session: Session, which: Any, through: Literal["imagery", "model"]) -> list[MapLine]:
    model = schema.ModelVersion
    columns = (
        *(schema.Map.name, schema.Project.name, schema.Map.date, schema.Map.digest),
        *(model.mlflow_name, model.mlflow_version, schema.Map.created),
    )
    wanted: Select[Any] = select(*columns).select_from(schema.Map).join(schema.Map.project).outerjoin(schema.Map.model)
    return [
        MapLine(name, project, day, digest, f"{model_name}/{version}" if model_name else None, created, through)
        for name, project, day, digest, model_name, version, created in session.execute(
            wanted.where(which).order_by(schema.Map.id.desc())
        )
    ]
