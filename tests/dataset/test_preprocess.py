"""From labels and real rasters to a training set, with the bad luck that a partner has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from shore import BANDS, DATE, SIZE, clear_scene, digest, halves, run_to_dataset, square, write_shore

from olmoearth_core.dataset import compose
from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.dataset.preprocess import preprocess
from olmoearth_core.dataset.statistics import PERCENTILES
from olmoearth_core.errors import DatasetError, ExpectationError
from olmoearth_core.grid import Grid
from olmoearth_core.labels.split import BlockTable
from olmoearth_core.labels.windows import IGNORE, TrainingWindow
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import Meter, StageRun, Upstream, run_stage
from olmoearth_core.stages import STAGES

OUTPUTS = {
    "windows.parquet", "splits.json", "left_out.json", "statistics.json", "labels.json", "expectations.json",
    "expectations.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two dates, the second with clouds over the west."""
    scenes = [clear_scene("A", DATE, seed=1), clear_scene("B", "2024-07-01", seed=2, cloudy=slice(0, 40))]
    project = write_shore(tmp_path_factory.mktemp("shore"), scenes=scenes, labels=halves(DATE, "2024-07-01"))
    result = run_to_dataset(project)
    return open_dataset(result.folder)


def test_the_pixels_are_those_of_the_scene(dataset: Dataset) -> None:
    scene = clear_scene("A", DATE, seed=1)
    inner = [k for k in range(len(dataset)) if dataset.windows["valid_share"].iloc[k] == 1]
    index = next(k for k in inner if str(dataset.windows["date"].iloc[k]) == DATE)
    sample, box = dataset.read([index])[0], dataset.box(index)
    column, row = box.column - 50_004, box.row + 469_002  # the rasters' upper left corner
    for band, name in enumerate(dataset.bands["sentinel2_l2a"]):
        expected = scene.layers[name].pixels[row : row + 16, column : column + 16]
        assert (sample.inputs["sentinel2_l2a"][0, band] == expected).all()
    assert dataset.bands == {"sentinel2_l2a": BANDS}
    assert sample.dates.tolist() == [np.datetime64(DATE).item()]
    x, _ = box.centres
    assert (sample.target == (x >= 500_040 + SIZE / 2).astype(np.uint8)[None, :]).all()


def test_clouds_are_neither_valid_nor_labelled(dataset: Dataset) -> None:
    later = [k for k in range(len(dataset)) if str(dataset.windows["date"].iloc[k]) == "2024-07-01"]
    for k in later:
        sample, (x, _) = dataset.read([k])[0], dataset.box(k).centres
        cloudy = x < 500_040 + 400
        assert not sample.valid["sentinel2_l2a"][0][:, cloudy].any()
        assert (sample.inputs["sentinel2_l2a"][0][..., cloudy] == 0).all()
        assert (sample.target[:, cloudy] == IGNORE).all()


def test_all_cloud_windows_are_left_out_and_told(dataset: Dataset) -> None:
    left_out = json.loads((dataset.folder / "left_out.json").read_text())
    hidden = [item["window"] for item in left_out if item["reason"].startswith("no valid pixel: clouds")]
    assert len(hidden) == 14  # two of seven columns, seven rows
    assert all(name.startswith("20240701") for name in hidden)
    assert not set(hidden) & set(dataset.windows["name"])
    manifest = json.loads((dataset.folder / "manifest.json").read_text())
    assert sum(manifest["summary"]["left_out"].values()) == len(left_out)
    assert len(dataset) + len(left_out) == 98


def test_the_table_of_windows(dataset: Dataset) -> None:
    table = gpd.read_parquet(dataset.folder / "windows.parquet")
    assert table.crs == "EPSG:32631"
    for k in range(len(table)):
        sample, row = dataset.read([k])[0], table.iloc[k]
        assert row.geometry.equals(dataset.box(k).polygon)
        counts = np.bincount(sample.target[sample.target != IGNORE], minlength=2)
        assert counts.tolist() == [row["pixels_land"], row["pixels_water"]]
        assert row["valid_share"] == pytest.approx(sample.valid["sentinel2_l2a"].mean(), abs=1e-6)
        assert list(row["scenes"]) == ["A" if str(row["date"]) == DATE else "B"]
    assert dataset.indices("train") == np.flatnonzero(table["split"] == "train").tolist()
    assert set(table["split"]) == {"train", "validation", "test"}


def test_a_place_has_one_split_on_all_dates(dataset: Dataset) -> None:
    table = BlockTable.from_json(json.loads((dataset.folder / "splits.json").read_text()))
    for k in range(len(dataset)):
        assert table.split_of(dataset.box(k)) == dataset.windows["split"].iloc[k]
    assert (dataset.windows.groupby(["column", "row"])["split"].nunique() == 1).all()
    assert (dataset.windows.groupby(["column", "row"]).size() == 2).any()


def test_statistics_are_those_of_valid_training_pixels(dataset: Dataset) -> None:
    statistics = json.loads((dataset.folder / "statistics.json").read_text())
    samples = dataset.read(dataset.indices("train"))
    for band, name in enumerate(BANDS):
        values = np.concatenate([s.inputs["sentinel2_l2a"][:, band][s.valid["sentinel2_l2a"]] for s in samples])
        told = statistics["bands"]["sentinel2_l2a"][name]
        assert (told["count"], told["min"], told["max"]) == (len(values), values.min(), values.max())
        assert told["mean"] == pytest.approx(values.mean(), abs=1e-3)
        assert told["std"] == pytest.approx(values.std(), abs=1e-3)
        expected = np.percentile(values, PERCENTILES, method="inverted_cdf")
        assert [told["percentiles"][str(p)] for p in PERCENTILES] == expected.tolist()
    water = sum((sample.target == 1).sum() for sample in samples)
    assert statistics["classes"]["water"]["train"]["pixels"] == water


def test_few_files_that_xarray_opens(dataset: Dataset) -> None:
    files = [path for path in dataset.folder.rglob("*") if path.is_file()]
    assert len(files) <= 20  # two an array and the tables, however many windows there are
    assert {path.name for path in dataset.folder.iterdir() if path.is_file()} == {*OUTPUTS, "manifest.json"}
    with xr.open_zarr(dataset.folder / "cubes.zarr", consolidated=False) as cubes:
        assert cubes["sentinel2_l2a"].dims == ("window", "time", "sentinel2_l2a_band", "y", "x")
        row = int(dataset.windows["cube"].iloc[3])
        assert (cubes["sentinel2_l2a"][row].values == dataset.read([3])[0].inputs["sentinel2_l2a"]).all()
        assert cubes["dates"][row].values.astype("datetime64[D]").tolist() == dataset.read([3])[0].dates.tolist()


def test_the_same_work_gives_the_same_bytes_under_any_name_and_colour(dataset: Dataset, tmp_path: Path) -> None:
    scenes = [clear_scene("A", DATE, seed=1), clear_scene("B", "2024-07-01", seed=2, cloudy=slice(0, 40))]
    changes = {
        "name": "another",
        "task.classes": [{"name": "land", "color": "#010101"}, {"name": "water", "color": "#020202"}],
    }
    again = run_to_dataset(write_shore(tmp_path, changes, scenes=scenes, labels=halves(DATE, "2024-07-01")))
    assert digest(again.folder) == digest(dataset.folder)


@pytest.mark.parametrize("lost", ["sentinel2_l2a/c", "target/zarr.json", "zarr.json"])
def test_a_damaged_training_set_comes_out_the_same(dataset: Dataset, lost: str) -> None:
    before = digest(dataset.folder)
    path = dataset.folder / "cubes.zarr" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    project = load_project(next(p for p in dataset.folder.parents if (p / "project.yaml").exists()))
    assert not run_stage(STAGES["preprocess"], STAGES, project, Silent()).skipped
    assert digest(dataset.folder) == before


def test_the_report_reads_offline_and_names_no_time(dataset: Dataset) -> None:
    page = (dataset.folder / "expectations.html").read_text()
    assert "Fit for training" in page
    assert "no valid pixel: clouds" in page
    assert not [word for word in ("http", "<script", "<link") if word in page]
    assert str(dataset.folder.parents[1]) not in page


def test_an_empty_month_stays_invalid(tmp_path: Path) -> None:
    framing = {"kind": "period", "timesteps": 3, "days": 30, "offset_days": -30}
    scenes = [clear_scene("A", DATE, seed=1), clear_scene("C", "2024-06-03", seed=3)]
    project = write_shore(tmp_path, {"imagery.framing": framing}, scenes=scenes)
    dataset = open_dataset(run_to_dataset(project).folder)
    assert dataset.timesteps == 3
    for sample in dataset.read(range(len(dataset))):
        assert not sample.valid["sentinel2_l2a"][0].any()
        assert (sample.inputs["sentinel2_l2a"][0] == 0).all()
        assert sample.valid["sentinel2_l2a"][1:].any(axis=(1, 2)).all()
        assert [str(day) for day in sample.dates] == ["2024-04-16", "2024-05-16", "2024-06-15"]
    assert set(dataset.windows["timesteps_seen"]) == {2}


def test_nothing_but_clouds(tmp_path: Path) -> None:
    project = write_shore(tmp_path, scenes=[clear_scene("A", DATE, cloudy=slice(0, None))])
    with pytest.raises(DatasetError, match=r"no window can be used\. Left out: 49 \(no valid pixel: clouds"):
        run_to_dataset(project)
    assert not (tmp_path / "data/dataset").exists()


def test_a_class_with_one_sample(tmp_path: Path) -> None:
    classes = [{"name": name, "color": "#aaaaaa"} for name in ("land", "water", "ice")]
    labels = [*halves(DATE), (square(300, 300, 320, 320), "ice", DATE)]
    project = write_shore(tmp_path, {"task.classes": classes}, labels=labels)
    with pytest.raises(DatasetError) as caught:
        run_to_dataset(project)
    assert "'ice' in 0" in str(caught.value)  # land lies over it: nothing is known there
    labels = [(square(0, 0, 290, SIZE), "land", DATE), *halves(DATE)[1:], (square(330, 300, 350, 320), "ice", DATE)]
    project = write_shore(tmp_path, {"task.classes": classes}, labels=labels)
    with pytest.raises(DatasetError, match=r"too few training windows of a class: 'ice' in 1; dataset\.min_samples"):
        run_to_dataset(project)


def test_one_class_only(tmp_path: Path) -> None:
    project = write_shore(tmp_path, labels=halves(DATE)[:1])
    with pytest.raises(DatasetError, match="'water' in 0"):
        run_to_dataset(project)


def test_values_that_are_no_reflectance_stop_the_run_and_leave_a_report(tmp_path: Path) -> None:
    project = write_shore(tmp_path, scenes=[clear_scene("A", DATE, high=60_000)])
    with pytest.raises(ExpectationError) as caught:
        run_to_dataset(project)
    report = tmp_path / ".olmoearth/expectations.html"
    assert "reflectances x 10000" in str(caught.value)
    assert str(report) in str(caught.value)
    assert "Not fit for training" in report.read_text()
    assert "sentinel2_l2a B08" in report.read_text()
    assert not (tmp_path / "data/dataset").exists()


def test_a_warning_only_tells(tmp_path: Path) -> None:
    labels = [*halves(DATE), (square(0, 0, 200, 200), "water", DATE)]
    project = write_shore(tmp_path, labels=labels)
    notes: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    run_stage(STAGES["export"], STAGES, project, Silent())
    result = run_stage(STAGES["preprocess"], STAGES, project, Listener())
    assert any("hardly overlap" in warning for warning in result.manifest.summary["warnings"])
    assert any("hardly overlap" in note for note in notes)
    assert result.manifest.summary["conflicting_pixels"] == 400
    assert "with 1 warning." in (result.folder / "expectations.html").read_text()


def test_an_export_that_cannot_be_read_loses_no_observation_silently(tmp_path: Path) -> None:
    project = write_shore(tmp_path)
    export = run_stage(STAGES["export"], STAGES, project, Silent())
    (export.folder / "A/B03.tif").write_bytes(b"II*")
    upstream = {"export": Upstream(export.folder, export.manifest)}
    run = StageRun(project, tmp_path / "out", upstream, {}, Silent(), Meter())
    with pytest.raises(DatasetError, match="the export is damaged: B03 of scene A"):
        preprocess(run)
    assert not list(run.scratch.glob("*.npz"))  # nothing that lacks it is kept for the next run


def test_labels_between_pixel_centres(tmp_path: Path) -> None:
    project = write_shore(tmp_path, {"labels.files": ["labels/tiny.gpkg"]})
    frame = gpd.GeoDataFrame(
        {"class": ["land"], "start_datetime": [DATE]}, geometry=[square(6, 6, 9, 9)], crs="EPSG:32631"
    )
    frame.to_file(tmp_path / "labels/tiny.gpkg")
    with pytest.raises(DatasetError, match=r"no window can be used\. Left out: 1 \(no pixel is labelled"):
        run_to_dataset(project)


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no training set that can be opened.*olmoearth preprocess"):
        open_dataset(tmp_path)


def run_program(folder: Path, log: Path, stop: str = "") -> tuple[int, str]:
    """(exit code, digest) of the stage as a program of its own."""
    program = Path(__file__).with_name("preprocess_program.py")
    environment = {**os.environ, "LOG": str(log), "STOP": stop, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode <= 0, done.stderr
    return done.returncode, done.stdout.strip()


def test_neighbours_are_windows_of_one_date_that_lie_close() -> None:
    grid, day, later = Grid("EPSG:32631", 10.0), date(2024, 5, 1), date(2024, 6, 1)

    def window(row: int, column: int, day: date = day) -> TrainingWindow:
        return TrainingWindow(f"{day}_{row}_{column}", grid.box(column * 16, row * 16, 16, 16), day)

    close = [window(row, column) for row in range(4) for column in range(4)]
    other_square, other_day = window(0, 8), window(0, 0, later)
    far = [window(16, 0), window(23, 7)]  # two in the corners of a square
    groups = list(compose.neighbours([*close, other_square, other_day, *far]))
    assert groups == [close, [other_square], [other_day], [far[0]], [far[1]]]


def test_windows_composed_together_are_those_composed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = run_to_dataset(write_shore(tmp_path / "together"))
    monkeypatch.setattr(compose, "DENSE", 2.0)
    alone = run_to_dataset(write_shore(tmp_path / "alone"))
    assert alone.manifest.outputs_digest == together.manifest.outputs_digest


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    project = write_shore(tmp_path)
    run_stage(STAGES["export"], STAGES, project, Silent())
    log = tmp_path / "composed.txt"
    stops = ["group:10", "shard:2", "report"]
    assert [run_program(tmp_path, log, stop)[0] for stop in stops] == [-9, -9, -9]
    composed = log.read_text().split()
    code, resumed = run_program(tmp_path, log)
    assert code == 0
    assert log.read_text().split() == composed  # all windows were there before
    # four windows at most that were under way in a thread when the process died are composed again; no other is
    threads = min(16, os.cpu_count() or 1)
    assert len(set(composed)) == 49
    assert len(composed) - 49 <= 4 * 2 * threads

    (tmp_path / "fresh").mkdir()
    fresh = write_shore(tmp_path / "fresh")
    run_stage(STAGES["export"], STAGES, fresh, Silent())
    assert run_program(tmp_path / "fresh", tmp_path / "fresh.txt") == (0, resumed)


def test_the_reservoir(real_data: Path, tmp_path: Path) -> None:
    days = ("2020-06-21", "2020-09-14")
    changes = {
        "labels.files": [str(real_data / f"reservoir/labels/water_{day}.geojson") for day in days],
        "imagery.catalogue": str(real_data / "reservoir/catalog.json"),
        "model": {"patch_size": 4, "window_size": 64},
        "dataset": {},
    }
    result = run_to_dataset(write_shore(tmp_path, changes))
    dataset = open_dataset(result.folder)
    assert len(dataset) == 98
    assert result.manifest.summary["warnings"] == []
    pixels = dataset.windows[["pixels_land", "pixels_water"]].sum()
    assert pixels.sum() == 2 * 372 * 372  # the labels cover the square on both dates
    assert pixels["pixels_water"] == 55_821
    assert len(dataset.bands["sentinel2_l2a"]) == 12
    shares = dataset.windows["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.6, abs=0.1)


def test_names_of_classes_are_escaped_in_the_report(tmp_path: Path) -> None:
    classes = [{"name": "<b>land</b>", "color": "#aaaaaa"}, {"name": "water", "color": "#2c7fb8"}]
    labels = [(geometry, name.replace("land", "<b>land</b>"), day) for geometry, name, day in halves(DATE)]
    result = run_to_dataset(write_shore(tmp_path, {"task.classes": classes}, labels=labels))
    page = (result.folder / "expectations.html").read_text()
    assert "&lt;b&gt;land&lt;/b&gt;" in page
    assert "<b>land" not in page
