"""A small labelled place with real rasters around it: land in the west, water in the east, 960 m square.

project = write_shore(tmp_path)                                   # one date, clear, 49 windows of 16 px
project = write_shore(tmp_path, {"dataset.min_samples": 5}, scenes=[clear_scene("A", "2024-05-01", cloud=0.5)])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import yaml
from rasters import CRS, LEFT, TOP, Layer, StacScene, write_catalogue
from shapely.geometry.base import BaseGeometry

from olmoearth_core.digest import sha256_json
from olmoearth_core.manifest import describe_outputs
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult, run_stage
from olmoearth_core.stages import STAGES

SIZE = 960.0
BANDS = ("B02", "B03", "B04", "B08")
DATE = "2024-05-01"

Label = tuple[BaseGeometry | None, Any, str | None]
"""(geometry in EPSG:32631, class, date)"""


def square(left: float, bottom: float, right: float, top: float) -> BaseGeometry:
    """A rectangle in metres from the lower left corner of the place."""
    return shapely.box(LEFT + left, TOP - SIZE + bottom, LEFT + right, TOP - SIZE + top)


def halves(*dates: str) -> list[Label]:
    """Land in the west half, water in the east half, on each date."""
    west, east = square(0, 0, SIZE / 2, SIZE), square(SIZE / 2, 0, SIZE, SIZE)
    return [label for date in dates for label in ((west, "land", date), (east, "water", date))]


def write_labels(path: Path, labels: Sequence[Label], crs: str = "EPSG:4326") -> Path:
    """Write labels in `crs` in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    geometries, classes, dates = zip(*labels, strict=True)
    frame = gpd.GeoDataFrame({"class": classes, "start_datetime": dates}, geometry=list(geometries), crs=CRS)
    frame.to_crs(crs).to_file(path)
    return path


def clear_scene(name: str, date: str, *, seed: int = 0, cloudy: slice | None = None, high: int = 3000) -> StacScene:
    """Random reflectances up to `high`; `cloudy` are columns of 10 m that the classification calls cloud."""
    random = np.random.default_rng(seed)
    edge = int(SIZE / 10)
    layers = {band: Layer(random.integers(200, high, (edge, edge)).astype(np.uint16)) for band in BANDS}
    classes = np.full((edge, edge), 4, np.uint8)
    if cloudy is not None:
        classes[:, cloudy] = 9
    layers["SCL"] = Layer(classes)
    return StacScene(name, date, layers, cloud_cover=10.0)


def write_shore(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    scenes: Sequence[StacScene] | None = None,
    labels: Sequence[Label] | None = None,
) -> Project:
    """A project folder with its labels, area and catalogue; `changes` are keys of project.yaml ("labels.date")."""
    config: dict[str, Any] = {
        "name": "shore",
        "task": {"classes": [{"name": "land", "color": "#aaaaaa"}, {"name": "water", "color": "#2c7fb8"}]},
        "labels": {"files": ["labels/shore.geojson"]},
        "imagery": {"catalogue": "imagery/catalog.json", "framing": {"kind": "point_in_time"}},
        "dataset": {"split": {"block_size": 160}},
        "model": {"patch_size": 4, "window_size": 16},
        "training": {},
        "map": {"area": "area.geojson", "date": DATE},
    }
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.yaml").write_text(yaml.safe_dump(config))
    write_catalogue(folder / "imagery", [clear_scene("A", DATE)] if scenes is None else scenes)
    write_labels(folder / "labels" / "shore.geojson", halves(DATE) if labels is None else labels)
    write_labels(folder / "area.geojson", [(square(0, 0, SIZE, SIZE), "all", None)])
    return load_project(folder)


def run_to_dataset(project: Project) -> StageResult:
    """Export and preprocess."""
    run_stage(STAGES["export"], STAGES, project, Silent())
    return run_stage(STAGES["preprocess"], STAGES, project, Silent())


def digest(folder: Path) -> str:
    """One digest of all outputs in a stage's folder."""
    return sha256_json({name: output.sha256 for name, output in describe_outputs(folder).items()})
