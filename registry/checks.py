"""The checks of an audit: every file of a map's lineage against the registry, and the registry against itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CoreError
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.manifest import MANIFEST, Manifest, read_manifest, stage_key
from olmoearth_core.progress import Progress
from olmoearth_core.project import PROJECT_FILE
from olmoearth_core.stages import PLACES
from registry import git, schema
from registry.dvc_store import find_repository, stored_files
from registry.errors import ModelError
from registry.facts import SCENES
from registry.inputs import check_inputs
from registry.mlflow_run import WEIGHTS
from registry.models import artifact_folder, get_model
from registry.outputs import Output, find_output
from registry.report import Check
from registry.workspace import Workspace

NAMES = {
    "postprocess": "products",
    "infer": "tiles",
    "finetune": "model files",
    "preprocess": "dataset",
    "export": "export",
}
"""Stage -> what a person calls its outputs."""
AFTER = {"postprocess": "infer", "infer": "finetune", "finetune": "preprocess", "preprocess": "export"}


def verify(session: Session, workspace: Workspace, made: schema.Map, file: Path, progress: Progress) -> list[Check]:
    """Verify a map's whole lineage.

    Args:
        session: of the registry.
        workspace: names MLflow.
        made: the map.
        file: the audited file; the project folder around it is looked into first.
        progress: who listens.
    """
    runs = lineage(session, made)
    checks = [_check_chain(made, runs)]
    outputs: dict[str, Output] = {}
    with progress.bar("verifying checksums", len(runs) + 1) as advance:
        for run in runs:
            roots = _roots(session, run, file)
            check, output = _check_outputs(run, roots)
            checks += [check, _check_key(session, run, output)]
            if (inputs := check_inputs(run, roots)) is not None:
                checks.append(inputs)
            if output is not None:
                outputs[run.stage] = output
            advance(1)
        checks += _check_rows(made, outputs)
        checks.append(_check_artifact(workspace, made.model, outputs.get("finetune")))
        advance(1)
    return checks


def lineage(session: Session, made: schema.Map) -> list[schema.Run]:
    """The runs behind a map, from the map back to the export, as far as the registry knows them.

    Where several runs made the same bytes of the same bytes, it is the newest.
    """
    dataset = made.model.dataset if made.model else None
    runs = [
        made.run,
        made.tiles_run,
        made.model.run if made.model else None,
        dataset.run if dataset else None,
        dataset.export_run if dataset else None,
    ]
    return [_newest(session, run) for run in runs if run is not None]


def _same_outputs(session: Session, run: schema.Run) -> list[schema.Run]:
    """The runs that made the same outputs, newest first: a label file saved with other white space gives a new key."""
    wanted = select(schema.Run).where(
        schema.Run.project_id == run.project_id, schema.Run.stage == run.stage, schema.Run.digest == run.digest
    )
    return list(session.scalars(wanted.order_by(schema.Run.id.desc())))


def _newest(session: Session, run: schema.Run) -> schema.Run:
    before = AFTER.get(run.stage, "")
    same = (other for other in _same_outputs(session, run) if other.inputs.get(before) == run.inputs.get(before))
    return next(same, run)


def _check_chain(made: schema.Map, runs: list[schema.Run]) -> Check:
    """Each stage's input is the digest of what the stage before it made, as far as the export."""
    stages = {run.stage: run for run in runs}
    missing = [stage for stage in NAMES if stage not in stages]
    if missing:
        return Check("lineage", "missing", f"the registry does not know the stages {', '.join(missing)} of this map")
    wrong = [
        f"{stage} read {before} {run.inputs.get(before)}, recorded is {stages[before].digest}"
        for stage, run in stages.items()
        if (before := AFTER.get(stage)) and run.inputs.get(before) != stages[before].digest
    ]
    named = ((made, "postprocess"), (made.model, "finetune"), (made.model and made.model.dataset, "preprocess"))
    wrong += [
        f"{stage} made {stages[stage].digest}, the registry names {row.digest}"
        for row, stage in named
        if row is not None and row.digest != stages[stage].digest
    ]
    if wrong:
        return Check("lineage", "differs", "the stages do not follow from each other", wrong)
    return Check("lineage", "ok", "each stage read what the stage before it made, from the map to the export")


def _check_key(session: Session, run: schema.Run, output: Output | None) -> Check:
    """The stage key follows from stage, version, settings and inputs; the manifest and the registry agree on them."""
    what = f"stage key of {run.stage}"
    wrong = []
    if stage_key(run.stage, run.stage_version, run.settings, run.inputs) != run.key:
        wrong.append("the registry's settings and inputs do not give the registry's key")
    if output is not None:
        manifest = output.manifest
        if stage_key(manifest.stage, manifest.stage_version, manifest.settings, manifest.inputs) != manifest.key:
            wrong.append(f"{output.folder / MANIFEST}: its settings and inputs do not give its key")
        told = [other for other in _same_outputs(session, run) if other.key == manifest.key]
        if not told:
            wrong.append(f"{output.folder / MANIFEST}: its key is {manifest.key}, recorded is {run.key}")
        if all(manifest.summary != other.summary for other in told or [run]):
            wrong.append(
                f"{output.folder / MANIFEST}: its summary is not the recorded one; remove {output.folder} and run "
                f"`olmoearth {run.stage}` to have it made again"
            )
    if wrong:
        return Check(what, "differs", "recomputed from what is recorded", wrong)
    return Check(what, "ok", "recomputed from stage version, settings and inputs")


def _check_outputs(run: schema.Run, roots: list[Path]) -> tuple[Check, Output | None]:
    """Every file that the run made, against its manifest, and the manifest against the registry."""
    what = NAMES[run.stage]
    for root in roots:
        output = find_output(root, run.stage, run.digest)
        if output is not None:
            files = {name: output.path(name) for name in output.manifest.outputs}
            return _compare(what, output.manifest, files, str(output.folder)), output
    for root in roots:
        found = _from_dvc(run, root)
        if found is not None:
            return found
    for root in roots:
        if "*" in PLACES[run.stage] and (root / run.folder).is_dir():
            detail = f"{root / run.folder}: its {MANIFEST} is not the recorded one"
            return Check(what, "differs", detail, [f"recorded digest {run.digest}"]), None
    where = f"made in {run.project_folder} on {run.host}" if run.host else f"found in {run.project_folder}"
    return Check(what, "missing", f"{run.folder} with the recorded digest is not here; it was {where}"), None


def _from_dvc(run: schema.Run, root: Path) -> tuple[Check, Output | None] | None:
    """A dataset version that a newer one replaced in the folder, from DVC's cache or a local remote."""
    top = git.top(root) if run.dvc_hash and root.is_dir() else None
    repository = find_repository(root, top.resolve()) if top else None
    stored = stored_files(repository, run.dvc_hash) if repository and run.dvc_hash else None
    if repository is None or stored is None or MANIFEST not in stored:
        return None
    try:
        manifest = Manifest.model_validate_json(stored[MANIFEST].read_bytes())
    except ValueError:
        return None
    where = f"DVC's store of {repository}, {run.dvc_hash}"
    if manifest.outputs_digest != run.digest:
        return Check(NAMES[run.stage], "differs", f"{where}: its {MANIFEST} is not the recorded one"), None
    return _compare(NAMES[run.stage], manifest, stored, where), Output(repository, manifest, stored)


def _compare(what: str, manifest: Manifest, files: Mapping[str, Path], where: str) -> Check:
    """The files at hand against the checksums of a manifest."""
    gone, wrong = [], []
    for name, expected in manifest.outputs.items():
        path = files.get(name)
        if path is None or not path.is_file():
            gone.append(f"{name}: missing")
        elif path.stat().st_size != expected.bytes or sha256_file(path) != expected.sha256:
            wrong.append(f"{name}: content differs from its checksum")
    count = len(manifest.outputs)
    if wrong:
        return Check(what, "differs", f"{len(wrong)} of {count} files in {where} changed", wrong + gone)
    if gone:
        return Check(what, "missing", f"{len(gone)} of {count} files are gone from {where}", gone)
    return Check(what, "ok", f"{count} files in {where}")


def _check_rows(made: schema.Map, outputs: Mapping[str, Output]) -> list[Check]:
    """What the registry's rows say of products, tiles, weights and scenes, against manifests and scene lists."""
    checks = []
    if (output := outputs.get("postprocess")) is not None:
        rows = {product.name: product.sha256 for product in made.products}
        checks.append(_same("registry: products", rows, {n: f.sha256 for n, f in output.manifest.outputs.items()}))
    if (output := outputs.get("infer")) is not None:
        rows = {tile.name: tile.sha256 for tile in made.tiles}
        tiles = {n: f.sha256 for n, f in output.manifest.outputs.items() if n.endswith(".tif")}
        checks += [_same("registry: tiles", rows, tiles), _same_scenes("registry: scenes", made.scenes, output)]
    if (output := outputs.get("finetune")) is not None and made.model is not None:
        weights = output.manifest.outputs[WEIGHTS].sha256
        checks.append(_same("registry: weights", {WEIGHTS: made.model.weights_sha256}, {WEIGHTS: weights}))
    dataset = made.model.dataset if made.model else None
    if (output := outputs.get("export")) is not None and dataset is not None:
        checks.append(_same_scenes("registry: scenes of the dataset", dataset.scenes, output))
    return checks


def _same_scenes(what: str, rows: Iterable[schema.Scene], output: Output) -> Check:
    try:
        listed = read_scenes(output.path(SCENES), output.folder).scenes
    except CoreError as error:
        return Check(what, "missing", str(error))
    return _same(
        what,
        {f"{scene.modality} {scene.name}": scene.acquired.isoformat() for scene in rows},
        {f"{scene.modality} {scene.id}": scene.datetime.isoformat() for scene in listed},
    )


def _same(what: str, rows: Mapping[str, str], files: Mapping[str, str]) -> Check:
    wrong = [
        f"{name}: recorded is {rows.get(name, 'nothing')}, the files say {files.get(name, 'nothing')}"
        for name in sorted({*rows, *files})
        if rows.get(name) != files.get(name)
    ]
    if wrong:
        return Check(what, "differs", "the registry's rows do not say what the files say", wrong)
    return Check(what, "ok", f"{len(rows)} rows say what the files say")


def _check_artifact(workspace: Workspace, model: schema.ModelVersion | None, output: Output | None) -> Check:
    """The model version as MLflow keeps it, against the model folder's manifest or at least the recorded weights."""
    what = "model version (MLflow)"
    if model is None:
        return Check(what, "missing", "the registry does not know the model of this map")
    try:
        registered = get_model(workspace, model.mlflow_name, model.mlflow_version)
        with artifact_folder(workspace, registered) as folder:
            manifest = output.manifest if output is not None else _manifest(folder, model.digest)
            if manifest is None:
                return Check(what, "differs", f"{folder}: its {MANIFEST} is not the recorded one")
            if registered.digest != model.digest or registered.weights_sha256 != model.weights_sha256:
                return Check(what, "differs", f"the tags of {registered.uri} name another model than the registry")
            return _compare(what, manifest, {name: folder / name for name in manifest.outputs}, registered.uri)
    except ModelError as error:
        return Check(what, "missing", str(error))


def _manifest(folder: Path, digest: str) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except CoreError:
        return None
    return manifest if manifest is not None and manifest.outputs_digest == digest else None


def _roots(session: Session, run: schema.Run, file: Path) -> list[Path]:
    """Project folders that may hold what the run made: the one around the file, then those recorded, latest first."""
    around = [folder for folder in file.parents if (folder / PROJECT_FILE).is_file()][:1]
    known = session.scalars(
        select(schema.Run.project_folder)
        .where(schema.Run.project_id == run.project_id, schema.Run.stage == run.stage, schema.Run.digest == run.digest)
        .order_by(schema.Run.id.desc())
    )
    return list(dict.fromkeys([*around, *(Path(folder) for folder in known)]))
