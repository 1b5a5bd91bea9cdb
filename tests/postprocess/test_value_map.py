"""Maps that are no segmentation, from a model to the products: measured values, and windows with one class each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from smallmap import CLASSES, checksums, clouds, infer_run, postprocess_run, small_project

from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.blend import NO_VALUE, VALUE_STEPS
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.monitoring.values import map_values
from olmoearth_core.postprocess.postprocess import postprocess
from olmoearth_core.postprocess.value_map import value_table
from olmoearth_core.project import Project

COVER = {"name": "cover", "kind": "regression", "unit": "%", "range": [20, 120]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = small_project(tmp_path_factory.mktemp("values"), scl=clouds(), task=COVER)
    infer(infer_run(project, project.root / "tiles"))
    return project


@pytest.fixture(scope="module")
def made(project: Project) -> tuple[Path, dict]:
    out = project.root / "maps" / "whole"
    return out, postprocess(postprocess_run(project, project.root / "tiles", out))


def _values(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        assert (source.dtypes, source.nodata, source.units[0] or "", source.descriptions) == (
            ("uint16",),
            NO_VALUE,
            source.units[0] or "",
            ("cover",),
        )
        stored = source.read(1)
        values = stored * source.scales[0] + source.offsets[0]
    return np.where(stored == NO_VALUE, np.nan, values)


def test_the_map_holds_values_of_the_range_and_says_how_to_read_them(project: Project, made: tuple[Path, dict]) -> None:
    out, summary = made
    assert set(checksums(out)) == {"map.tif", "map.qml", "observations.tif", "values.csv", "item.json", "preview.png"}
    values = _values(out / "map.tif")
    known = values[~np.isnan(values)]
    assert known.min() >= 20
    assert known.max() <= 120
    assert known.std() > 0.5
    tiles = project.root / "tiles"
    compared = map_values(tiles, read_plan(tiles))  # what monitoring compares: all of them, where there are few
    np.testing.assert_allclose(np.sort(compared), np.sort(known), atol=1e-3)
    assert summary["values"]["pixels"] == len(known) == summary["mapped_pixels"]
    assert summary["values"]["mean"] == pytest.approx(known.mean(), rel=2e-3)  # ground, not pixels
    assert summary["values"]["p50"] == pytest.approx(np.median(known), abs=0.01)
    assert summary["values"]["p100"] == pytest.approx(known.max(), abs=1e-3)
    assert (out / "map.qml").read_text().count("<item ") == 11


def test_neighbouring_tiles_agree_and_the_mosaic_is_theirs(project: Project, made: tuple[Path, dict]) -> None:
    with rasterio.open(made[0] / "map.tif") as mosaic:
        for path in sorted((project.root / "tiles").glob("*.tif")):
            with rasterio.open(path) as tile:
                window = mosaic.window(*tile.bounds).round_offsets().round_lengths()
                assert np.array_equal(mosaic.read(1, window=window), tile.read(1))


def test_the_table_and_the_item_tell_the_unit(made: tuple[Path, dict]) -> None:
    out, summary = made
    with (out / "values.csv").open(newline="") as file:
        rows = {row["statistic"]: row for row in csv.DictReader(file)}
    assert rows["mean"] == {"statistic": "mean", "value": str(summary["values"]["mean"]), "unit": "%"}
    assert rows["hectares"]["unit"] == "ha"
    item = pystac.Item.from_file(str(out / "item.json"))
    (band,) = item.assets["map"].extra_fields["bands"]
    assert band == {"name": "cover", "unit": "%", "raster:scale": 100 / VALUE_STEPS, "raster:offset": 20.0}
    assert "polygons" not in item.assets


def test_equal_tiles_give_equal_bytes(project: Project, made: tuple[Path, dict]) -> None:
    out = project.root / "maps" / "again"
    postprocess(postprocess_run(project, project.root / "tiles", out))
    assert checksums(out) == checksums(made[0])


def test_a_map_without_any_value_has_no_statistics(tmp_path: Path) -> None:
    path = tmp_path / "empty.tif"
    profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 1, "dtype": "uint16", "nodata": NO_VALUE}
    with rasterio.open(
        path, "w", crs="EPSG:32631", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile
    ) as file:
        file.write(np.full((1, 16, 16), NO_VALUE, np.uint16))
        file.scales, file.offsets = [0.1], [0.0]
    assert value_table([path]) == {"pixels": 0, "hectares": 0.0} | dict.fromkeys(
        ["mean", "std", "p0", "p2", "p25", "p50", "p75", "p98", "p100"]
    )


def test_another_range_than_the_models_is_refused(project: Project, tmp_path: Path) -> None:
    task = project.config.task.model_copy(update={"range": (0.0, 50.0)})
    other = Project(project.root, project.config.model_copy(update={"task": task}))
    with pytest.raises(MappingError, match=r"the model is a regression \(20.0, 120.0\) %, but task in project.yaml"):
        infer(infer_run(other, tmp_path / "tiles"))
    with pytest.raises(MappingError, match=r"the tiles hold cover \(20.0, 120.0\) %"):
        postprocess(postprocess_run(other, project.root / "tiles", tmp_path / "map"))
    classes = small_project(tmp_path / "classes")
    with pytest.raises(MappingError, match="another kind of task than a segmentation"):
        postprocess(postprocess_run(classes, project.root / "tiles", tmp_path / "map"))


def test_a_changed_tile_is_refused(project: Project, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for path in (project.root / "tiles").iterdir():
        if path.is_file():
            (tiles / path.name).write_bytes(path.read_bytes())
    broken = next(iter(sorted(tiles.glob("*.tif"))))
    broken.write_bytes(broken.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match=r"\.tif: missing, or not the file that was written"):
        postprocess(postprocess_run(project, tiles, tmp_path / "map"))


def test_a_classification_paints_windows(tmp_path: Path) -> None:
    project = small_project(tmp_path, task={"kind": "classification", "classes": CLASSES}, overlap=0)
    infer(infer_run(project, project.root / "tiles"))
    summary = postprocess(postprocess_run(project, project.root / "tiles", tmp_path / "map"))
    assert sum(area["pixels"] for area in summary["areas"].values()) == summary["mapped_pixels"] > 0
    with rasterio.open(tmp_path / "map" / "map.tif") as source:
        classes = source.read(1)
    plan = json.loads((project.root / "tiles" / "plan.json").read_text())
    assert plan["layout"]["stride"] == 16
    with rasterio.open(tmp_path / "map" / "map.tif") as source:
        column, row = round(source.bounds.left / 10), round(-source.bounds.top / 10)
    for top in range(-row % 16, classes.shape[0] - 16, 16):
        for left in range(-column % 16, classes.shape[1] - 16, 16):
            seen = classes[top : top + 16, left : left + 16]
            assert len(np.unique(seen[seen < 255])) <= 1
