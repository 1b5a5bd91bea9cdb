"""What MLflow has, against what the registry recorded: the files of a model version, and who bears which alias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Select, select

from olmoearth_core.errors import CoreError
from olmoearth_core.manifest import MANIFEST, Manifest, read_manifest
from registry.audit.case import Case
from registry.audit.files import compare
from registry.audit.report import Check
from registry.errors import ModelError
from registry.mlflow.client import absent
from registry.mlflow.models import alias_of, artifact_folder, get_model
from registry.mlflow.promotions import moved
from registry.tables import schema

ARTIFACT, ALIASES = "model version (MLflow)", "aliases (MLflow)"


def check_mlflow(case: Case) -> Iterator[Check]:
    """The model version as MLflow keeps it, and whether its aliases are those of the recorded promotions."""
    if case.found.kind not in ("map", "model"):
        return
    model = case.origin.model
    if model is None:
        yield Check(ARTIFACT, "missing", "the registry does not know the model of this map")
        return
    if (why := absent(case.workspace)) is not None:  # MLflow would make an empty one, and take its time
        yield Check(ARTIFACT, "missing", why)
        return
    yield _check_artifact(case, model)
    promotions = list(case.session.scalars(_settled(model)))
    if promotions:
        yield _check_aliases(case, model.mlflow_name, promotions)


def _check_artifact(case: Case, model: schema.ModelVersion) -> Check:
    """The files, against the model folder's manifest or at least the recorded weights."""
    output = case.outputs.get("finetune")
    try:
        registered = get_model(case.workspace, model.mlflow_name, model.mlflow_version)
        with artifact_folder(case.workspace, registered) as folder:
            manifest = output.manifest if output is not None else _manifest(folder, model.digest)
            if manifest is None:
                return Check(ARTIFACT, "differs", f"{folder}: its {MANIFEST} is not the recorded one")
            if registered.digest != model.digest or registered.weights_sha256 != model.weights_sha256:
                detail = f"the tags of {registered.uri} name another model than the registry"
                return Check(ARTIFACT, "differs", detail)
            return compare(ARTIFACT, manifest, {name: folder / name for name in manifest.outputs}, registered.uri)
    except ModelError as error:
        return Check(ARTIFACT, "missing", str(error))


def _manifest(folder: Path, digest: str) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except CoreError:
        return None
    return manifest if manifest is not None and manifest.outputs_digest == digest else None


def _settled(model: schema.ModelVersion) -> Select[tuple[schema.Promotion]]:
    """The promotions of the model's project that came to something, the newest first."""
    wanted = select(schema.Promotion).where(schema.Promotion.project_id == model.project_id)
    return wanted.where(schema.Promotion.state != "failed").order_by(schema.Promotion.id.desc())


def _check_aliases(case: Case, name: str, promotions: Sequence[schema.Promotion]) -> Check:
    """Each alias is where the last promotion put it. Where it is not, the map stays what it was made from."""
    last = {promotion.alias: promotion for promotion in reversed(promotions)}
    try:
        bearers = {alias: alias_of(case.workspace, name, alias) for alias in last}
    except ModelError as error:
        return Check(ALIASES, "missing", str(error))
    versions = {alias: None if model is None else model.version for alias, model in bearers.items()}
    wrong = [said for alias, promotion in sorted(last.items()) if (said := moved(promotion, versions[alias]))]
    if wrong:
        return Check(ALIASES, "changed", f"MLflow and the registry do not agree who is what in {name}", wrong)
    return Check(ALIASES, "ok", f"{', '.join(sorted(last))} of {name}: where the last recorded promotion put it")
