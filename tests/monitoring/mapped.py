"""A small trained project with maps of several days, brightness and season of some of which moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from rasters import Layer, StacScene
from shore import BANDS, DATE, SIZE, square, write_shore

from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

SAME, BRIGHT, AUTUMN = "2024-05-11", "2024-05-21", "2024-10-01"
LAND, WATER = {"B02": 500, "B03": 700, "B04": 800, "B08": 3000}, {"B02": 600, "B03": 500, "B04": 300, "B08": 200}


def scene(name: str, date: str, *, brightness: float = 1.0, leaves: float = 1.0, share: float = 0.5) -> StacScene:
    """Land in the west up to a `share` of the width, water in the east; without leaves land is dark in the NIR."""
    random, edge = np.random.default_rng(len(name)), int(SIZE / 10)
    west = np.arange(edge)[None] < share * edge
    layers = {}
    for band in BANDS:
        land = LAND[band] * (leaves if band == "B08" else 2 - leaves)
        values = np.where(west, land, WATER[band]) * brightness + random.normal(0, 80, (edge, edge))
        layers[band] = Layer(values.clip(1, 10_000).astype(np.uint16))
    return StacScene(name, date, {**layers, "SCL": Layer(np.full((edge, edge), 4, np.uint8))}, cloud_cover=1.0)


def ask(project: Project, day: str, **sections: dict[str, object]) -> Project:
    """The project with another date of its map."""
    path = project.root / "project.yaml"
    config = yaml.safe_load(path.read_text())
    config["map"]["date"] = day
    for name, keys in sections.items():
        config.setdefault(name, {}).update(keys)
    path.write_text(yaml.safe_dump(config))
    return load_project(project.root)


def run(project: Project, *stages: str) -> Project:
    for name in stages or STAGES:
        run_stage(STAGES[name], STAGES, project, Silent())
    return project


def make_mapped(folder: Path) -> Project:
    """A trained project with maps of four days: its labels' own, one like it, a bright one, one in autumn."""
    scenes = [
        scene("A", DATE),
        scene("BB", SAME),
        scene("CCC", BRIGHT, brightness=1.4),
        scene("DDDD", AUTUMN, leaves=0.4, share=0.9),
    ]
    changes = {"training": {"epochs": 3, "learning_rate": 0.003}, "map.tile_size": 64, "monitoring.windows": 24}
    project = run(write_shore(folder, changes, scenes=scenes))
    for day in (SAME, BRIGHT, AUTUMN):
        run(ask(project, day), "infer", "postprocess")
    return ask(project, DATE)


def make_measured(folder: Path) -> Project:
    """Of a regression, the moisture of land and water: maps of three days; the last one's land is dry and bright."""
    import geopandas as gpd
    from rasters import CRS

    scenes = [scene("A", DATE), scene("BB", SAME), scene("DDDD", AUTUMN, brightness=1.3, leaves=0.4, share=0.9)]
    changes = {
        "task": {"name": "moisture", "kind": "regression", "unit": "%", "range": [0, 100]},
        "labels": {"files": ["labels/moisture.geojson"], "date": DATE},
        "training": {"epochs": 6, "learning_rate": 0.003},
        "map.tile_size": 64,
        "monitoring.windows": 24,
    }
    project = write_shore(folder, changes, scenes=scenes)
    halves = [square(0, 0, SIZE / 2, SIZE), square(SIZE / 2, 0, SIZE, SIZE)]
    frame = gpd.GeoDataFrame({"value": [20.0, 90.0]}, geometry=halves, crs=CRS).to_crs("EPSG:4326")
    frame.to_file(folder / "labels" / "moisture.geojson")
    run(project)
    for day in (SAME, AUTUMN):
        run(ask(project, day), "infer", "postprocess")
    return ask(project, DATE)
