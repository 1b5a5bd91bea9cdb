"""A project small enough to map in a second: real COGs in a static catalogue, and a real model with random weights.

The model is not trained, but it is the one that would be: encoder, head, safetensors, card. So what is tested here is
what a partner gets.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml
from rasterio.warp import transform_geom
from rasters import CRS, LEFT, TOP, Layer, StacScene, write_catalogue
from scipy.ndimage import gaussian_filter
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon, box, mapping
from shapely.geometry.base import BaseGeometry

from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.manifest import Manifest, describe_outputs, write_manifest
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.model_folder import save_model
from olmoearth_core.models.prediction_sets import PredictionSets
from olmoearth_core.models.predictor import build_predictor
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import Meter, StageRun, Upstream

SIZE = 120
"""Edge of the imagery in pixels of 10 m."""
BANDS = ("B02", "B03", "B04", "B08")
CLASSES = [
    {"name": "open water", "color": "#2c7fb8"},
    {"name": "forest", "color": "#31a354"},
    {"name": "bare & built", "color": "#d95f0e"},
]
FRAMING = {"kind": "period", "timesteps": 2, "days": 30}


def metres(column: float, row: float) -> tuple[float, float]:
    """CRS coordinates of a corner counted in pixels from the imagery's upper left."""
    return LEFT + 10 * column, TOP - 10 * row


def square(column: float, row: float, width: float, height: float) -> BaseGeometry:
    """A rectangle in pixels from the imagery's upper left, in the CRS."""
    left, top = metres(column, row)
    return box(left, top - 10 * height, left + 10 * width, top)


def odd_area() -> BaseGeometry:
    """Two polygons, one turned by 30 degrees and with a hole, so that tiles and windows are cut every way."""
    turned = affinity.rotate(square(20, 16, 72, 64), 30)
    hole = Polygon(turned.exterior.coords, [affinity.scale(square(50, 44, 12, 9), 1, 1).exterior.coords])
    return MultiPolygon([hole, square(92, 96, 20, 17)])


def write_area(path: Path, geometry: BaseGeometry, **properties: Any) -> None:
    """Write `geometry` (in the imagery's CRS) as GeoJSON in degrees, a Feature for each of its parts."""
    parts = getattr(geometry, "geoms", [geometry])
    features = [
        {
            "type": "Feature",
            "properties": properties,
            "geometry": transform_geom(CRS, "EPSG:4326", mapping(part), precision=9),
        }
        for part in parts
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def layers(seed: int, scl: np.ndarray | None = None) -> dict[str, Layer]:
    """Smooth random bands, and a classification (vegetation where `scl` is not given)."""
    random = np.random.default_rng(seed)
    bands = {}
    for name in BANDS:
        field = gaussian_filter(random.normal(size=(SIZE, SIZE)), 5)
        bands[name] = Layer((1500 + 1200 * field / field.std()).clip(1, 9000).astype(np.uint16))
    return {**bands, "SCL": Layer(np.full((SIZE, SIZE), 4, np.uint8) if scl is None else scl)}


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """SCL of two dates: both cloudy in one place, one of them in some more, whole windows and parts of some."""
    first, second = np.full((SIZE, SIZE), 4, np.uint8), np.full((SIZE, SIZE), 4, np.uint8)
    first[20:60, 30:75] = 9
    second[40:72, 44:90] = 8
    second[100:, :50] = 3
    return first, second


def small_project(
    folder: Path,
    *,
    area: BaseGeometry | None = None,
    scl: tuple[np.ndarray, np.ndarray] | None = None,
    model: Mapping[str, Any] | None = None,
    imagery: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
    **map_settings: Any,
) -> Project:
    """A project with imagery of two dates, an area and a model; `map_settings` go to the section map."""
    first, second = scl or (None, None)
    write_catalogue(
        folder / "imagery",
        [
            StacScene("A", "2024-05-11", layers(1, first), cloud_cover=5),
            StacScene("B", "2024-06-12", layers(2, second), cloud_cover=8),
        ],
    )
    write_area(folder / "area.geojson", odd_area() if area is None else area)
    centred = (task or {}).get("kind") == "classification"
    config = {
        "name": "small",
        "task": task or {"classes": CLASSES},
        "labels": {"files": ["labels.geojson"], **({"windows": "centred"} if centred else {})},
        "imagery": {"catalogue": "imagery/catalog.json", "framing": FRAMING, **(imagery or {})},
        "dataset": {},
        "model": {"patch_size": 4, "window_size": 16, **(model or {})},
        "training": {},
        "map": {"area": "area.geojson", "date": "2024-05-01", "tile_size": 64, "overlap": 0.5, **map_settings},
    }
    (folder / "project.yaml").write_text(yaml.safe_dump(config))
    project = load_project(folder)
    save_small_model(folder / "models" / "small", project)
    return project


def save_small_model(folder: Path, project: Project, seed: int = 3) -> None:
    """Save a model with random weights for the project, with a manifest as the stage would leave it."""
    config = project.config
    card = ModelCard(
        encoder="v1.1-nano",
        base=BaseWeights(source="random", licence="not stated", seed=0),
        tasks=[
            TaskCard(
                name=config.task.name,
                kind=config.task.kind,
                classes=config.task.class_names,
                unit=config.task.unit,
                range=config.task.range,
                sets=_sets(len(config.task.class_names)) if config.task.classes else None,
                head=HeadSpec(kind="pool" if config.task.kind == "classification" else "upsample", hidden=8),
            )
        ],
        bands={"sentinel2_l2a": list(BANDS)},
        patch_size=config.model.patch_size,
        window_size=config.model.window_size,
        resolution=config.imagery.resolution,
        framing=config.imagery.framing,
        training={},
        dataset=TrainingSet(digest="none", windows={}, pixels={}),
        scores={
            "chosen_by": "nothing: the weights are random",
            **{split: {"pixels": 0, "note": "not trained"} for split in ("validation", "test")},
        },
        intended_use="Tests.",
        restrictions=[],
    )
    model = build_predictor(build_encoder(card.encoder, seed=seed), card, seed=seed + 1)
    with torch.no_grad():  # a new head says nearly the same everywhere
        head = model.heads[config.task.name]
        head.score.weight.mul_(12)  # type: ignore[union-attr, operator]
        head.score.bias.zero_()  # type: ignore[union-attr, operator]
    save_model(folder, model, card)
    as_stage(folder, "finetune")


def _sets(classes: int) -> PredictionSets:
    """As if validation had 400 pixels, and the model were as sure as it is right."""
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 400)
    truth = (probabilities.cumsum(axis=1) < np.random.default_rng(1).random((400, 1))).sum(axis=1)
    return PredictionSets.fit(probabilities, truth.clip(0, classes - 1))


def as_stage(folder: Path, stage: str) -> Upstream:
    """Give the files in `folder` the manifest of a finished stage."""
    manifest = Manifest(
        stage=stage, stage_version=1, key="0" * 64, settings={}, inputs={}, outputs=describe_outputs(folder), summary={}
    )
    write_manifest(folder, manifest)
    return Upstream(folder, manifest)


def infer_run(project: Project, out: Path, progress: Any = None) -> StageRun:
    """What the stage infer is given."""
    out.mkdir(parents=True, exist_ok=True)
    area = project.config.map.area
    model = project.root / "models" / "small"
    return StageRun(
        project,
        out,
        {"finetune": as_stage(model, "finetune")},
        {area: project.path(area), "scenes": freeze_map_scenes(project, Silent())},
        progress or Silent(),
        Meter(),
        "1" * 64,
    )


def postprocess_run(project: Project, tiles: Path, out: Path, progress: Any = None) -> StageRun:
    """What the stage postprocess is given."""
    out.mkdir(parents=True, exist_ok=True)
    area = project.config.map.area
    return StageRun(
        project,
        out,
        {"infer": as_stage(tiles, "infer")},
        {area: project.path(area)},
        progress or Silent(),
        Meter(),
        "abcd1234" * 8,
    )


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """The operating system refuses to let any file of this process grow beyond `limit` bytes (EFBIG, like ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def checksums(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every output in `folder`."""
    return {name: output.sha256 for name, output in describe_outputs(folder).items()}


def paste(folder: Path) -> np.ndarray:
    """All tiles of a folder laid side by side over the whole imagery: (1 + K, SIZE, SIZE) uint8, 255 elsewhere."""
    pasted = np.full((1 + len(CLASSES), SIZE, SIZE), 255, np.uint8)
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as tile:
            column, row = round((tile.bounds.left - LEFT) / 10), round((TOP - tile.bounds.top) / 10)
            here = pasted[:, row : row + tile.height, column : column + tile.width]
            assert (here == 255).all(), "tiles must not overlap"
            here[:] = tile.read(range(1, 2 + len(CLASSES)))  # without the band of observations
    return pasted
