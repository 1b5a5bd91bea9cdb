"""Rows as the facts of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.audit.find import Found
from registry.audit.lineage import Origin
from registry.audit.report import (
    AssessmentFacts,
    AssetFacts,
    DatasetFacts,
    EncoderFacts,
    EvaluationFacts,
    LabelFileFacts,
    MapFacts,
    ModelFacts,
    PromotionFacts,
    RunFacts,
    SceneFacts,
    SubjectFacts,
)
from registry.facts import label_files
from registry.tables import schema

Facts = TypeVar("Facts")


def subject_facts(found: Found) -> SubjectFacts:
    """What was asked about."""
    return SubjectFacts(found.kind, found.name, found.by, found.part)


def map_facts(session: Session, made: schema.Map, origin: Origin) -> MapFacts:
    """The map; its tiles are counted, not read."""
    by_run = select(schema.Tile.run_id, func.count()).where(schema.Tile.map_id == made.id).group_by(schema.Tile.run_id)
    tiles: dict[int | None, int] = dict(session.execute(by_run).tuples().all())
    own = {None, *(run.id for run in origin.alike.get("infer", ()))}
    return MapFacts(
        id=made.name,
        project=made.project.name,
        date=made.date,
        digest=made.digest,
        recorded=made.created,
        products={product.name: product.sha256 for product in made.products},
        tiles=sum(tiles.values()),
        reused_tiles=sum(count for run, count in tiles.items() if run not in own),
        scenes=scene_facts(made.scenes),
        assessments=[_facts(AssessmentFacts, row) for row in made.assessments],
    )


def model_facts(model: schema.ModelVersion | None) -> ModelFacts | None:
    """The model version, with who judged and who promoted it."""
    if model is None:
        return None
    base = model.base
    random = base.get("source") in (None, "random")
    return ModelFacts(
        name=model.mlflow_name,
        version=model.mlflow_version,
        digest=model.digest,
        weights_sha256=model.weights_sha256,
        encoder=model.encoder,
        base=f"random weights, seed {base.get('seed')}" if random else f"{base['source']}, sha256 {base.get('sha256')}",
        metrics=model.metrics,
        base_encoder=_facts(EncoderFacts, model.base_encoder) if model.base_encoder is not None else None,
        evaluations=[_facts(EvaluationFacts, row) for row in model.evaluations],
        promotions=[_facts(PromotionFacts, row) for row in model.promotions],
    )


def dataset_facts(dataset: schema.DatasetVersion | None, runs: Sequence[schema.Run]) -> DatasetFacts | None:
    """The dataset version."""
    if dataset is None:
        return None
    run = next((run for run in runs if run.stage == "preprocess"), dataset.run)
    return DatasetFacts(
        digest=dataset.digest,
        dvc_hash=dataset.dvc_hash,
        labels=label_files(run.inputs),
        project=dataset.project.name,
        summary=run.summary,
        scenes=scene_facts(dataset.scenes),
    )


def scene_facts(scenes: Iterable[schema.Scene]) -> list[SceneFacts]:
    """The scenes of something."""
    return [SceneFacts(row.name, row.modality, row.catalogue, row.acquired, row.cloud_cover) for row in scenes]


def scenes_asked(scenes: Iterable[schema.Scene]) -> list[SceneFacts]:
    """Scenes that were asked about, with their files: a query each."""
    return [
        replace(told, assets=[_facts(AssetFacts, asset) for asset in row.assets])
        for row, told in ((row, scene_facts([row])[0]) for row in scenes)
    ]


def label_facts(session: Session, files: Sequence[schema.LabelFile]) -> list[LabelFileFacts]:
    """A label file, in each set that has it."""
    sets = select(schema.LabelSet, schema.Project.name).join(schema.LabelSet.project)
    wanted = sets.where(schema.LabelSet.id.in_([file.label_set_id for file in files]))
    known = {row.id: (row, project) for row, project in session.execute(wanted)}
    return [
        LabelFileFacts(file.name, file.sha256, project, labels.digest, labels.created)
        for file in files
        for labels, project in [known[file.label_set_id]]
    ]


def encoder_facts(row: schema.BaseEncoder) -> EncoderFacts:
    """A base encoder."""
    return _facts(EncoderFacts, row)


def run_facts(run: schema.Run) -> RunFacts:
    """A run."""
    return _facts(RunFacts, run)


def _facts(kind: type[Facts], row: Any) -> Facts:
    """The columns of a row that bear the names of the facts."""
    return kind(**{column.name: getattr(row, column.name) for column in fields(kind)})  # type: ignore[arg-type]
