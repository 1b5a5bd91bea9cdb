"""From labels of several tasks and kinds to samples on disk."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from numpy.testing import assert_allclose, assert_array_equal
from rasters import CRS, LEFT, TOP
from shore import DATE, clear_scene, run_to_dataset, square, write_labels, write_shore

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.dataset.gis import write_for_gis
from olmoearth_core.errors import DatasetError, ExpectationError, LabelError
from olmoearth_core.labels.tasks import read_all
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.validate import validate

LATER = "2024-07-01"
HEIGHT = {"name": "height", "kind": "regression", "unit": "m", "range": [0, 50]}
FIRES = {
    "name": "fires",
    "kind": "classification",
    "classes": [{"name": "fire", "color": "#ff0000"}, {"name": "none", "color": "#00ff00"}],
}
SCENES = [clear_scene("A", DATE, seed=1, cloudy=slice(0, 20)), clear_scene("B", LATER, seed=2)]


def write_heights(path: Path, pixels: np.ndarray | None = None) -> np.ndarray:
    """Heights that rise to the south, in m, 20 m a pixel; unknown in the north-east."""
    if pixels is None:
        pixels = np.repeat(np.linspace(0, 50, 48, dtype=np.float32)[:, None], 48, axis=1)
        pixels[:12, 24:] = -9999
    path.parent.mkdir(parents=True, exist_ok=True)
    place = rasterio.Affine(20, 0, LEFT, 0, -20, TOP)
    with rasterio.open(
        path, "w", driver="GTiff", height=48, width=48, count=1, dtype="float32", crs=CRS, transform=place, nodata=-9999
    ) as file:
        file.write(pixels, 1)
    return pixels


def write_fires(path: Path) -> list[tuple[float, float, str]]:
    """Events at middles of the lattice's 160 m blocks, all over the place."""
    events = [(x, y, ["fire", "none"][(x + y) // 160 % 2]) for x in range(85, 960, 160) for y in range(85, 960, 160)]
    labels = [(shapely.Point(LEFT + x, TOP - y), kind, LATER) for x, y, kind in events]
    write_labels(path, labels)
    return [(float(x), float(y), kind) for x, y, kind in events]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Land and water of the first date; heights of the first and events of the second beside."""
    folder = tmp_path_factory.mktemp("tasks")
    write_heights(folder / "labels/height.tif")
    write_fires(folder / "labels/fires.geojson")
    extra = [
        {"task": HEIGHT, "labels": {"files": ["labels/height.tif"], "date": DATE}, "weight": 0.5},
        {"task": FIRES, "labels": {"files": ["labels/fires.geojson"], "windows": "centred"}},
    ]
    return write_shore(folder, {"auxiliary": extra}, scenes=SCENES)


@pytest.fixture(scope="module")
def dataset(project: Project) -> Dataset:
    return open_dataset(run_to_dataset(project).folder)


def test_each_task_says_what_it_knows_of_every_window(dataset: Dataset) -> None:
    assert list(dataset.tasks) == ["main", "height", "fires"]
    assert dataset.tasks["height"].strata == ("0..10", "10..20", "20..30", "30..40", "40..50")
    heights = np.repeat(np.repeat(np.linspace(0, 50, 48, dtype=np.float32), 2)[:, None], 96, axis=1)
    heights[:24, 48:] = np.nan
    kinds = set()
    for row in range(len(dataset)):
        (sample,), box, window = dataset.read([row]), dataset.box(row), dataset.windows.iloc[row]
        assert list(sample.truths) == ["main", "height", "fires"]
        assert sample.target is not None
        seen = np.any([valid.any(axis=0) for valid in sample.valid.values()], axis=0)
        top, left = box.row + round(TOP / 10), box.column - round(LEFT / 10)
        values = sample.truths["height"].values
        assert values is not None
        assert_array_equal(np.isnan(values), sample.truths["height"].strata == IGNORE)
        for name, truth in sample.truths.items():
            assert (truth.strata[~seen] == IGNORE).all()
            counts = np.bincount(truth.strata[truth.strata != IGNORE], minlength=len(dataset.tasks[name].strata))
            counts = np.minimum(counts, 1) if name == "fires" else counts
            assert dataset.pixels(name)[row].tolist() == counts.tolist()
        if str(window["date"]) == DATE:
            padded = np.full((96 + 64, 96 + 64), np.nan, np.float32)
            padded[32:-32, 32:-32] = heights
            expected = np.where(seen, padded[top + 32 : top + 48, left + 32 : left + 48], np.nan)
            assert_allclose(values, expected, rtol=1e-6)
            assert (sample.truths["fires"].strata == IGNORE).all()
        else:
            assert (sample.target == IGNORE).all()
            assert np.isnan(values).all()
            assert np.argwhere(sample.truths["fires"].strata != IGNORE).tolist() == [[8, 8]]
            kinds.add(int(sample.truths["fires"].strata[8, 8]))
    assert kinds == {0, 1}


def test_statistics_and_reports_tell_of_all_tasks(dataset: Dataset, project: Project) -> None:
    folder = dataset.folder
    statistics = json.loads((folder / "statistics.json").read_text())
    known = {
        split: np.concatenate(
            [s.truths["height"].values.ravel() for s in dataset.read(dataset.indices(split))]  # type: ignore[union-attr]
        )
        for split in ("train", "validation", "test")
    }
    for split, values in statistics["auxiliary"]["height"]["values"].items():
        found = known[split][~np.isnan(known[split])]
        assert values["count"] == len(found)
        assert values["mean"] == pytest.approx(found.mean(), abs=0.01)
        assert values["std"] == pytest.approx(found.std(), abs=0.01)
        assert values["percentiles"]["50"] == pytest.approx(np.percentile(found, 50, method="inverted_cdf"), abs=0.01)
    events = statistics["auxiliary"]["fires"]["classes"]
    assert sum(split["pixels"] for split in events["fire"].values()) == sum(dataset.pixels("fires")[:, 0])
    assert "values" not in statistics
    quality = json.loads((folder / "labels.json").read_text())
    assert set(quality["auxiliary"]) == {"height", "fires"}
    assert quality["auxiliary"]["fires"]["classes"]["fire"]["labels"] == 18
    tables = {result["table"] for result in json.loads((folder / "expectations.json").read_text())}
    assert {"classes", "classes of height", "values of height", "classes of fires"} <= tables
    page = (folder / "expectations.html").read_text()
    assert "Values of height" in page
    assert "Labels of fires" in page


def test_ground_belongs_to_one_split_for_all_tasks(dataset: Dataset) -> None:
    split_of: dict[tuple[int, int], set[str]] = {}
    for row in range(len(dataset)):
        window = dataset.windows.iloc[row]
        split_of.setdefault((window["block_column"], window["block_row"]), set()).add(window["split"])
    assert all(len(splits) == 1 for splits in split_of.values())
    assert json.loads((dataset.folder / "labels.json").read_text())["leakage"]["overlapping_windows"] == 0
    for name in dataset.tasks:  # dealt so that each split sees each task
        for split in ("train", "validation", "test"):
            assert dataset.pixels(name)[dataset.indices(split)].sum() > 0


def test_the_targets_of_a_window_open_in_a_gis(dataset: Dataset, tmp_path: Path) -> None:
    row = next(k for k in range(len(dataset)) if (dataset.pixels("height")[k] > 0).any())
    name = str(dataset.windows["name"].iloc[row])
    write_for_gis(dataset, tmp_path, [name], {"land": "#aaaaaa", "water": "#2c7fb8"}, Silent())
    with rasterio.open(tmp_path / name / "target_height.tif") as file:
        assert_array_equal(file.read(1), dataset.read([row])[0].truths["height"].values)
        assert file.descriptions == ("height (m)",)
    assert (tmp_path / name / "target_fires.tif").exists()


def test_more_labels_of_another_task_leave_old_windows_in_their_splits(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    copytree(project.root, folder, ignore=lambda _path, names: [n for n in names if n == ".olmoearth"])
    before = open_dataset(folder / "data" / "dataset").windows.set_index("name")["split"]
    path = folder / "labels/fires.geojson"
    fires = gpd.read_file(path)
    more = gpd.GeoDataFrame(
        {"class": ["fire"] * 3, "start_datetime": [LATER] * 3},
        geometry=[shapely.Point(LEFT + x, TOP - 1085) for x in (85, 405, 805)],
        crs=CRS,
    ).to_crs(fires.crs)
    gpd.GeoDataFrame(pd.concat([fires, more]), crs=fires.crs).to_file(path)
    after = open_dataset(run_to_dataset(load_project(folder)).folder).windows.set_index("name")["split"]
    common = before.index.intersection(after.index)
    assert len(common) > 30
    assert (before[common] == after[common]).all()


def regression(folder: Path, pixels: np.ndarray | None = None, **changes: Any) -> Project:
    write_heights(folder / "labels/height.tif", pixels)
    labels = {"files": ["labels/height.tif"], "date": LATER}
    return write_shore(folder, {"task": HEIGHT, "labels": labels, **changes}, scenes=SCENES)


def test_a_regression_alone_has_values_and_no_classes(tmp_path: Path) -> None:
    project = regression(tmp_path)
    assert [f for f in validate(project, Silent()) if f.severity == "error"] == []
    result = run_to_dataset(project)
    dataset = open_dataset(result.folder)
    assert list(dataset.cubes.layout.tasks) == ["height"]
    (sample,) = dataset.read([0])
    assert sample.truths["height"].values is not None
    assert sample.truths["height"].values.dtype == np.float32
    statistics = json.loads((result.folder / "statistics.json").read_text())
    assert set(statistics["values"]) == {"train", "validation", "test"}
    assert set(statistics["classes"]) == set(dataset.classes) == {"0..10", "10..20", "20..30", "30..40", "40..50"}


def test_min_samples_does_not_ask_for_every_part_of_a_range(tmp_path: Path) -> None:
    """All between 3 and 9 m of a range of 50 m."""
    pixels = np.random.default_rng(0).uniform(3, 9, (48, 48)).astype(np.float32)
    project = regression(tmp_path, pixels)
    assert len(open_dataset(run_to_dataset(project).folder)) > 20
    (told,) = [f.message for f in validate(project, Silent()) if "all values lie in" in f.message]
    assert told == "all values lie in 0..10, of a range of 0 to 50 m; is it the right one?"


def test_values_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpectationError, match="the values in training vary"):
        run_to_dataset(regression(tmp_path, np.full((48, 48), 7, np.float32)))


def test_a_task_without_a_usable_label_is_named(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels/fires.geojson", [(square(0, 0, 1, 1), "fire", "2020-01-01")])
    extra = [{"task": FIRES, "labels": {"files": ["labels/fires.geojson"], "windows": "centred"}}]
    with pytest.raises(DatasetError, match="no window that can be used holds a label of the task 'fires'"):
        run_to_dataset(write_shore(tmp_path, {"auxiliary": extra}, scenes=SCENES))


def test_keys_of_an_auxiliary_task_are_named_as_project_yaml_has_them(tmp_path: Path) -> None:
    square_of_no_kind = [(square(0, 0, 90, 90), "smoke", LATER)]
    write_labels(tmp_path / "labels/fires.geojson", square_of_no_kind)
    fires = {"files": ["labels/fires.geojson"], "windows": "centred", "class_property": "burns"}
    extra = [
        {"task": HEIGHT, "labels": {"files": ["labels/height.tif"], "date": DATE}},
        {"task": FIRES, "labels": fires},
    ]
    write_heights(tmp_path / "labels/height.tif")
    project = write_shore(tmp_path, {"auxiliary": extra}, scenes=SCENES)
    with pytest.raises(LabelError, match=r"fires\.geojson: has no .*Set auxiliary\.1\.labels\.class_property"):
        read_all(project)
    fires.pop("class_property")
    with pytest.raises(LabelError, match=r"allowed are fire, none \(auxiliary\.1\.task\.classes\)"):
        read_all(write_shore(tmp_path, {"auxiliary": extra}, scenes=SCENES))


def test_a_class_of_an_auxiliary_task_with_too_few_windows_is_named(tmp_path: Path) -> None:
    labels = [(shapely.Point(LEFT + x, TOP - 85), "fire", LATER) for x in (85, 405, 805)]
    write_labels(tmp_path / "labels/fires.geojson", labels)
    extra = [{"task": FIRES, "labels": {"files": ["labels/fires.geojson"], "windows": "centred"}}]
    project = write_shore(tmp_path, {"auxiliary": extra}, scenes=SCENES)
    errors = [f for f in validate(project, Silent()) if f.severity == "error"]
    assert [(f.where, f.message.partition(";")[0]) for f in errors] == [
        ("auxiliary fires: labels.files", "class 'none' is in 0 of 3 training windows")
    ]
    with pytest.raises(DatasetError, match=r"too few training windows of a class of the task 'fires': .*'none' in 0"):
        run_to_dataset(project)
