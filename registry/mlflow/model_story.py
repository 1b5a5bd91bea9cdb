"""All that is known of one model version, for a person or a machine."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from registry.errors import ModelError
from registry.mlflow.models import get_model
from registry.mlflow.promotions import promotions
from registry.registry import Registry
from registry.tables import schema


def story(registry: Registry, project: str, version_or_alias: str) -> dict[str, Any]:
    """What a version was made of, how it was judged, when it was champion, and which maps it made, as JSON values.

    Raises:
        ModelError: no such version, or the registry never heard of it.
        DatabaseError: the registry cannot be read.
    """
    found = get_model(registry.workspace, project, version_or_alias)
    with registry.database.read() as session:
        wanted = (
            select(schema.ModelVersion)
            .join(schema.Project)
            .where(schema.Project.name == project, schema.ModelVersion.digest == found.digest)
            .options(selectinload(schema.ModelVersion.run), selectinload(schema.ModelVersion.dataset))
        )
        row = session.scalars(wanted).first()
        if row is None:
            raise ModelError(
                f"{project}, version {found.version}: MLflow has it, the registry does not: it was registered by "
                "something else. Run `olmoearth finetune` in its project folder to have it taken down."
            )
        judged = select(schema.Evaluation).where(schema.Evaluation.model_id == row.id).order_by(schema.Evaluation.id)
        maps = select(schema.Map).where(schema.Map.model_id == row.id).order_by(schema.Map.id)
        evaluations, made = list(session.scalars(judged)), list(session.scalars(maps))
    run = row.run
    return {
        "name": project,
        "version": found.version,
        "aliases": list(found.aliases),
        "encoder": row.encoder,
        "base": row.base.get("source"),
        "dataset": row.dataset.digest if row.dataset else found.dataset_digest,
        "weights_sha256": row.weights_sha256,
        "digest": row.digest,
        "scores": row.metrics,
        "trained": run.finished or run.recorded,
        "by": run.who,
        "code": run.code_commit,
        "mlflow_run": row.mlflow_run,
        "evaluations": [_judged(evaluation) for evaluation in evaluations],
        "promotions": [_promoted(p) for p in reversed(promotions(registry, project)) if p.to_version == found.version],
        "maps": [{"map": m.name, "date": m.date, "sentence": f"{m.name}, {m.created:%Y-%m-%d %H:%M}"} for m in made],
    }


def _judged(row: schema.Evaluation) -> dict[str, Any]:
    scores = {key: value for key, value in row.scores.items() if isinstance(value, int | float)}
    told = ", ".join(f"{key} {value:.3f}" for key, value in sorted(scores.items()) if isinstance(value, float))
    sentence = f"{row.split} of dataset {row.dataset_digest[:12]}: {told} ({row.created:%Y-%m-%d})"
    return {"split": row.split, "task": row.task, "dataset": row.dataset_digest, "scores": scores, "sentence": sentence}


def _promoted(row: schema.Promotion) -> dict[str, Any]:
    after = f" after version {row.from_version}" if row.from_version else ""
    sentence = f"{row.action}{after}, {row.intended:%Y-%m-%d %H:%M} by {row.who}: {row.why} ({row.state})"
    return {
        "action": row.action,
        "from_version": row.from_version,
        "who": row.who,
        "why": row.why,
        "gates": row.gates,
        "state": row.state,
        "reason": row.reason,
        "intended": row.intended,
        "settled": row.settled,
        "sentence": sentence,
    }
