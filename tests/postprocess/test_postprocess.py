"""The stage on tiles that the stage infer made: all products, equal bytes, resume, bad luck."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from rasters import LEFT, TOP
from smallmap import CLASSES, checksums, clouds, full_disk, infer_run, odd_area, paste, postprocess_run, small_project

from olmoearth_core.errors import MappingError, StoreError
from olmoearth_core.inference.infer import infer
from olmoearth_core.postprocess.postprocess import postprocess
from olmoearth_core.project import Project
from olmoearth_core.store import PARTIAL

TESTS = Path(__file__).parents[1]
FILES = {
    "map.tif",
    "map.qml",
    "probabilities.tif",
    "confidence.tif",
    "observations.tif",
    "polygons.parquet",
    "polygons.gpkg",
    "polygons.fgb",
    "areas.csv",
    "item.json",
    "preview.png",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = small_project(tmp_path_factory.mktemp("project"), scl=clouds(), min_area=500)
    infer(infer_run(project, project.root / "tiles"))
    return project


@pytest.fixture(scope="module")
def made(project: Project) -> tuple[Path, dict]:
    """The folder of an uninterrupted run, and its summary."""
    out = project.root / "maps" / "whole"
    return out, postprocess(postprocess_run(project, project.root / "tiles", out))


def test_the_map_is_the_tiles_with_its_identity(project: Project, made: tuple[Path, dict]) -> None:
    out, summary = made
    assert set(checksums(out)) == FILES
    assert summary["map_id"] == "small-2024-05-01-abcd1234"
    pixels = paste(project.root / "tiles")
    with rasterio.open(out / "map.tif") as classes, rasterio.open(out / "probabilities.tif") as probabilities:
        assert np.array_equal(np.unique(classes.read(), return_counts=True)[1][:3], summary_pixels(summary))
        column, row = round((classes.bounds.left - LEFT) / 10), round((TOP - classes.bounds.top) / 10)
        rows, columns = slice(row, row + classes.height), slice(column, column + classes.width)
        assert np.array_equal(classes.read(1), pixels[0, rows, columns])
        assert np.array_equal(probabilities.read(), pixels[1:, rows, columns])
        for source in (classes, probabilities):
            tags = source.tags()
            assert tags["OLMOEARTH_MAP_ID"] == summary["map_id"]
            assert tags["OLMOEARTH_PROVENANCE"] == "abcd1234" * 8
            assert tags["OLMOEARTH_PROJECT"] == "small"
            assert json.loads(tags["OLMOEARTH_CLASSES"]) == {str(i): c["name"] for i, c in enumerate(CLASSES)}
            weights = project.root / "models" / "small" / "weights.safetensors"
            assert tags["OLMOEARTH_MODEL"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_observations_are_the_timesteps_that_show_a_pixel(made: tuple[Path, dict]) -> None:
    out, summary = made
    with rasterio.open(out / "observations.tif") as source, rasterio.open(out / "map.tif") as classes:
        found, shown = source.read(1), classes.read(1)
        column, row = round((source.bounds.left - LEFT) / 10), round((TOP - source.bounds.top) / 10)
    expected = sum((scl == 4).astype(int) for scl in clouds())[
        row : row + found.shape[0], column : column + found.shape[1]
    ]
    inside = found != 255
    assert inside.sum() == summary["area_pixels"]
    assert np.array_equal(found[inside], expected[inside])
    assert set(np.unique(found[inside])) == {0, 1, 2}
    assert np.array_equal(shown != 255, inside & (found > 0))


def summary_pixels(summary: dict) -> list[int]:
    return [area["pixels"] for area in summary["areas"].values()]


def test_areas_are_the_counted_pixels(made: tuple[Path, dict]) -> None:
    out, summary = made
    with (out / "areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [c["name"] for c in CLASSES]
    assert [int(row["pixels"]) for row in rows] == summary_pixels(summary)
    in_pixels = [pixels / 100 for pixels in summary_pixels(summary)]
    assert [float(row["hectares"]) for row in rows] == pytest.approx(in_pixels, rel=2e-3)  # of a UTM zone
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
    assert sum(summary_pixels(summary)) == summary["mapped_pixels"] < summary["area_pixels"]


def test_polygons_tell_the_same_area_without_small_patches(made: tuple[Path, dict]) -> None:
    out, summary = made
    polygons = gpd.read_file(out / "polygons.gpkg")
    assert polygons.geometry.area.sum() == summary["mapped_pixels"] * 100
    assert set(polygons["class"]) <= {c["name"] for c in CLASSES}
    assert len(polygons) == len(gpd.read_parquet(out / "polygons.parquet"))


def test_the_item_is_valid_stac_and_its_checksums_hold(made: tuple[Path, dict]) -> None:
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    out, summary = made
    content = json.loads((out / "item.json").read_text())
    schemas = get_local_schema_cache()
    registry = Registry().with_resources([(uri, Resource.from_contents(s)) for uri, s in schemas.items()])
    schema = next(schema for uri, schema in schemas.items() if uri.endswith("/item.json"))
    assert [error.message for error in Draft7Validator(schema, registry=registry).iter_errors(content)] == []

    item = pystac.Item.from_dict(content)
    assert item.id == summary["map_id"]
    assert [(link.rel, link.href) for link in item.links] == [("describedby", "./provenance.json")]
    assert item.ext.has("proj")
    assert item.ext.proj.code == "EPSG:32631"
    assert {asset.href for asset in item.assets.values()} == {f"./{name}" for name in FILES - {"item.json"}}
    for asset in item.assets.values():
        path = out / asset.href
        assert asset.ext.file.size == path.stat().st_size
        assert asset.ext.file.checksum == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    classes = item.assets["map"].ext.classification.classes
    assert [c.value for c in classes] == [0, 1, 2, 255]
    assert [c.color_hint for c in classes[:3]] == ["2C7FB8", "31A354", "D95F0E"]
    assert [c.name for c in classes] == ["open-water", "forest", "bare-built", "nodata"]
    with rasterio.open(out / "map.tif") as source:
        assert item.properties["proj:shape"] == list(source.shape)
        assert item.properties["proj:transform"] == list(source.transform)[:6]
    footprint = shapely.geometry.shape(item.geometry)
    assert footprint.is_valid
    assert footprint.bounds == pytest.approx(item.bbox)
    turned = gpd.GeoSeries([odd_area()], crs="EPSG:32631").to_crs("EPSG:4326")[0]
    assert footprint.symmetric_difference(turned).area < 1e-4 * turned.area
    assert item.properties["olmoearth:provenance"] == "abcd1234" * 8
    assert item.properties["start_datetime"] == "2024-05-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2024-06-29T23:59:59Z"


def test_the_preview_shows_the_classes_and_tells_no_time(made: tuple[Path, dict]) -> None:
    from matplotlib.image import imread

    picture = imread(made[0] / "preview.png")
    assert min(picture.shape[:2]) > 500
    flat = (picture[..., :3].reshape(-1, 3) * 255).round().astype(int)
    for c in CLASSES:
        colour = [int(c["color"][i : i + 2], 16) for i in (1, 3, 5)]
        assert (flat == colour).all(axis=1).sum() > 200, f"{c['name']} is not to be seen"
    content = (made[0] / "preview.png").read_bytes()
    assert b"tEXt" not in content
    assert b"tIME" not in content


def test_equal_tiles_give_equal_bytes_in_another_folder(
    project: Project, made: tuple[Path, dict], tmp_path: Path
) -> None:
    shutil.copytree(project.root / "tiles", tmp_path / "elsewhere")
    assert postprocess(postprocess_run(project, tmp_path / "elsewhere", tmp_path / "map")) == made[1]
    assert checksums(tmp_path / "map") == checksums(made[0])


CHILD = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
sys.path.insert(0, {tests!r})
from smallmap import postprocess_run
from olmoearth_core.postprocess.postprocess import postprocess
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project

class Killer(Silent):
    @contextmanager
    def bar(self, what, total=None):
        steps = 0
        def advance(n):
            nonlocal steps
            steps += n
            if steps == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

project = load_project(Path({project!r}))
postprocess(postprocess_run(project, project.root / "tiles", Path({out!r}), Killer()))
"""


def test_after_kill_9_finished_products_are_kept_and_the_rest_is_made(
    project: Project, made: tuple[Path, dict], tmp_path: Path
) -> None:
    out = tmp_path / "map"
    code = CHILD.format(tests=str(TESTS), project=str(project.root), out=str(out))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = {name: (out / name).stat().st_mtime_ns for name in ("map.tif", "probabilities.tif")}
    assert not (out / "item.json").exists()
    assert postprocess(postprocess_run(project, project.root / "tiles", out)) == made[1]
    assert checksums(out) == checksums(made[0])
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept


def test_a_product_that_changed_is_made_anew(project: Project, made: tuple[Path, dict], tmp_path: Path) -> None:
    out = tmp_path / "map"
    postprocess(postprocess_run(project, project.root / "tiles", out))
    (out / "areas.csv").write_text("class,hectares\nwater,all of it\n")
    postprocess(postprocess_run(project, project.root / "tiles", out))
    assert checksums(out) == checksums(made[0])


def test_products_of_a_whole_run_without_their_journal_come_out_the_same(
    project: Project, made: tuple[Path, dict], tmp_path: Path
) -> None:
    """As `run_stage` gives back damaged outputs: the whole ones, and nothing of the scratch."""
    run = postprocess_run(project, project.root / "tiles", tmp_path / "map")
    postprocess(run)
    shutil.rmtree(run.scratch)
    for name in ("map.tif", "item.json"):
        (run.out / name).unlink()
    assert postprocess(postprocess_run(project, project.root / "tiles", run.out)) == made[1]
    assert checksums(run.out) == checksums(made[0])


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_tile_that_changed_since_is_refused(project: Project, tmp_path: Path, damage: str) -> None:
    shutil.copytree(project.root / "tiles", tmp_path / "tiles")
    run = postprocess_run(project, tmp_path / "tiles", tmp_path / "map")
    victim = next((tmp_path / "tiles").glob("*.tif"))
    if damage == "gone":
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[-3] ^= 1
        victim.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{victim.name}.*olmoearth infer"):
        postprocess(run)
    assert not list((tmp_path / "map").glob("*.tif"))


def test_tiles_of_other_classes_are_refused(project: Project, tmp_path: Path) -> None:
    task = project.config.task
    fewer = project.config.model_copy(update={"task": task.model_copy(update={"classes": task.classes[:2]})})
    with pytest.raises(MappingError, match=r"open water, forest, bare & built.*olmoearth infer"):
        postprocess(postprocess_run(Project(project.root, fewer), project.root / "tiles", tmp_path / "map"))


def test_a_full_disk_costs_no_finished_product(project: Project, made: tuple[Path, dict], tmp_path: Path) -> None:
    out = tmp_path / "map"
    run = postprocess_run(project, project.root / "tiles", out)
    with full_disk((made[0] / "polygons.gpkg").stat().st_size - 1), pytest.raises(StoreError, match=r"polygons\.gpkg"):
        postprocess(run)
    kept = (out / "map.tif").stat().st_mtime_ns
    assert not list(out.glob(f"*{PARTIAL}"))
    assert postprocess(postprocess_run(project, project.root / "tiles", out)) == made[1]
    assert checksums(out) == checksums(made[0])
    assert (out / "map.tif").stat().st_mtime_ns == kept


def test_a_map_of_nodata_is_still_a_product(tmp_path: Path) -> None:
    cloudy = np.full((120, 120), 9, np.uint8)
    project = small_project(tmp_path, area=shapely.box(500100, 4689700, 500400, 4689900), scl=(cloudy, cloudy))
    infer(infer_run(project, tmp_path / "tiles"))
    summary = postprocess(postprocess_run(project, tmp_path / "tiles", tmp_path / "map"))
    assert summary["mapped_pixels"] == 0
    assert summary["area_pixels"] == 600
    assert set(checksums(tmp_path / "map")) == FILES
    assert len(gpd.read_file(tmp_path / "map" / "polygons.gpkg")) == 0
    assert all(area["share"] == 0 for area in summary["areas"].values())
