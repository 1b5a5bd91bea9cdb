"""The table of the five stages: which key of project.yaml wakes which stage, and what no key depends on.

The real table with real settings, files, scene searches and places. Only the work is left out: each stage writes one
file. Written always the same, it wakes nobody, so that the stages seen to run are those a setting concerns directly.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import geopandas
import numpy as np
import pytest
import toy
import yaml
from pydantic import BaseModel
from rasters import Layer, StacScene, write_catalogue
from shapely.geometry import box, mapping

from olmoearth_core.errors import CoreError
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, ProjectConfig, load_project
from olmoearth_core.stage import Stage, StageRun, resolve_key, run_stage
from olmoearth_core.stages import PLACES, STAGES, forget_failures
from olmoearth_core.store import write_text

HERE = box(3.020, 42.353, 3.026, 42.357)
"""Well inside one cell of the search, which does not change with the size of windows then."""
CLASSES = [{"name": name, "color": "#00000" + str(i)} for i, name in enumerate(("land", "water", "snow"))]
PROJECT = {
    "task.classes": CLASSES,
    "labels": {"files": ["labels/water.geojson"], "area": "area.geojson"},
    "imagery": {"catalogue": "imagery/catalog.json", "framing": {"kind": "point_in_time", "days": 30}},
}

FRAMINGS = {
    "period": {"kind": "period", "timesteps": 1, "days": 30, "offset_days": -15},
    "framed_point_in_time": {"kind": "framed_point_in_time", "before": 1, "after": 1, "days": 30, "gap_days": 0},
}
SPLITS = {
    "time": {"kind": "time", "validation_from": "2024-02-01", "test_from": "2024-08-01"},
    "property": {"kind": "property", "property": "split"},
}

COVER = {"kind": "regression", "unit": "%", "range": [0.0, 100.0]}
"""A task of another kind than PROJECT's."""
MORE = {
    "task": {"name": "more", "classes": CLASSES},
    "labels": {"files": ["labels/more.geojson"], "area": "area.geojson"},
    "weight": 0.5,
}
"""An auxiliary task."""

IMAGERY = "export preprocess infer"
FRAMING = "export preprocess finetune infer"
"""The model card carries the framing."""
LABELS = "export preprocess"
LABEL_KEYS: dict[str, Any] = {
    "files": ["labels/same.geojson"],
    "class_property": "kind",
    "value_property": "height",
    "date_property": "day",
    "date": "2024-06-01",
    "dates": {"labels/water.geojson": "2024-06-01"},
    "area": "wider.geojson",
    "crs": "EPSG:4326",
    "classes": {"land": ["ground"]},
    "unmapped": "ignore",
    "windows": "centred",
    "sampling.max_per_class": 3,
    "sampling.max_windows": 3,
    "sampling.near": 100.0,
    "sampling.seed": 1,
}
TASK, TASK_OF_MAP = "preprocess finetune", "preprocess finetune postprocess"
WAKES: dict[str, tuple[Any, str]] = {
    "name": ("other", "postprocess"),
    "task.name": ("cover", TASK),
    "task.kind": ("classification", TASK_OF_MAP),
    "task.unit": ("m", TASK_OF_MAP),
    "task.range": ([0.0, 60.0], TASK_OF_MAP),
    "auxiliary.task.name": ("cover", TASK),
    "auxiliary.task.kind": ("classification", TASK),
    "auxiliary.task.unit": ("m", TASK),
    "auxiliary.task.range": ([0.0, 60.0], TASK),
    "auxiliary.task.classes.name": ([*CLASSES[:2], {"name": "ice", "color": "#000002"}], TASK),
    "auxiliary.task.classes.color": ([*CLASSES[:2], {"name": "snow", "color": "#ffffff"}], ""),
    "auxiliary.weight": (0.25, "finetune"),
    **{
        f"{section}.{key}": (value, LABELS)
        for section in ("labels", "auxiliary.labels")
        for key, value in LABEL_KEYS.items()
    },
    "auxiliary.labels.dates": ({"labels/more.geojson": "2024-06-01"}, LABELS),
    "task.classes.name": ([*CLASSES[:2], {"name": "ice", "color": "#000002"}], "preprocess finetune postprocess"),
    "task.classes.color": ([*CLASSES[:2], {"name": "snow", "color": "#ffffff"}], "postprocess"),
    # these three act through the frozen scene lists
    "imagery.access.profile": ("park", ""),  # how servers are reached changes no pixel
    "imagery.access.endpoint": ("http://127.0.0.1:9000", ""),
    "imagery.access.requester_pays": (True, ""),
    "imagery.access.anonymous": (True, ""),
    "imagery.access.attempts": (3, ""),
    "imagery.access.first_pause": (0.1, ""),
    "imagery.access.timeout": (30.0, ""),
    "imagery.access.connections": (2, ""),
    "imagery.catalogue": ("copy/catalog.json", "export infer"),
    "imagery.collections": (["test"], "export infer"),
    "imagery.max_cloud_cover": (50.0, "export infer"),
    "imagery.resolution": (20.0, IMAGERY),
    "imagery.crs": ("EPSG:32632", IMAGERY),
    "imagery.framing.kind": ({"kind": "period", "timesteps": 1, "days": 30}, FRAMING),
    "imagery.framing.days": ({"kind": "point_in_time", "days": 20}, FRAMING),
    "imagery.framing.timesteps": ({**FRAMINGS["period"], "timesteps": 2}, FRAMING),
    "imagery.framing.offset_days": ({**FRAMINGS["period"], "offset_days": -10}, FRAMING),
    "imagery.framing.before": ({**FRAMINGS["framed_point_in_time"], "before": 2}, FRAMING),
    "imagery.framing.after": ({**FRAMINGS["framed_point_in_time"], "after": 2}, FRAMING),
    "imagery.framing.gap_days": ({**FRAMINGS["framed_point_in_time"], "gap_days": 1}, FRAMING),
    "imagery.composite": ("median", "preprocess infer"),
    "imagery.cloud_mask": ("none", "export preprocess infer"),
    "dataset.split.block_size": (1280.0, "preprocess"),
    "dataset.split.validation": (0.3, "preprocess"),
    "dataset.split.test": (0.3, "preprocess"),
    "dataset.split.seed": (1, "preprocess"),
    "dataset.split.buffer": (20.0, "preprocess"),
    "dataset.split.kind": ({"kind": "time", "test_from": "2024-06-01"}, "preprocess"),
    "dataset.split.validation_from": ({**SPLITS["time"], "validation_from": "2024-03-01"}, "preprocess"),
    "dataset.split.test_from": ({**SPLITS["time"], "test_from": "2024-09-01"}, "preprocess"),
    # windows are those of the labels of one split
    "dataset.split.property": ({"kind": "property", "property": "part"}, LABELS),
    "dataset.min_valid": (0.5, "preprocess"),
    "dataset.min_samples": (3, "preprocess"),
    "model.encoder": ("v1.1-tiny", "finetune"),
    "model.weights": ("checkpoint", "finetune"),
    "model.patch_size": (8, "finetune"),
    "model.head": ("linear", "finetune"),
    # infer takes the window size from the model card: it is woken by what finetune leaves
    "model.window_size": (32, "export preprocess finetune"),
    "training.epochs": (3, "finetune"),
    "training.batch_size": (4, "finetune"),
    "training.learning_rate": (0.01, "finetune"),
    "training.weight_decay": (0.1, "finetune"),
    "training.recipe": ("layer_decay", "finetune"),
    "training.at_once": (2, "finetune"),
    "training.schedule": ("plateau", "finetune"),
    "training.warm_up": (0.2, "finetune"),
    "training.layer_decay": (0.5, "finetune"),
    "training.frozen": (0.5, "finetune"),
    "training.lora_rank": (4, "finetune"),
    "training.loss": ("focal", "finetune"),
    "training.class_weights": ("balanced", "finetune"),
    "training.augment.turns": (False, "finetune"),
    "training.augment.brightness": (0.1, "finetune"),
    "training.augment.noise": (0.1, "finetune"),
    "training.augment.timestep_drop": (0.2, "finetune"),
    "training.augment.modality_drop": (0.2, "finetune"),
    "training.patience": (3, "finetune"),
    "training.ema": (0.9, "finetune"),
    "training.checkpointing": (True, "finetune"),
    "training.precision": ("bf16", "finetune"),
    "training.seed": (1, "finetune"),
    "map.area": ("wider.geojson", "infer postprocess"),
    "map.date": ("2024-05-02", "infer postprocess"),
    "map.tile_size": (512, "infer"),
    "map.overlap": (0.5, "infer"),
    "map.min_area": (100.0, "postprocess"),
    "map.simplify": (10.0, "postprocess"),
    "map.events": ([CLASSES[0]["name"]], "postprocess"),
    "map.conformal.coverage": (0.8, "postprocess"),
    # which model maps is known when the stage runs, and is in its key by the model's digest (flows/champion.py)
    "map.model": ("latest", ""),
    **{
        f"retraining.{key}": (value, "")
        for key, value in {
            "cron": "0 4 1 * *",
            "triggers": ["labels", "season"],
            "start": "champion",
            "remap": True,
            "gates.metric": "macro_f1",
            "gates.drop": 0.1,
            "gates.class_metric": "f1",
            "gates.class_drop": 0.1,
            "gates.newest_drop": 0.1,
            "gates.ece": 0.2,
            "gates.cost": 2.0,
            "gates.limits": {"miou": 0.5},
        }.items()
    },
    **{
        f"deployment.{key}": (value, "")
        for key, value in {
            "pool": "other",
            "lifecycle": "0 4 1 * *",
            "mapping": "0 4 1 * *",
            "timezone": "Africa/Nairobi",
            "tags": ["ours"],
            "engine": "dask",
            "processes": 2,
        }.items()
    },
    **{
        f"monitoring.{key}": (value, "")
        for key, value in {
            "windows": 16,
            "imagery": 0.5,
            "embeddings": 0.5,
            "predictions": 0.5,
            "between_maps": 0.5,
            "max_map_age": 400,
            "max_model_age": 400,
        }.items()
    },
    "notifications.to": (["json://127.0.0.1/hook"], ""),
    "notifications.about": (["promotion"], ""),
}
"""Key of project.yaml -> another value for it, and the stages it concerns directly."""
ONE_VALUE = {"imagery.modalities"}
"""Keys of which only one value fits the scenes of this test."""
BASE = {
    **dict.fromkeys(("imagery.framing.timesteps", "imagery.framing.offset_days"), FRAMINGS["period"]),
    **dict.fromkeys(
        ("imagery.framing.before", "imagery.framing.after", "imagery.framing.gap_days"),
        FRAMINGS["framed_point_in_time"],
    ),
    **dict.fromkeys(("dataset.split.validation_from", "dataset.split.test_from"), SPLITS["time"]),
    "dataset.split.property": SPLITS["property"],
    "notifications.about": {"notifications": {"to": ["json://127.0.0.1/hook"]}},
    **{
        f"{where}{key}": {"task": COVER}
        for where in ("", "auxiliary.")
        for key in ("task.unit", "task.range", "labels.value_property")
    },
    **{f"{where}task.kind": {"labels.windows": "centred"} for where in ("", "auxiliary.")},
}
"""Keys that another framing, split or task than PROJECT's has: what has to be there before they are changed."""


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of project.yaml."""
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        for section in inner:
            yield from leaves(section, f"{prefix}{name}.")
        if not inner:
            yield f"{prefix}{name}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def test_every_key_of_project_yaml_has_its_stages() -> None:
    """A new key needs a decision: which stages depend on it?"""
    assert set(WAKES) | ONE_VALUE == set(leaves(ProjectConfig))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder without project.yaml: imagery, labels, areas."""
    folder = tmp_path_factory.mktemp("world")
    pixels = np.full((300, 300), 1000, np.uint16)
    scenes = [
        StacScene(f"S{i}", date, {"B02": Layer(pixels)}, cloud_cover=cloud)
        for i, (date, cloud) in enumerate([("2024-05-01", 0.0), ("2024-05-06", 70.0)])
    ]
    write_catalogue(folder / "imagery", scenes)
    shutil.copytree(folder / "imagery", folder / "copy")
    features = [
        {
            "type": "Feature",
            "geometry": mapping(HERE),
            "properties": {
                "class": name,
                "kind": name,
                "start_datetime": "2024-05-01",
                "day": "2024-05-02",
                "split": "train",
                "part": "test",
                "value": 5.0,
                "height": 6.0,
            },
        }
        for name in ("land", "water")
    ]
    for name, content in {
        "labels/water.geojson": features,
        "labels/same.geojson": features,
        "labels/more.geojson": features,
        "area.geojson": [{"type": "Feature", "geometry": mapping(HERE), "properties": {}}],
        "wider.geojson": [{"type": "Feature", "geometry": mapping(HERE.buffer(0.001)), "properties": {}}],
    }.items():
        write_text(folder / name, json.dumps({"type": "FeatureCollection", "features": content}))
    write_text(folder / "checkpoint" / "config.json", "{}")
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world, tmp_path / "project")
    return tmp_path / "project"


def configure(folder: Path, changes: dict[str, Any]) -> Project:
    config = toy.with_changes({**PROJECT, "map.date": "2024-05-01", **changes})
    (folder / "project.yaml").write_text(yaml.safe_dump(config))
    return load_project(folder)


def constant(run: StageRun) -> dict[str, Any]:
    write_text(run.out / "made", "always the same")
    return {}


def telling(run: StageRun) -> dict[str, Any]:
    write_text(run.out / "made", run.key)
    return {}


def ran(project: Project, work: Any = constant) -> list[str]:
    """Run the lifecycle; the stages that did not skip."""
    table = {name: replace(stage, run=work) for name, stage in STAGES.items()}
    return [name for name, stage in table.items() if not run_stage(stage, table, project, Silent()).skipped]


def keys(project: Project) -> dict[str, str]:
    return {name: resolve_key(stage, STAGES, project, Silent()) for name, stage in STAGES.items()}


def change(key: str) -> dict[str, Any]:
    value = WAKES[key][0]
    key = re.sub(r"(task\.classes).*", r"\1", key)
    if key.startswith("auxiliary."):
        return {"auxiliary": with_more({**more(BASE.get(key, {})), key.removeprefix("auxiliary."): value})}
    return {key.rpartition(".")[0] if isinstance(value, dict) and "kind" in value else key: value}


def base(key: str) -> dict[str, Any]:
    """What project.yaml holds before `key` is changed."""
    if key.startswith("auxiliary."):
        return {"auxiliary": with_more(more(BASE.get(key, {})))}
    if key not in BASE:
        return {}
    return BASE[key] if "kind" not in BASE[key] else {key.rpartition(".")[0]: BASE[key]}


def more(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of MORE; another task keeps its name."""
    return {key: {"name": "more", **value} if key == "task" else value for key, value in changes.items()}


def with_more(changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The section auxiliary, with MORE changed."""
    made = toy.with_changes({"auxiliary": [MORE], **{f"auxiliary.0.{key}": value for key, value in changes.items()}})
    return list(made["auxiliary"])


@pytest.mark.parametrize("key", WAKES)
def test_a_changed_key_wakes_exactly_the_stages_it_concerns(folder: Path, key: str) -> None:
    assert ran(configure(folder, base(key))) == list(STAGES)
    assert ran(configure(folder, base(key))) == []
    assert ran(configure(folder, {**base(key), **change(key)})) == WAKES[key][1].split()


def test_outputs_that_lack_assets_are_made_again_when_somebody_asks(folder: Path) -> None:
    def lossy(run: StageRun) -> dict[str, Any]:
        return {**constant(run), "failed_assets": [{"scene": "S0", "asset": "B02", "reason": "404"}]}

    project = configure(folder, {})
    assert forget_failures(project) == []
    assert ran(project, lossy) == list(STAGES)
    assert ran(project, lossy) == []
    forgotten = forget_failures(project)
    assert [place.split("/")[0] for place in forgotten] == ["data", "data", "models", "tiles", "maps"]
    assert ran(project) == list(STAGES)
    assert forget_failures(project) == []
    assert ran(project) == []
    for name, stage in STAGES.items():
        place = stage.place(project, keys(project)[name])
        assert folder / place in folder.glob(PLACES[name])


@pytest.mark.parametrize("key", ["training.epochs", "imagery.framing.days", "map.tile_size", "dataset.split.seed"])
def test_what_changed_wakes_all_that_comes_after(folder: Path, key: str) -> None:
    assert ran(configure(folder, {}), telling) == list(STAGES)
    first = WAKES[key][1].split()[0]
    assert ran(configure(folder, change(key)), telling) == list(STAGES)[list(STAGES).index(first) :]


# ---------------------------------------------------------------- files


def test_changed_labels_wake_export_and_preprocess(folder: Path) -> None:
    project = configure(folder, {})
    ran(project)
    labels = folder / "labels" / "water.geojson"
    labels.write_text(labels.read_text().replace('"class": "land"', '"class": "snow"'))
    assert ran(project) == ["export", "preprocess"]


def test_a_changed_area_wakes_infer_and_postprocess(folder: Path) -> None:
    project = configure(folder, {"labels": {"files": ["labels/water.geojson"]}})
    ran(project)
    shutil.copy(folder / "wider.geojson", folder / "area.geojson")
    assert ran(project) == ["infer", "postprocess"]


def test_the_attributes_of_a_shapefile_count_though_they_lie_beside_it(folder: Path) -> None:
    table = geopandas.read_file(folder / "labels" / "water.geojson")[["class", "geometry"]]
    table.to_file(folder / "labels" / "water.shp")
    project = configure(folder, {"labels": {"files": ["labels/water.shp"], "date": "2024-05-01"}})
    ran(project)
    shape = (folder / "labels" / "water.shp").read_bytes()
    table["class"] = ["snow", "water"]
    table.to_file(folder / "labels" / "water.shp")
    assert (folder / "labels" / "water.shp").read_bytes() == shape
    assert ran(project) == ["export", "preprocess"]


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/weights.pth"])
def test_a_changed_checkpoint_on_this_machine_wakes_finetune(folder: Path, name: str) -> None:
    write_text(folder / "checkpoint" / "config.json", "{}")
    write_text(folder / "checkpoint" / "weights.pth", "1")
    project = configure(folder, {"model.weights": name})
    ran(project)
    assert ran(project) == []
    write_text(folder / "checkpoint" / "weights.pth", "2")
    assert ran(project) == ["finetune"]


def test_missing_labels_are_told_by_name(folder: Path) -> None:
    project = configure(folder, {})
    (folder / "labels" / "water.geojson").unlink()
    with pytest.raises(CoreError, match=r"labels/water\.geojson"):
        ran(project)


# ---------------------------------------------------------------- what keys do not depend on


def test_keys_depend_on_no_folder_host_or_time(folder: Path, tmp_path: Path) -> None:
    """Another folder, working folder, time zone, language, seed of hashing and owner's file times: the same keys."""
    project = configure(folder, {})
    ran(project)
    here = keys(project)
    there = tmp_path / "far" / "away" / "project"
    shutil.copytree(folder, there, copy_function=shutil.copyfile)
    for path in there.rglob("*.geojson"):
        os.utime(path, (1, 1))
    program = (
        "import json, sys; sys.path[:0] = [sys.argv[2]]; from test_stages import keys, load_project, Path\n"
        "print(json.dumps(keys(load_project(Path(sys.argv[1])))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "project", Path(__file__).parent],
        cwd=there.parent,
        env={**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOSTNAME": "other", "USER": "x"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here
    assert ran(load_project(there)) == []


def test_no_path_of_this_machine_is_in_any_manifest(folder: Path) -> None:
    ran(configure(folder, {}))
    manifests = [*folder.glob("data/*/manifest.json"), *folder.glob("*/*/manifest.json")]
    assert len(set(manifests)) == 5
    for path in manifests:
        assert str(folder.parent) not in path.read_text()


# ---------------------------------------------------------------- the table


def test_the_stages_follow_each_other_in_order() -> None:
    assert list(STAGES) == ["export", "preprocess", "finetune", "infer", "postprocess"]
    before: list[str] = []
    for name, stage in STAGES.items():
        assert stage.name == name
        assert stage.after == tuple(before[-1:])
        before.append(name)


def test_models_tiles_and_maps_have_a_place_for_each_key(folder: Path) -> None:
    project = configure(folder, {"name": "lakes"})
    places = {name: [stage.place(project, key * 64) for key in "ab"] for name, stage in STAGES.items()}
    assert places == {
        "export": ["data/export", "data/export"],
        "preprocess": ["data/dataset", "data/dataset"],
        "finetune": ["models/aaaaaaaaaaaa", "models/bbbbbbbbbbbb"],
        "infer": ["tiles/aaaaaaaaaaaa", "tiles/bbbbbbbbbbbb"],
        "postprocess": ["maps/lakes-2024-05-01-aaaaaaaa", "maps/lakes-2024-05-01-bbbbbbbb"],
    }


def test_looking_at_the_table_imports_nothing_heavy() -> None:
    program = (
        "import sys; import olmoearth_core.stages\n"
        "heavy = {'torch', 'great_expectations', 'mlflow', 'geopandas', 'zarr', 'matplotlib', 'pandas', 'rasterio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_stage_has_its_function(stage: Stage) -> None:
    import importlib

    package = {"export": "imagery", "preprocess": "dataset", "finetune": "training", "infer": "inference"}
    module = importlib.import_module(f"olmoearth_core.{package.get(stage.name, 'postprocess')}.{stage.name}")
    assert callable(getattr(module, stage.name))
