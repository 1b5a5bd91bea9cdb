"""From a map in the registry to a folder in which it can be made again, without a project and without its machine.

Where each part comes from: settings, area, scene list and plan from the artifact store (else from a project folder that
still has them), the model from where MLflow keeps its files (else from a project folder, or from MLflow), the training
set from its DVC remote. Everything is held against the checksums of the registry's rows before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.again.recipe import DATASET, INPUTS, MODEL, TRAINING, Recipe, Recorded, write_recipe
from olmoearth_core.errors import CoreError, StoreError
from olmoearth_core.imagery.address import is_url
from olmoearth_core.imagery.presets import locate
from olmoearth_core.manifest import MANIFEST, damage, read_manifest
from olmoearth_core.objects import open_objects
from olmoearth_core.project import PROJECT_FILE, load_project
from olmoearth_core.stages import STAGES
from olmoearth_core.store import write_bytes
from registry.errors import ArtifactError, ModelError, ReproduceError, VersioningError
from registry.inputs import places_of, was_fetched
from registry.mlflow.models import artifact_folder, find_model
from registry.outputs import find_output
from registry.reproduce.behind import Behind
from registry.reproduce.kept import PLAN
from registry.reproduce.sources import Sources
from registry.tables import schema
from registry.versioning.dvc_pull import pull_version
from registry.workspace import Workspace


@dataclass(frozen=True)
class Wish:
    """What is to be made again of a map."""

    tiles: int | None = None
    """A sample of so many tiles; None for all tiles and the products."""
    dataset: bool = False
    """Fetch the training set as well."""
    retrain: bool = False
    """Train the model again on it."""
    catalogue: str | None = None
    """Where the imagery lies now; None for where it lay."""
    processes: int = 1


def lay_out(workspace: Workspace, behind: Behind, folder: Path, wish: Wish) -> Recipe:
    """Lay what the map was made of into `folder`, with the recipe.

    Raises:
        ReproduceError: something of it is not to be had.
        ArtifactError, ModelError, VersioningError: a store cannot be reached, or gave other bytes than were recorded.
    """
    made, sources = behind.map, Sources(workspace, behind.runs)
    runs = {stage: behind.run(stage) for stage in ("postprocess", "infer", "finetune")}
    assert made.model is not None  # its run is there
    _lay_settings(sources, runs["postprocess"], [runs["postprocess"], runs["infer"]], folder)
    recorded = {stage: _lay_inputs(sources, runs[stage], folder) for stage in ("infer", "postprocess")}
    _lay_plan(sources, runs["infer"], folder)
    _lay_model(workspace, sources, made.model, behind.alike["finetune"], folder / MODEL)
    if wish.dataset or wish.retrain:
        _lay_dataset(workspace, made.model.dataset, folder / DATASET)
    if wish.retrain:  # a champion may have been trained by other settings than those of today's map
        _lay_settings(sources, runs["finetune"], [runs["finetune"]], folder / TRAINING)
    recipe = Recipe(
        map_id=made.name,
        infer=recorded["infer"],
        postprocess=recorded["postprocess"],
        finetune=_lay_inputs(sources, runs["finetune"], folder / TRAINING) if wish.retrain else None,
        tiles=_sample([tile.name.removesuffix(".tif") for tile in made.tiles], wish.tiles),
        imagery=_imagery(folder / recorded["infer"].files["scenes"], runs["infer"], sources.roots, wish.catalogue),
        processes=wish.processes,
    )
    write_recipe(folder, recipe)
    return recipe


def _sample(names: list[str], count: int | None) -> list[str] | None:
    """So many names, evenly spread; None for all."""
    if count is None or count >= len(names):
        return None
    return [names[(2 * k + 1) * len(names) // (2 * count)] for k in range(count)]


def _lay_settings(sources: Sources, run: schema.Run, alike: Iterable[schema.Run], folder: Path) -> None:
    """project.yaml as it was when `run` was recorded; where it was not kept, of a project folder whose settings are
    those of the runs `alike`."""
    target = folder / PROJECT_FILE
    if run.project_sha256 is not None:
        sources.give(run.project_sha256, target, PROJECT_FILE, (root / PROJECT_FILE for root in sources.roots))
        return
    for root in sources.roots:
        try:
            project = load_project(root)
        except CoreError:
            continue
        if all(_plain(STAGES[one.stage].settings(project)) == one.settings for one in alike):
            write_bytes(target, (root / PROJECT_FILE).read_bytes())
            return
    raise ReproduceError(
        f"{PROJECT_FILE} of this map was not kept (it was made by an older version of the platform), and no project "
        f"folder here has its settings: looked at {', '.join(map(str, sources.roots))}."
    )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _lay_inputs(sources: Sources, run: schema.Run, folder: Path) -> Recorded:
    """The files that a stage read; a checkpoint where project.yaml names it."""
    files = {}
    for name, digest in run.inputs.items():
        if name in STAGES or was_fetched(run.settings, name):
            continue
        place = _place(run, name, folder)
        candidates = (path for root in sources.roots for path in places_of(run.settings, name, root))
        sources.give(digest, folder / place, f"the file '{name}' that {run.stage} read", candidates)
        files[name] = place
    return Recorded(key=run.key, version=run.stage_version, settings=run.settings, summary=run.summary, files=files)


def _place(run: schema.Run, name: str, folder: Path) -> str:
    """Where an input goes: what lies beside a shapefile beside it, all else by its own name."""
    if name == "scenes":
        return f"{INPUTS}/frozen-scenes.json"
    path = next(places_of(run.settings, name, folder))
    if name.startswith("weights"):
        if not path.is_relative_to(folder):
            raise ReproduceError(
                f"{path}: the checkpoint lay outside of the project; the model cannot be trained again."
            )
        return path.relative_to(folder).as_posix()
    return f"{INPUTS}/{path.name}"


def _lay_plan(sources: Sources, run: schema.Run, folder: Path) -> None:
    """plan.json, found through the names and checksums of the tiles' run; not there where nobody kept it."""
    here = (find_output(root, "infer", run.digest) for root in sources.roots)
    listed = folder / INPUTS / "tiles.json"
    if sources.find(run.digest, listed):
        sources.find(json.loads(listed.read_bytes())[PLAN], folder / PLAN, (o.path(PLAN) for o in here if o))
        return
    for output in here:
        if output is not None:
            write_bytes(folder / PLAN, output.path(PLAN).read_bytes())
            return


def _lay_model(
    workspace: Workspace, sources: Sources, model: schema.ModelVersion, runs: Iterable[schema.Run], target: Path
) -> None:
    """The model's files, each held against the manifest, and that against the registry's digest."""
    wrong = []
    for run in runs:
        try:
            if model.source and _read_model(model.source, Path(run.folder).name, model.digest, target):
                return
        except ArtifactError as error:
            wrong.append(str(error))
    for root in sources.roots:
        if (output := find_output(root, "finetune", model.digest)) and not damage(output.folder, output.manifest):
            for name in (MANIFEST, *output.manifest.outputs):
                write_bytes(target / name, output.path(name).read_bytes())
            return
    try:
        registered = find_model(workspace, model.mlflow_name, model.digest)
        if registered is not None:
            with artifact_folder(workspace, registered) as folder:
                if _read_model(str(folder.parent.parent), folder.name, model.digest, target):
                    return
    except (ModelError, ArtifactError) as error:
        wrong.append(str(error))
    raise ReproduceError(
        f"{model.mlflow_name}, version {model.mlflow_version}: its files are not to be had"
        f"{': ' + '; '.join(wrong) if wrong else ' (looked where MLflow kept them, in project folders and in MLflow)'}."
    )


def _read_model(source: str, name: str, digest: str, target: Path) -> bool:
    """Copy the model `name` of MLflow's artifact folder `source`; False where it is not there.

    Raises:
        ArtifactError: the place cannot be reached, or has other files than were recorded.
    """
    inner = f"artifacts/{name}"
    try:
        objects = open_objects(source)
        if not objects.copy(f"{inner}/{MANIFEST}", target / MANIFEST):
            return False
        manifest = read_manifest(target)
        if manifest is None or manifest.outputs_digest != digest:
            raise ArtifactError(f"{source}: its {MANIFEST} is not that of the recorded model {digest[:16]}.")
        for file in manifest.outputs:
            objects.copy(f"{inner}/{file}", target / file)
    except StoreError as error:
        raise ArtifactError(str(error)) from error
    if wrong := damage(target, manifest):
        raise ArtifactError(f"{source}: {'; '.join(wrong[:3])}.")
    return True


def _lay_dataset(workspace: Workspace, dataset: schema.DatasetVersion | None, target: Path) -> None:
    if dataset is None or dataset.dvc_hash is None:
        raise ReproduceError("The registry does not know the training set of this map's model.")
    try:
        pull_version(dataset.remote or workspace.dvc_remote, dataset.dvc_hash, dataset.digest, target)
    except VersioningError:
        if dataset.remote in (None, workspace.dvc_remote):
            raise
        pull_version(workspace.dvc_remote, dataset.dvc_hash, dataset.digest, target)  # it may have moved since


def _imagery(
    scenes: Path, run: schema.Run, roots: Iterable[Path], catalogue: str | None
) -> str | dict[str, str] | None:
    """Where the catalogue of the scene list lies, where it is a path; None where the list says it as it is.

    Raises:
        ReproduceError: it was a path, and nothing is there.
    """
    named = json.loads(scenes.read_bytes())["catalogue"]
    if isinstance(named, dict):
        found = {modality: _catalogue(name, run, roots, catalogue) for modality, name in named.items()}
        return None if found == named else found
    return None if (here := _catalogue(named, run, roots, catalogue)) == named else here


def _catalogue(name: str, run: schema.Run, roots: Iterable[Path], catalogue: str | None) -> str:
    if catalogue is not None:
        return catalogue if is_url(catalogue) or "@" in catalogue else str(Path(catalogue).expanduser().absolute())
    for root in roots:
        place = locate(name, root)
        if is_url(place):
            return name
        if Path(place).is_file():
            return place
    raise ReproduceError(
        f"the imagery of this map lay in {locate(name, Path(run.project_folder))} on {run.host or 'some machine'}, and "
        "is not here. Name the place where the catalogue lies now with --catalogue."
    )
