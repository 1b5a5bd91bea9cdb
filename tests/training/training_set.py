"""A small training set on disk, in the form that the stage preprocess leaves it, and the StageRun that reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from shapely.geometry import box

from olmoearth_core.dataset.cubes import Composed, Layout, Sample, TaskLayout, Truth, create_cubes
from olmoearth_core.dataset.dataset import CUBES, WINDOWS
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.manifest import Manifest, describe_outputs, read_manifest, write_manifest
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.project import Project, parse_project
from olmoearth_core.stage import Meter, StageRun, Upstream

SIZE = 16
BANDS = ("B02", "B03", "B04", "B08")
GRID = Grid("EPSG:32631", 10.0)
SHORE = TaskLayout("segmentation", ("land", "water"))
SPLITS = ("train",) * 8 + ("validation",) * 3 + ("test",) * 3

PROJECT = """
name: shore
task: {classes: [{name: land, color: '#aaaaaa'}, {name: water, color: '#2c7fb8'}]}
labels: {files: [labels.geojson]}
imagery: {catalogue: catalog.json, framing: {kind: period, timesteps: 2}}
dataset: {}
model: {patch_size: 4, window_size: 16}
training: {epochs: 4, batch_size: 4, learning_rate: 0.003}
map: {area: area.geojson, date: 2021-07-01, tile_size: 64}
"""


def shore_sample(seed: int) -> Sample:
    """Land beside water, darker in the near infrared, in two timesteps; the shore lies anywhere."""
    random = np.random.default_rng(seed)
    slope, offset = random.normal(size=2), random.normal(scale=0.2)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    water = slope[0] * x + slope[1] * y > offset
    reflectance = np.where(water, [[[600]], [[500]], [[300]], [[200]]], [[[500]], [[700]], [[900]], [[3000]]])
    cube = reflectance[None] + random.normal(scale=150, size=(2, len(BANDS), SIZE, SIZE))
    return Sample(
        inputs={"sentinel2_l2a": cube.clip(1, 10000).astype(np.uint16)},
        valid={"sentinel2_l2a": np.ones((2, SIZE, SIZE), bool)},
        dates=np.array(["2020-06-16", "2020-07-16"], "datetime64[D]"),
        truths={"main": Truth(water.astype(np.uint8))},
    )


def composed(sample: Sample) -> Composed:
    """A sample as preprocessing would have stored it."""
    cubes = {
        m: Cube(
            m,
            BANDS,
            data,
            sample.valid[m].astype(np.uint8),
            np.zeros(sample.valid[m].shape, np.int32),
            sample.dates,
            GRID.box(0, 0, SIZE, SIZE),
        )
        for m, data in sample.inputs.items()
    }
    return Composed(cubes, sample.truths)


def write_training_set(
    folder: Path,
    change: Callable[[str, Sample], Sample] = lambda _split, sample: sample,
    splits: Any = SPLITS,
    task: TaskLayout = SHORE,
    auxiliary: dict[str, TaskLayout] | None = None,
) -> Path:
    """Write one window for each of `splits`, each passed through `change`, with a manifest."""
    tasks = {"main": task, **(auxiliary or {})}
    layout = Layout(GRID, SIZE, 2, tasks, bands={"sentinel2_l2a": BANDS}, dtypes={"sentinel2_l2a": "uint16"})
    samples = [change(split, shore_sample(seed)) for seed, split in enumerate(splits)]
    create_cubes(folder / CUBES, layout, len(samples)).write_shard(0, [composed(sample) for sample in samples])
    outlines = [box(*GRID.box(50_000 + SIZE * i, -469_000, SIZE, SIZE).bounds) for i in range(len(samples))]
    table = {
        "name": [f"20200616_{k}" for k in range(len(samples))],
        "cube": range(len(samples)),
        "split": list(splits),
        "date": [date(2020, 6, 16)] * len(samples),
        "column": [50_000 + SIZE * k for k in range(len(samples))],
        "row": [-469_000] * len(samples),
        "block_column": range(len(samples)),
        "block_row": [0] * len(samples),
    }
    gpd.GeoDataFrame(table, geometry=outlines, crs=GRID.crs).to_parquet(folder / WINDOWS)
    write_manifest(
        folder,
        Manifest(
            stage="preprocess",
            stage_version=1,
            key="0" * 64,
            settings={
                "imagery": {"resolution": 10.0, "framing": {"kind": "period", "timesteps": 2}},
                "dataset": {"split": {}},
            },
            inputs={},
            outputs=describe_outputs(folder),
            summary={},
        ),
    )
    return folder


def stage_run(dataset: Path, out: Path, progress: Progress | None = None, **changes: dict[str, Any]) -> StageRun:
    """What `finetune` is given; `changes` are keys of project.yaml's sections (training={"epochs": 1})."""
    config = parse_project(PROJECT)
    sections = {name: getattr(config, name).model_copy(update=keys) for name, keys in changes.items()}
    project = Project(out.parent, config.model_copy(update=sections))
    manifest = read_manifest(dataset)
    assert manifest is not None
    upstream = {"preprocess": Upstream(dataset, manifest)}
    return StageRun(project, out, upstream, {}, progress or Silent(), Meter(), key="f" * 64)


def unlabelled(sample: Sample) -> Sample:
    """The same window without any label."""
    return replace(sample, truths={"main": Truth(np.full_like(sample.target, IGNORE))})


def only(sample: Sample, index: int) -> Sample:
    """The same window with the labels of one class only."""
    kept = np.where(sample.target == index, sample.target, np.uint8(IGNORE))
    return replace(sample, truths={"main": Truth(kept)})


class Notes(Silent):
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)
