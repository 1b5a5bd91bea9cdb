"""The registry's rows against each other, and against the manifests and scene lists that lie here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from olmoearth_core.errors import CoreError
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.manifest import MANIFEST, stage_key
from registry.audit.case import Case
from registry.audit.lineage import AFTER, STAGES_BEHIND
from registry.audit.report import Check
from registry.facts import SCENES
from registry.mlflow.run import WEIGHTS
from registry.outputs import Output
from registry.tables import schema


def check_chain(case: Case) -> Iterator[Check]:
    """Each stage's input is the digest of what the stage before it made, as far as the export."""
    expected, origin = STAGES_BEHIND.get(case.found.kind), case.origin
    if expected is None:
        return
    stages = {run.stage: run for run in origin.runs}
    missing = [stage for stage in expected if stage not in stages]
    if missing:
        detail = f"the registry does not know the stages {', '.join(missing)} of {case.found.name}"
        yield Check("lineage", "missing", detail)
        return
    wrong = [
        f"{stage} read {before} {run.inputs.get(before)}, recorded is {stages[before].digest}"
        for stage, run in stages.items()
        if (before := AFTER.get(stage)) and run.inputs.get(before) != stages[before].digest
    ]
    named = ((origin.map, "postprocess"), (origin.model, "finetune"), (origin.dataset, "preprocess"))
    wrong += [
        f"{stage} made {stages[stage].digest}, the registry names {row.digest}"
        for row, stage in named
        if row is not None and row.digest != stages[stage].digest
    ]
    if wrong:
        yield Check("lineage", "differs", "the stages do not follow from each other", wrong)
    else:
        detail = f"each stage read what the stage before it made, from the {case.found.kind} to the export"
        yield Check("lineage", "ok", detail)


def check_key(run: schema.Run, alike: Sequence[schema.Run], output: Output | None) -> Check:
    """The stage key follows from stage, version, settings and inputs; the manifest and the registry agree on them."""
    what = f"stage key of {run.stage}"
    wrong = []
    if stage_key(run.stage, run.stage_version, run.settings, run.inputs) != run.key:
        wrong.append("the registry's settings and inputs do not give the registry's key")
    if output is not None:
        manifest = output.manifest
        if stage_key(manifest.stage, manifest.stage_version, manifest.settings, manifest.inputs) != manifest.key:
            wrong.append(f"{output.folder / MANIFEST}: its settings and inputs do not give its key")
        told = [other for other in alike if other.key == manifest.key]
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


def check_rows(case: Case) -> Iterator[Check]:
    """What the rows say of products, tiles, weights and scenes, against manifests and scene lists."""
    origin, outputs = case.origin, case.outputs
    made, model, dataset = origin.map, origin.model, origin.dataset
    if made is not None and (output := outputs.get("postprocess")) is not None:
        rows = {product.name: product.sha256 for product in made.products}
        yield _same("registry: products", rows, {n: f.sha256 for n, f in output.manifest.outputs.items()})
    if made is not None and (output := outputs.get("infer")) is not None:
        rows = {tile.name: tile.sha256 for tile in made.tiles}
        tiles = {n: f.sha256 for n, f in output.manifest.outputs.items() if n.endswith(".tif")}
        yield _same("registry: tiles", rows, tiles)
        yield _same_scenes("registry: scenes", made.scenes, output)
    if model is not None and (output := outputs.get("finetune")) is not None:
        weights = output.manifest.outputs[WEIGHTS].sha256
        yield _same("registry: weights", {WEIGHTS: model.weights_sha256}, {WEIGHTS: weights})
    if dataset is not None and (output := outputs.get("export")) is not None:
        yield _same_scenes("registry: scenes of the dataset", dataset.scenes, output)


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
