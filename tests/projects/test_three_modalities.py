"""Sentinel-2, Sentinel-1 and Landsat together, from labels to a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import Layer, StacScene
from shore import BANDS, DATE, SIZE, halves, write_shore

from olmoearth_core.dataset.dataset import open_dataset
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

FRAMING = {"kind": "period", "timesteps": 2, "days": 30}
WATER = {"B02": 300, "B03": 250, "B04": 150, "B08": 80, "vv": -22.0, "vh": -28.0, "red": 7500, "nir08": 6500}
LAND = {"B02": 500, "B03": 800, "B04": 900, "B08": 3000, "vv": -9.0, "vh": -15.0, "red": 9500, "nir08": 16000}


def shore_scene(name: str, day: str, bands: tuple[str, ...], resolution: float, **about: str) -> StacScene:
    """Land in the west half, water in the east half, with a little noise."""
    edge = round(SIZE / resolution)
    random = np.random.default_rng(len(name))
    layers = {}
    for band in bands:
        ground = np.where(np.arange(edge) < edge / 2, LAND[band], WATER[band])[None].repeat(edge, 0)
        noisy = ground + random.normal(0, 0.5 if band in ("vv", "vh") else 20, ground.shape)
        stored = 10 ** (noisy / 10) if band in ("vv", "vh") else noisy.clip(1)
        layers[band] = Layer(stored.astype(np.float32 if band in ("vv", "vh") else np.uint16), resolution)
    if "red" in bands:
        layers["qa_pixel"] = Layer(np.full((edge, edge), 1 << 6, np.uint16), resolution)
    return StacScene(name, day, layers, cloud_cover=None, properties=about)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    radar = {"platform": "sentinel-1a", "sar:product_type": "RTC"}
    landsat = {"platform": "landsat-9", "landsat:correction": "L1TP"}
    scenes = [
        shore_scene("S2", "2024-05-04", BANDS, 10, platform="sentinel-2b"),
        shore_scene("S1 first", "2024-05-03", ("vv", "vh"), 10, **radar),
        shore_scene("S1 second", "2024-06-02", ("vv", "vh"), 10, **radar),
        shore_scene("L9", "2024-06-07", ("red", "nir08"), 30, **landsat),
    ]
    changes = {
        "imagery.modalities": ["sentinel2_l2a", "sentinel1", "landsat"],
        "imagery.framing": FRAMING,
        "training.epochs": 4,
        "training.learning_rate": 0.002,
    }
    made = write_shore(tmp_path_factory.mktemp("three"), changes, scenes=scenes, labels=halves(DATE))
    for stage in STAGES.values():
        run_stage(stage, STAGES, load_project(made.root), Silent())
    return made.root


def test_the_training_set_holds_all_three_with_their_gaps(project: Path) -> None:
    dataset = open_dataset(project / "data" / "dataset")
    assert dataset.bands == {"sentinel2_l2a": BANDS, "sentinel1": ("vv", "vh"), "landsat": ("B4", "B5")}
    (sample,) = dataset.read([len(dataset) // 2])
    seen = {m: valid.all(axis=(1, 2)).tolist() for m, valid in sample.valid.items()}
    assert seen == {"sentinel2_l2a": [True, False], "sentinel1": [True, True], "landsat": [False, True]}
    water = sample.target == dataset.classes.index("water")
    assert np.median(sample.inputs["sentinel1"][0, 0][water]) == pytest.approx(-22, abs=0.5)
    assert sample.inputs["sentinel1"].dtype == np.float32
    assert [str(day) for day in sample.dates] == ["2024-05-16", "2024-06-15"]


def test_the_map_tells_land_from_water(project: Path) -> None:
    (path,) = project.glob("maps/*/map.tif")
    with rasterio.open(path) as file:
        classes = file.read(1)
    east = np.arange(classes.shape[1]) >= classes.shape[1] / 2
    assert ((classes == 1) == east[None]).mean() > 0.9
