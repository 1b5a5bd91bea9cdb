"""The reference projects on real imagery: water of a reservoir on a day, and on a half, that training never saw."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import rasterio
import yaml
from rasterio.features import rasterize

from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

ROOT = Path(__file__).parents[2]
Record = Callable[[str, Any], None]


def map_reference(name: str, data: Path, folder: Path, **training: Any) -> Path:
    """Run all stages of a copy of the reference project; returns the map."""
    shutil.copytree(
        ROOT / "projects" / name, folder, ignore=lambda *_: {"source", "data", "models", "tiles", "maps", ".olmoearth"}
    )
    (folder / "source").symlink_to(data / "reservoir")
    settings = yaml.safe_load((folder / "project.yaml").read_text())
    settings["training"] |= training
    (folder / "project.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    project = load_project(folder)
    for stage in STAGES.values():
        result = run_stage(stage, STAGES, project, Silent())
    return result.folder / "map.tif"


def iou_of_water(path: Path, labels: Path) -> float:
    """Intersection over union of class 1 with the outlines of that day, over the mapped pixels."""
    with rasterio.open(path) as file:
        mapped = file.read(1)
        outlines = gpd.read_file(labels).to_crs(file.crs)
        water = outlines[outlines["class"] == "water"].geometry
        truth = rasterize([(shape, 1) for shape in water], out_shape=mapped.shape, transform=file.transform)
    seen = mapped != file.nodata
    both, either = (mapped == 1) & (truth == 1) & seen, ((mapped == 1) | (truth == 1)) & seen
    return float(both.sum() / either.sum())


def test_a_day_never_seen_with_half_the_training(real_data: Path, tmp_path: Path, record_property: Record) -> None:
    path = map_reference("reservoir", real_data, tmp_path / "reservoir", epochs=10)
    iou = iou_of_water(path, real_data / "reservoir/labels/water_2021-07-16.geojson")
    record_property("iou_water_2021_07_16", iou)
    assert iou >= 0.88


@pytest.mark.verify
def test_a_day_never_seen(real_data: Path, tmp_path: Path, record_property: Record) -> None:
    path = map_reference("reservoir", real_data, tmp_path / "reservoir")
    iou = iou_of_water(path, real_data / "reservoir/labels/water_2021-07-16.geojson")
    record_property("iou_water_2021_07_16", iou)
    assert iou >= 0.88


@pytest.mark.verify
def test_a_half_never_seen(real_data: Path, tmp_path: Path, record_property: Record) -> None:
    path = map_reference("reservoir-west", real_data, tmp_path / "reservoir-west")
    iou = iou_of_water(path, real_data / "reservoir/labels/water_2020-06-21.geojson")
    record_property("iou_water_east_2020_06_21", iou)
    assert iou >= 0.92
