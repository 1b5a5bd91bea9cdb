"""Making a map again: the tiles of a recipe by the recorded plan, the products of all of them, the model on request.

No search is made and no key is looked up: what is read is what the recipe's folder holds. What this code cannot do as
it was recorded (another device, another version of a stage) it does its own way, and says so in the notes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from olmoearth_core.again.recipe import (
    DATASET,
    MAP,
    MODEL,
    RETRAINED,
    TILES,
    TRAINING,
    Lost,
    Made,
    Recipe,
    Recorded,
    read_recipe,
    write_made,
)
from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.engines import local
from olmoearth_core.inference.infer import SCENES, make_plan
from olmoearth_core.inference.job import MapJob
from olmoearth_core.inference.journals import lost_assets
from olmoearth_core.inference.plan import Plan, read_plan, write_plan
from olmoearth_core.inference.processes import Processes
from olmoearth_core.machine import hardware, packages
from olmoearth_core.manifest import SCRATCH, Manifest, describe_outputs, read_manifest
from olmoearth_core.models.model_folder import read_card
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import Meter, StageRun, Upstream
from olmoearth_core.stages import STAGES
from olmoearth_core.store import write_bytes, write_json

READ_FROM = "scenes.json"
"""In `inputs`: the scene list with the catalogue's place of today."""


def make_again(folder: Path, progress: Progress) -> Made:
    """Do what recipe.json of `folder` says; leaves made/ in it.

    A tile that cannot be computed is told in the result with its reason, and so are assets that cannot be read.

    Raises:
        StoreError: the folder lacks a file, or the disk is full.
        CoreError: whatever a stage refuses.
    """
    start = time.perf_counter()
    recipe = read_recipe(folder)
    project = load_project(folder)
    notes = [*_other_rules(project, "infer", recipe.infer), *_other_rules(project, "postprocess", recipe.postprocess)]
    retrained = _train(folder, recipe.finetune, progress, notes) if recipe.finetune else {}
    plan = _plan(folder, project, recipe, notes)
    tiles, failed, lost = _map(folder, project, plan, recipe, progress)
    products = {} if failed or recipe.tiles is not None else _products(folder, project, recipe, progress)
    made = Made(
        tiles=tiles,
        failed=failed,
        lost=lost,
        products=products,
        retrained=retrained,
        device=plan.device,
        precision=plan.precision,
        threads=plan.threads,
        notes=notes,
        packages=list(packages()),
        hardware=hardware(),
        seconds=time.perf_counter() - start,
    )
    write_made(folder, made)
    return made


def _other_rules(project: Project, name: str, recorded: Recorded) -> list[str]:
    """What this code reads or does otherwise than the code that made the map, as far as it knows itself."""
    stage = STAGES[name]
    told = []
    if stage.version != recorded.version:
        told.append(f"the stage {name} is of version {stage.version} here, recorded is {recorded.version}")
    here: dict[str, Any] = json.loads(json.dumps(stage.settings(project)))
    if here != recorded.settings:
        names = ", ".join(sorted(_differing(here, recorded.settings)))
        told.append(f"project.yaml means other settings of {name} here than were recorded: {names}")
    return told


def _differing(one: Any, other: Any, path: str = "") -> set[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        names = one.keys() | other.keys()
        return {d for n in names for d in _differing(one.get(n), other.get(n), f"{path}.{n}" if path else str(n))}
    return set() if one == other else {path}


def _plan(folder: Path, project: Project, recipe: Recipe, notes: list[str]) -> Plan:
    """The recorded plan; what it asks for and this machine does not have is resolved anew."""
    area, source = folder / recipe.infer.files[project.config.map.area], project.config.map.area
    device = resolve_device("auto")

    def anew() -> Plan:
        imagery = project.config.imagery
        loaded = load_areas(area, source, crs=imagery.crs, resolution=imagery.resolution)
        return make_plan(project.config, loaded, read_card(folder / MODEL), device)

    try:
        plan = read_plan(folder)
    except MappingError:
        threads = recipe.infer.summary.get("threads", torch.get_num_threads())
        notes.append("plan.json of the map was not kept, or cannot be read by this code: tiles were planned anew")
        return anew().model_copy(update={"threads": threads})
    if plan.device == "cuda" and device.type != "cuda":
        notes.append("the map was computed on CUDA, which is not here: batch sizes and precision are those of a CPU")
        here = anew()
        changed = {name: getattr(here, name) for name in ("device", "precision", "batch_sizes", "threads")}
        plan = plan.model_copy(update=changed)
    return plan


def _map(
    folder: Path, project: Project, plan: Plan, recipe: Recipe, progress: Progress
) -> tuple[dict[str, str], dict[str, str], list[Lost]]:
    """Compute the tiles: (sha256 of each, why others failed, assets that could not be read)."""
    out = folder / TILES
    (out / SCRATCH).mkdir(parents=True, exist_ok=True)
    scenes = folder / recipe.infer.files["scenes"]
    write_plan(plan, out)
    write_bytes(out / SCENES, scenes.read_bytes())
    if recipe.imagery is not None:
        moved = json.loads(scenes.read_bytes()) | {"catalogue": recipe.imagery}
        scenes = folder / "inputs" / READ_FROM
        write_json(scenes, moved)
    read_scenes(scenes, folder)  # a damaged list is told at once
    area = folder / recipe.infer.files[project.config.map.area]
    unkeyed = dict.fromkeys((tile.name for tile in plan.tiles), "")  # nobody takes these tiles over
    job = MapJob(project, plan, area, scenes, folder / MODEL, out, unkeyed)
    wanted = set(recipe.tiles) if recipe.tiles is not None else {tile.name for tile in plan.tiles}
    tiles = [tile for tile in plan.tiles if tile.name in wanted]
    made: dict[str, str] = {}
    failed = dict.fromkeys(wanted - {tile.name for tile in tiles}, "it is not in the plan of this code")
    with progress.bar("mapping tiles again", len(tiles)) as advance:
        for outcome in (local if recipe.processes == 1 else Processes(recipe.processes))(job, tiles):
            if outcome.record is not None:
                made[outcome.name] = outcome.record.sha256
            else:
                failed[outcome.name] = outcome.reason
            advance(1)
    lost = [Lost(scene=one.scene, asset=one.asset, reason=one.reason) for one in lost_assets(out / SCRATCH)]
    return made, failed, lost


def _products(folder: Path, project: Project, recipe: Recipe, progress: Progress) -> dict[str, str]:
    """Make what a map consists of from all its tiles: file -> sha256."""
    tiles, out = folder / TILES, folder / MAP
    out.mkdir(parents=True, exist_ok=True)
    upstream = _as_upstream("infer", tiles, recipe.infer)
    files = {name: folder / place for name, place in recipe.postprocess.files.items()}
    STAGES["postprocess"].run(
        StageRun(project, out, {"infer": upstream}, files, progress, Meter(), recipe.postprocess.key)
    )
    return {name: output.sha256 for name, output in describe_outputs(out).items()}


def _as_upstream(stage: str, folder: Path, recorded: Recorded) -> Upstream:
    manifest = Manifest(
        stage=stage,
        stage_version=recorded.version,
        key=recorded.key,
        settings=recorded.settings,
        inputs={},
        outputs=describe_outputs(folder),
        summary=recorded.summary,
    )
    return Upstream(folder, manifest)


def _train(folder: Path, recorded: Recorded, progress: Progress, notes: list[str]) -> dict[str, str]:
    """Train the model again on the training set in the folder: file of the model -> sha256."""
    root, dataset, out = folder / TRAINING, folder / DATASET, folder / RETRAINED
    project = load_project(root)
    notes += _other_rules(project, "finetune", recorded)
    manifest = read_manifest(dataset)
    if manifest is None:
        raise StoreError(f"{dataset}: no training set is here; it has no manifest.")
    out.mkdir(parents=True, exist_ok=True)
    files = {name: root / place for name, place in recorded.files.items()}
    upstream = {"preprocess": Upstream(dataset, manifest)}
    STAGES["finetune"].run(StageRun(project, out, upstream, files, progress, Meter(), recorded.key))
    return {name: output.sha256 for name, output in describe_outputs(out).items()}
