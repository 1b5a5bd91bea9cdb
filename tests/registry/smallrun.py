"""A lifecycle that takes a second: real files, manifests, keys and a real model, small in what the stages compute.

The stages are the platform's own (settings, inputs, places); only their functions are replaced.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from affine import Affine
from rasters import CRS, LEFT, TOP, StacScene, write_catalogue
from smallmap import CLASSES, FRAMING, layers, square, write_area

from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.model_folder import save_model
from olmoearth_core.models.predictor import build_predictor
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult, StageRun, run_stage
from olmoearth_core.stages import STAGES, map_id
from olmoearth_core.store import write_json, write_text

SCORES = {
    "pixels": 100,
    "overall_accuracy": 0.75,
    "miou": 0.5,
    "classes": {"bare & built": {"iou": 0.25, "f1": None, "pixels": 40}},
    "confusion": [[1, 2], [3, 4]],
}


def small_project(folder: Path, *, name: str = "small", **training: Any) -> Project:
    """A valid project with labels, area, and a static catalogue of two scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [
        StacScene("A", "2024-05-11", layers(1), cloud_cover=5),
        StacScene("B", "2024-06-12", layers(2), cloud_cover=8),
    ]
    write_catalogue(folder / "imagery", scenes)
    write_area(folder / "area.geojson", square(0, 0, 64, 32))
    labels = {"class": "forest", "start_datetime": "2024-05-01"}
    write_area(folder / "labels" / "forest.geojson", square(8, 8, 40, 40), **labels)
    return write_settings(folder, name=name, **training)


def write_settings(
    folder: Path, *, name: str = "small", files: tuple[str, ...] = ("labels/forest.geojson",), **training: Any
) -> Project:
    """Write project.yaml."""
    config = {
        "name": name,
        "task": {"classes": CLASSES},
        "labels": {"files": list(files)},
        "imagery": {"catalogue": "imagery/catalog.json", "framing": FRAMING},
        "dataset": {},
        "model": {"patch_size": 4, "window_size": 16},
        "training": {"epochs": 2, **training},
        "map": {"area": "area.geojson", "date": "2024-05-01", "tile_size": 64, "overlap": 0.5},
    }
    (folder / "project.yaml").write_text(yaml.safe_dump(config))
    return load_project(folder)


def run(project: Project, *names: str) -> dict[str, StageResult]:
    """Run the named stages, or all, in order."""
    return {name: run_stage(SMALL[name], SMALL, project, Silent()) for name in names or SMALL}


def _export(run: StageRun) -> dict[str, Any]:
    found = read_scenes(run.files["scenes"], run.project.root)
    replace(found, catalogue="scenes.json", root=run.out).write(run.out / "scenes.json")
    for scene in found.scenes:
        _write_raster(run.out / scene.id / "B02.tif", 1, {})
    run.meter.bytes_read += 1000
    return {"scenes": len(found.scenes)}


def _preprocess(run: StageRun) -> dict[str, Any]:
    for name in ("a", "b", "b-c", "b/d"):  # DVC sorts paths as strings
        write_text(run.out / "cubes.zarr" / name / "0.0", f"{name} of {run.key}")
    write_text(run.out / "empty", "")
    return {"windows": {"train": 4}, "classes": {"forest": 4}}


def _finetune(run: StageRun) -> dict[str, Any]:
    config = run.project.config
    card = ModelCard(
        encoder="v1.1-nano",
        base=BaseWeights(source="random", licence="none", seed=config.training.seed),
        tasks=[TaskCard(classes=config.task.class_names, head=HeadSpec(hidden=8))],
        bands={"sentinel2_l2a": ["B02", "B03", "B04", "B08"]},
        patch_size=config.model.patch_size,
        window_size=config.model.window_size,
        resolution=config.imagery.resolution,
        framing=config.imagery.framing,
        training=config.training.model_dump(),
        dataset=TrainingSet(digest=run.upstream["preprocess"].manifest.outputs_digest, windows={}, pixels={}),
        scores={"chosen_by": "nothing", "validation": {"pixels": 0, "note": ""}, "test": {"pixels": 0, "note": ""}},
        intended_use="Tests.",
        restrictions=[],
    )
    save_model(run.out, build_predictor(build_encoder(card.encoder, seed=config.training.seed), card), card)
    write_json(run.out / "metrics.json", {"chosen_by": "test", "test": SCORES})
    epochs = [
        {"epoch": k, "loss": 1 / k, "validation": {"miou": k / 10}} for k in range(1, (config.training.epochs or 3) + 1)
    ]
    write_json(run.out / "history.json", epochs)
    run.meter.device_seconds += 1.5
    return {"test": {"miou": 0.5}}


def _infer(run: StageRun) -> dict[str, Any]:
    (run.out / "scenes.json").write_bytes(run.files["scenes"].read_bytes())
    write_json(run.out / "model.json", run.upstream["finetune"].manifest.outputs["weights.safetensors"].sha256)
    for column in range(2):
        _write_raster(run.out / f"{column}_0.tif", column, {}, column=32 * column)
    return {"tiles": 2}


def _postprocess(run: StageRun) -> dict[str, Any]:
    name = map_id(run.project, run.key)
    weights = json.loads((run.upstream["infer"].folder / "model.json").read_text())
    tags = {
        "OLMOEARTH_MAP_ID": name,
        "OLMOEARTH_PROJECT": run.project.config.name,
        "OLMOEARTH_PROVENANCE": run.key,
        "OLMOEARTH_MODEL": weights,
    }
    _write_raster(run.out / "map.tif", 2, tags, width=64)
    _write_raster(run.out / "probabilities.tif", 3, tags, width=64)
    write_text(run.out / "areas.csv", f"class,hectares\nforest,{run.key[:3]}\n")
    return {"map_id": name}


def _write_raster(path: Path, seed: int, tags: dict[str, str], *, column: int = 0, width: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 3, (1, 32, width), dtype=np.uint8)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 32, "width": width, "nodata": 255}
    transform = Affine(10, 0, LEFT + 10 * column, 0, -10, TOP)
    with rasterio.open(path, "w", crs=CRS, transform=transform, **profile) as raster:
        raster.write(pixels)
        raster.write_colormap(1, {0: (44, 127, 184, 255), 1: (49, 163, 84, 255)})
        raster.update_tags(**tags)


_RUNS = {
    "export": _export,
    "preprocess": _preprocess,
    "finetune": _finetune,
    "infer": _infer,
    "postprocess": _postprocess,
}
SMALL = {name: replace(stage, run=_RUNS[name]) for name, stage in STAGES.items()}
