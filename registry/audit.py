"""Which model, data, code and scenes made this map, and does every checksum still hold?

`audit` works from the file alone. It is found by its checksum, else by the id in its tags, else (tags stripped, or
compressed anew) by its pixels. What is found is verified down to the export: nothing is believed because a row says so.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from olmoearth_core.progress import Progress, Silent
from registry import schema
from registry.checks import lineage, verify
from registry.database import Database
from registry.errors import AuditError
from registry.fingerprint import pixels_sha256, tags_of
from registry.report import (
    AuditReport,
    Check,
    DatasetFacts,
    FoundBy,
    MapFacts,
    ModelFacts,
    RunFacts,
    SceneFacts,
    Verdict,
)
from registry.workspace import Workspace

MAP_ID, PROVENANCE, MODEL, PROJECT = "OLMOEARTH_MAP_ID", "OLMOEARTH_PROVENANCE", "OLMOEARTH_MODEL", "OLMOEARTH_PROJECT"


def audit(workspace: Workspace, path: Path, progress: Progress | None = None) -> AuditReport:
    """Find out what made the map file `path`, and verify all of it.

    Any product of a map will do (map.tif, probabilities.tif, item.json, ...), in its place or copied elsewhere.

    Args:
        workspace: whose registry is asked.
        path: the file.
        progress: who listens; every byte of the lineage is read.

    Raises:
        AuditError: the file is not there or cannot be read.
        DatabaseError: the registry cannot be reached.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise AuditError(f"{path}: no such file. Name a map's file, for example maps/<map id>/map.tif of a project.")
    try:
        checksum = sha256_file(path)
    except OSError as error:
        raise AuditError(f"{path}: cannot be read ({error.strerror}).") from error
    database = Database(workspace.registry_url)
    try:
        with database.read() as session:
            return _audit(session, workspace, path, checksum, progress or Silent())
    finally:
        database.close()


def _audit(session: Session, workspace: Workspace, path: Path, checksum: str, progress: Progress) -> AuditReport:
    tags, pixels, reason = _look(path)
    claimed = tags.get(MAP_ID)
    found, found_by, product = _find(session, checksum, claimed, pixels)
    if found is None or found_by is None:
        return AuditReport(path, "unknown", _unknown(workspace, path, claimed, reason), [])
    checks = [_check_file(found, found_by, product)]
    if tags:
        checks.append(_check_tags(found, tags))
    checks += verify(session, workspace, found, path, progress)
    verdict = _verdict(checks)
    runs = lineage(session, found)
    return AuditReport(
        path=path,
        verdict=verdict,
        sentence=_sentence(found, verdict, checks),
        checks=checks,
        found_by=found_by,
        map=_map_facts(found),
        model=_model_facts(found.model),
        dataset=_dataset_facts(found.model.dataset if found.model else None, runs),
        runs=[_run_facts(run) for run in runs],
    )


def _look(path: Path) -> tuple[dict[str, str], str | None, str]:
    """Tags, digest of the pixels, and, for a file that is no raster, why not."""
    tags: dict[str, str] = {}
    try:
        tags = tags_of(path)
        return tags, pixels_sha256(path), ""
    except AuditError as error:
        return tags, None, str(error)


def _find(
    session: Session, checksum: str, claimed: str | None, pixels: str | None
) -> tuple[schema.Map | None, FoundBy | None, schema.Product | None]:
    """The map that the file belongs to, how it was found, and the product that it is."""
    products = select(schema.Map, schema.Product).join(schema.Product).order_by(schema.Map.id.desc())
    same_bytes = products.where(schema.Product.sha256 == checksum)
    named = schema.Map.name == claimed
    tries: list[tuple[FoundBy, Select[tuple[schema.Map, schema.Product]]]] = [("checksum", same_bytes)]
    if claimed is not None:
        tries.insert(0, ("checksum", same_bytes.where(named)))
    if pixels is not None:  # a comparison with None would be true of every product that is no raster
        same_pixels = products.where(schema.Product.pixels_sha256 == pixels)
        tries.append(("pixels", same_pixels) if claimed is None else ("tags", same_pixels.where(named)))
    for found_by, wanted in tries:
        if (row := session.execute(wanted.limit(1)).first()) is not None:
            return row[0], found_by, row[1]
    if claimed is not None:
        by_name = session.scalars(select(schema.Map).where(named).order_by(schema.Map.id.desc()).limit(1)).first()
        return by_name, "tags", None
    return None, None, None


def _check_file(made: schema.Map, found_by: FoundBy, product: schema.Product | None) -> Check:
    if product is None:
        return Check(
            "this file",
            "differs",
            f"its tags say that it is {made.name}, but neither its bytes nor its pixels are those of that map: "
            "it was edited, or its tags were forged",
        )
    if found_by == "checksum":
        return Check("this file", "ok", f"{product.name} of {made.name}, byte for byte")
    how = "its tags were stripped" if found_by == "pixels" else "it was written anew"
    return Check("this file", "ok", f"{how}; pixels, georeference and colours are those of {product.name}")


def _check_tags(made: schema.Map, tags: dict[str, str]) -> Check:
    expected = {MAP_ID: made.name, PROVENANCE: made.run.key, PROJECT: made.project.name}
    if made.model is not None:
        expected[MODEL] = made.model.weights_sha256
    wrong = [
        f"{name} is {tags.get(name, 'missing')}, recorded is {value}"
        for name, value in expected.items()
        if tags.get(name) != value
    ]
    if wrong:
        return Check("tags", "differs", "the tags of the file do not say what the registry recorded", wrong)
    return Check("tags", "ok", "map id, provenance, project and model are those recorded")


def _unknown(workspace: Workspace, path: Path, claimed: str | None, reason: str) -> str:
    if claimed is not None:
        return (
            f"{path}: says that it is the map {claimed}, which the registry of this workspace ({workspace.home}) does "
            "not know. It is of another workspace (set OLMOEARTH_HOME or OLMOEARTH_REGISTRY_URL), or its tags are "
            "forged."
        )
    if reason:
        return (
            f"{reason.removesuffix('.')}, and no product of a map that this workspace's registry knows by its checksum."
        )
    return (
        f"{path}: a raster without the platform's tags, and neither its checksum nor its pixels are those of a map in "
        f"the registry of this workspace ({workspace.home})."
    )


def _verdict(checks: list[Check]) -> Verdict:
    found = {check.status for check in checks}
    return "differs" if "differs" in found else "incomplete" if "missing" in found else "verified"


def _sentence(made: schema.Map, verdict: Verdict, checks: list[Check]) -> str:
    if verdict == "verified":
        changed = [problem for check in checks if check.status == "changed" for problem in check.problems]
        if not changed:
            return f"Verified: this is {made.name}; all {len(checks)} checks hold."
        return (
            f"Verified: this is {made.name}; every output and record holds. What it was made from is not all as it was "
            f"({', '.join(dict.fromkeys(changed))}); the record names it by sha256."
        )
    wrong = ", ".join(check.what for check in checks if check.status == "differs")
    gone = ", ".join(check.what for check in checks if check.status == "missing")
    if verdict == "differs":
        return f"Not verified: what was recorded of {made.name} does not match for: {wrong}."
    return f"Not verified: nothing contradicts the record of {made.name}, but this cannot be checked here: {gone}."


def _map_facts(made: schema.Map) -> MapFacts:
    return MapFacts(
        id=made.name,
        project=made.project.name,
        date=made.date,
        digest=made.digest,
        recorded=made.created,
        products={product.name: product.sha256 for product in made.products},
        tiles=len(made.tiles),
        scenes=[_scene_facts(scene) for scene in made.scenes],
    )


def _model_facts(model: schema.ModelVersion | None) -> ModelFacts | None:
    if model is None:
        return None
    base = model.base
    random = base.get("source") in (None, "random")
    return ModelFacts(
        name=model.mlflow_name,
        version=model.mlflow_version,
        weights_sha256=model.weights_sha256,
        encoder=model.encoder,
        base=f"random weights, seed {base.get('seed')}" if random else f"{base['source']}, sha256 {base.get('sha256')}",
        metrics=model.metrics,
    )


def _dataset_facts(dataset: schema.DatasetVersion | None, runs: list[schema.Run]) -> DatasetFacts | None:
    if dataset is None:
        return None
    run = next((run for run in runs if run.stage == "preprocess"), dataset.run)
    return DatasetFacts(
        digest=dataset.digest,
        dvc_hash=dataset.dvc_hash,
        labels={n: digest for n, digest in run.inputs.items() if n != "export" and not n.startswith("splits/")},
        summary=run.summary,
        scenes=[_scene_facts(scene) for scene in dataset.scenes],
    )


def _scene_facts(scene: schema.Scene) -> SceneFacts:
    return SceneFacts(scene.name, scene.modality, scene.catalogue, scene.acquired, scene.cloud_cover)


def _run_facts(run: schema.Run) -> RunFacts:
    return RunFacts(**{column.name: getattr(run, column.name) for column in fields(RunFacts)})
