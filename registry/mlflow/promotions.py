"""Which model version is the champion, and how it came to be: intended, done in MLflow, confirmed.

MLflow's alias is the state. The registry takes down what is about to happen before it happens, and that it happened
afterwards; killed in between, the next command finishes what was intended (`settle`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from registry.context import who
from registry.errors import ModelError
from registry.mlflow.models import CHAMPION, ModelVersion, alias_of, get_model, move_alias, one_at_a_time
from registry.registry import Registry
from registry.tables import schema
from registry.tables.database import change, find_or_add

CHALLENGER = "challenger"
INTENDED, CONFIRMED, FAILED = "intended", "confirmed", "failed"
PROMOTE, ROLLBACK = "promote", "rollback"
FIRST = "the first model"


@dataclass(frozen=True)
class Settled:
    """A promotion that was begun by a command which did not live to see its end.

    Attributes:
        version: the model version it was for.
        state: "confirmed" or "failed".
        sentence: for a person.
    """

    version: str
    state: str
    sentence: str


def promote(
    registry: Registry,
    model: ModelVersion,
    *,
    why: str,
    gates: Mapping[str, Any] | None = None,
    action: str = PROMOTE,
    by: str | None = None,
) -> schema.Promotion:
    """Make a model version the champion of its project.

    Args:
        registry: takes down intent and confirmation.
        model: the version.
        why: the reason, in a person's or the gates' words.
        gates: what they found; {} where none was asked.
        action: "promote" or "rollback".
        by: who or what decided; the user of this process when not given.

    Raises:
        ModelError: it is the champion already, or MLflow refuses: the promotion is then taken down as failed.
        DatabaseError: the registry cannot be written; nothing has changed then.
    """
    with one_at_a_time(registry.workspace):
        settle(registry, model.name)
        before = champion_of(registry, model.name)
        if before is not None and before.version == model.version:
            raise ModelError(f"{model.name}: version {model.version} is the champion already.")
        values = {
            "action": action,
            "alias": CHAMPION,
            "from_version": before.version if before else None,
            "to_version": model.version,
            "who": by or who(),
            "why": why,
            "gates": dict(gates or {}),
            "state": INTENDED,
            "intended": datetime.now(UTC),
        }
        request = uuid.uuid4().hex
        _intend(registry, model.name, request, values)
        return _carry_out(registry, request, model.name, model.version)


def settle(registry: Registry, project: str) -> list[Settled]:
    """Finish what a killed command intended, and take down a first champion that the registry has not heard of.

    An alias that somebody moved elsewhere since is left alone: the promotion is then taken down as failed.

    Raises:
        ModelError, DatabaseError: MLflow or the registry refuses.
    """
    settled = []
    for row in [row for row in promotions(registry, project) if row.state == INTENDED]:
        now, version = champion_of(registry, project), str(row.to_version)
        stands = None if now is None else now.version
        if stands == version:
            _change(registry, row.request, {"state": CONFIRMED, "settled": datetime.now(UTC)})
            told = f"version {version} had become champion before a command was stopped; confirmed now"
        elif stands == row.from_version:
            _carry_out(registry, row.request, project, version)
            told = f"version {version} was about to become champion when a command was stopped; it is now"
        else:
            reason = f"a command was stopped, and MLflow's champion has been version {stands} since"
            _change(registry, row.request, {"state": FAILED, "settled": datetime.now(UTC), "reason": reason})
            settled.append(Settled(version, FAILED, f"version {version} did not become champion: {reason}"))
            continue
        settled.append(Settled(version, CONFIRMED, told))
    _take_down_the_first(registry, project)
    return settled


def rollback(registry: Registry, project: str, *, why: str, by: str | None = None) -> schema.Promotion:
    """Make the model version champion that was it before the one of now; again, and the one before that is.

    Raises:
        ModelError: there is no champion, or none before it; MLflow refuses.
    """
    settle(registry, project)
    now = get_model(registry.workspace, project)
    came = [row for row in _confirmed(registry, project) if row.action == PROMOTE and row.to_version == now.version]
    before = came[0].from_version if came else None
    if before is None:
        raise ModelError(f"{project}: version {now.version} is the first champion; there is none to go back to.")
    return promote(registry, get_model(registry.workspace, project, before), why=why, action=ROLLBACK, by=by)


def challenge(registry: Registry, model: ModelVersion | None, project: str) -> None:
    """Give a model version the alias `challenger`; None: nobody has it any more.

    Raises:
        ModelError: MLflow refuses.
    """
    move_alias(registry.workspace, project, CHALLENGER, None if model is None else model.version)


def champion_of(registry: Registry, project: str) -> ModelVersion | None:
    """The version that MLflow calls champion; None where there is none.

    Raises:
        ModelError: MLflow cannot be reached.
    """
    return alias_of(registry.workspace, project, CHAMPION)


def promotions(registry: Registry, project: str) -> list[schema.Promotion]:
    """Every promotion of a project, newest first, with its model version."""
    wanted = (
        select(schema.Promotion)
        .join(schema.Project)
        .where(schema.Project.name == project)
        .options(selectinload(schema.Promotion.model))
        .order_by(schema.Promotion.id.desc())
    )
    with registry.database.read() as session:
        return list(session.scalars(wanted))


def disagreement(registry: Registry, project: str) -> str | None:
    """A sentence where MLflow's champion is not where the last promotion on record put it; None where they agree."""
    last = next((row for row in promotions(registry, project) if row.alias == CHAMPION and row.state != FAILED), None)
    now = champion_of(registry, project)
    version = None if now is None else now.version
    said = f"{CHAMPION}: MLflow says {_named(version)}, on record is none" if version else ""
    if last is not None:
        said = moved(last, version)
    if not said:
        return None
    return f"{project}: {said}. Promote or roll back with `olmoearth models`, so that it is on record."


def moved(promotion: schema.Promotion, version: str | None) -> str:
    """What is wrong with an alias that MLflow gives `version`, after its last promotion; empty where nothing is."""
    told = (
        f"{promotion.who} meant {_named(promotion.to_version)} to be {promotion.alias} on "
        f"{promotion.intended:%Y-%m-%d %H:%M} UTC"
    )
    if version != promotion.to_version:
        return f"{promotion.alias}: MLflow says {_named(version)}; {told} ({promotion.state})"
    if promotion.state == INTENDED:
        return f"{promotion.alias}: {told}, MLflow has it so, and nobody confirmed it"
    return ""


def _named(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def _confirmed(registry: Registry, project: str) -> Sequence[schema.Promotion]:
    return [row for row in promotions(registry, project) if row.state == CONFIRMED and row.alias == CHAMPION]


def _take_down_the_first(registry: Registry, project: str) -> None:
    """MLflow makes a project's first version champion as it registers it (`models.register_model`)."""
    now = champion_of(registry, project)
    if now is None or now.version != "1" or promotions(registry, project):
        return
    moment = datetime.now(UTC)
    values: dict[str, Any] = {
        "action": PROMOTE,
        "alias": CHAMPION,
        "from_version": None,
        "to_version": now.version,
        "who": who(),
        "why": FIRST,
        "gates": {},
        "state": CONFIRMED,
        "intended": moment,
        "settled": moment,
    }
    _intend(registry, project, f"first champion of {project}", values)


def _intend(registry: Registry, project: str, request: str, values: Mapping[str, Any]) -> None:
    def write(session: Session) -> None:
        owner = find_or_add(session, schema.Project, {"name": project}, {"created": datetime.now(UTC)})
        known = select(schema.ModelVersion.id).where(
            schema.ModelVersion.project_id == owner.id, schema.ModelVersion.mlflow_version == values["to_version"]
        )
        model_id = session.scalars(known.order_by(schema.ModelVersion.id.desc()).limit(1)).first()
        row = {**values, "project_id": owner.id, "model_id": model_id}
        find_or_add(session, schema.Promotion, {"request": request}, row)

    registry.database.transact(write, "promotion intended", project=project, request=request)


def _carry_out(registry: Registry, request: str, project: str, version: str) -> schema.Promotion:
    """Move the alias, and say whether it worked."""
    try:
        move_alias(registry.workspace, project, CHAMPION, version)
    except ModelError as error:
        _change(registry, request, {"state": FAILED, "settled": datetime.now(UTC), "reason": str(error)[:500]})
        raise
    return _change(registry, request, {"state": CONFIRMED, "settled": datetime.now(UTC)})


def _change(registry: Registry, request: str, values: Mapping[str, Any]) -> schema.Promotion:
    def write(session: Session) -> schema.Promotion:
        row = session.scalars(select(schema.Promotion).where(schema.Promotion.request == request)).one()
        change(session, row, **values)
        return row

    return registry.database.transact(write, f"promotion {values['state']}", request=request)
