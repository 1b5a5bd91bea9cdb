"""The stage export: exactly what the windows need, the same pixels as the source, and nothing lost by bad luck."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters import LEFT, TOP, StacScene, sentinel2_layers, write_catalogue

from olmoearth_core.errors import ImageryError, StoreError, TransientError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.compose import Composite, compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.footprint import lonlat_outline
from olmoearth_core.imagery.scene import SceneList, available_bands, read_scenes
from olmoearth_core.imagery.search import freeze_label_scenes
from olmoearth_core.labels.labels import read_labels
from olmoearth_core.labels.windows import training_windows
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult, run_stage
from olmoearth_core.stages import STAGES

PROJECT = """
name: small
task: {{classes: [{{name: land, color: "#aaaaaa"}}, {{name: water, color: "#0000ff"}}]}}
labels: {{files: [labels.geojson]}}
imagery:
  catalogue: imagery/catalog.json
  crs: {crs}
  framing: {{kind: period, timesteps: 3, days: 30}}
  access: {{first_pause: 0.001}}
dataset: {{}}
model: {{patch_size: 4, window_size: 16}}
training: {{}}
map: {{area: labels.geojson, date: 2024-05-01}}
"""
GRID = Grid("EPSG:32631")
BANDS = ("B02", "B08", "B05", "B01", "SCL")


def label(left: float, bottom: float, day: str = "2024-05-01") -> dict[str, Any]:
    """A water label of 40 m, at metres from the rasters' lower left corner."""
    x, y = LEFT + left, TOP - 1920 + bottom
    ring = lonlat_outline(GRID.around((x, y, x + 40, y + 40)))
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": {"class": "water", "start_datetime": day}, "geometry": geometry}


def write_labels(folder: Path, *labels: dict[str, Any]) -> None:
    (folder / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": labels}))


def make_project(folder: Path, *, crs: str = "EPSG:32631", scenes: list[StacScene] | None = None) -> Project:
    """Three scenes of 1920 m in May and July (none in June), labels in two corners."""
    folder.mkdir(parents=True, exist_ok=True)
    dates = ("2024-05-10", "2024-05-20", "2024-07-10")
    layers = [sentinel2_layers(i, size=1920, bands=BANDS, nodata=0.02, cloud=0.2) for i in range(3)]
    default = [StacScene(f"S{i}", day, layers[i], cloud_cover=30 - 10 * i) for i, day in enumerate(dates)]
    write_catalogue(folder / "imagery", default if scenes is None else scenes)
    (folder / "project.yaml").write_text(PROJECT.format(crs=crs))
    write_labels(folder, label(200, 100), label(1700, 1500))
    return load_project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project")


def run_export(project: Project) -> StageResult:
    return run_stage(STAGES["export"], STAGES, project, Silent())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def exported(result: StageResult) -> SceneList:
    return read_scenes(result.folder / "scenes.json", result.folder)


def source(project: Project) -> SceneList:
    return read_scenes(freeze_label_scenes(project, Silent()), project.root)


def composed(scenes: SceneList, where: PixelBox, steps: list[Timestep], composite: Composite) -> Cube:
    bands = available_bands(scenes, "sentinel2_l2a")
    return compose(scenes, where, steps, modality="sentinel2_l2a", bands=bands, composite=composite)


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32632"])
def test_the_export_composes_to_the_same_pixels_as_the_source(tmp_path: Path, crs: str) -> None:
    project = make_project(tmp_path / "project", crs=crs)
    result = run_export(project)
    windows = training_windows(read_labels(project), 16)
    assert result.manifest.summary["windows"] == len(windows) > 1
    for window in windows:
        steps = project.config.imagery.framing.spans(window.date)
        for composite in ("least_cloudy", "median"):
            ours = composed(exported(result), window.box, steps, composite)
            theirs = composed(source(project), window.box, steps, composite)
            assert np.array_equal(ours.data, theirs.data)
            assert np.array_equal(ours.observations, theirs.observations)
            assert ours.valid[0].mean() > 0.5
            assert not ours.valid[1].any()  # no scene in June


def touched_blocks(path: Path) -> set[tuple[int, int]]:
    with rasterio.open(path) as raster:
        rows, columns = (-(-edge // size) for edge, size in zip(raster.shape, raster.block_shapes[0], strict=True))
        return {
            (row, column)
            for row in range(rows)
            for column in range(columns)
            if raster.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1)
        }


def test_only_the_blocks_that_windows_touch_are_there(project: Project) -> None:
    """Sources have 192, 96 and 32 pixels, in blocks of 64: by hand, what two windows in opposite corners need."""
    result = run_export(project)
    assert touched_blocks(result.folder / "S0" / "B02.tif") == {(2, 0), (0, 2)}
    assert touched_blocks(result.folder / "S0" / "B05.tif") == {(1, 0), (0, 1)}
    assert touched_blocks(result.folder / "S0" / "mask.tif") == {(1, 0), (0, 1)}
    assert touched_blocks(result.folder / "S0" / "B01.tif") == {(0, 0)}
    with (
        rasterio.open(result.folder / "S0/B02.tif") as ours,
        rasterio.open(project.root / "imagery/S0/B02.tif") as theirs,
    ):
        same = ("crs", "transform", "width", "height", "nodata", "dtype", "blockxsize", "blockysize", "tiled")
        assert {key: ours.profile[key] for key in same} == {key: theirs.profile[key] for key in same}
        assert np.array_equal(ours.read(1)[:64, 128:], theirs.read(1)[:64, 128:])
        assert not ours.read(1)[:128, :64].any()


def test_bands_with_a_margin_take_the_neighbouring_block(tmp_path: Path) -> None:
    """Coarser bands need one pixel around the window: at a block's edge that is the block beside it."""
    left, top = 499_840.0, 4_689_920.0  # windows of 16 pixels begin where the blocks do
    layers = sentinel2_layers(0, size=1920, bands=("B02", "B05", "SCL"), left=left, top=top)
    project = make_project(tmp_path / "project", scenes=[StacScene("S0", "2024-05-10", layers)])
    # the window right of the boundary between the 20 m blocks, 1280 m from the left, and in the middle of their height
    write_labels(project.root, label(left + 1280 + 60 - LEFT, top - 700 - (TOP - 1920)))
    result = run_export(project)
    assert result.manifest.summary["windows"] == 1
    assert touched_blocks(result.folder / "S0" / "B02.tif") == {(1, 2)}
    assert touched_blocks(result.folder / "S0" / "mask.tif") == {(0, 1)}
    assert touched_blocks(result.folder / "S0" / "B05.tif") == {(0, 0), (0, 1)}


def test_strips_become_blocks(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    path = project.root / "imagery" / "S0" / "B02.tif"
    with rasterio.open(path) as raster:
        pixels, profile = raster.read(1), raster.profile
    plain = {key: profile[key] for key in ("crs", "transform", "width", "height", "nodata", "dtype", "count")}
    with rasterio.open(path, "w", driver="GTiff", blockysize=1, **plain) as raster:
        raster.write(pixels, 1)
    with rasterio.open(run_export(project).folder / "S0" / "B02.tif") as copy:
        assert copy.block_shapes == [(256, 256)]
        assert np.array_equal(copy.read(1), pixels)


def test_equal_work_gives_equal_bytes_and_names_no_place(tmp_path: Path) -> None:
    first, second = (run_export(make_project(tmp_path / name)) for name in ("one", "two"))
    assert contents(first.folder) == contents(second.folder)
    assert not any(str(tmp_path).encode() in content for content in contents(first.folder).values())
    assert first.record["bytes_read"] > 0
    windows = json.loads((first.folder / "windows.geojson").read_text())["features"]
    assert {window["properties"]["date"] for window in windows} == {"2024-05-01"}
    assert all(3.0 <= x < 3.1 and 42.3 < y < 42.4 for w in windows for x, y in w["geometry"]["coordinates"][0])


def test_scenes_without_a_window_in_their_time_or_place_are_left_out(tmp_path: Path) -> None:
    layers = sentinel2_layers(0, size=1920, bands=("B02",))
    beside = sentinel2_layers(0, size=1920, bands=("B02",), left=LEFT + 1920)
    scenes = [StacScene("here", "2024-05-10", layers), StacScene("beside", "2024-05-10", beside)]
    result = run_export(make_project(tmp_path / "project", scenes=scenes))
    assert [scene.id for scene in exported(result).scenes] == ["here"]
    assert not (result.folder / "beside").exists()


# ------------------------------------------------------------------ bad luck


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_an_unreadable_band_is_told_and_costs_its_scene_that_band(project: Project) -> None:
    truncate(project.root / "imagery" / "S1" / "B08.tif")
    result = run_export(project)
    (failure,) = result.manifest.summary["failed_assets"]
    assert (failure["scene"], failure["asset"]) == ("S1", "B08")
    assert "B08.tif" in failure["reason"]
    assert str(project.root) not in failure["reason"]
    assert [sorted(scene.assets) for scene in exported(result).scenes] == [
        ["B01", "B02", "B05", "B08"], ["B01", "B02", "B05"], ["B01", "B02", "B05", "B08"],
    ]  # fmt: skip
    assert not (result.folder / "S1" / "B08.tif").exists()
    window = training_windows(read_labels(project), 16)[0]
    steps = project.config.imagery.framing.spans(window.date)
    ours, theirs = (composed(s, window.box, steps, "median") for s in (exported(result), source(project)))
    assert ours.data.any()
    assert np.array_equal(ours.data[2], theirs.data[2])


def test_a_scene_without_its_classification_is_left_out(project: Project) -> None:
    """Without it, clouds would pass for ground."""
    (project.root / "imagery" / "S1" / "SCL.tif").write_bytes(b"no raster")
    result = run_export(project)
    assert [scene.id for scene in exported(result).scenes] == ["S0", "S2"]
    assert [failure["asset"] for failure in result.manifest.summary["failed_assets"]] == ["mask"]
    assert not (result.folder / "S1").exists()


def test_nothing_readable_is_an_error_that_keeps_the_former_export(project: Project) -> None:
    former = run_export(project)
    write_labels(project.root, label(300, 300))
    for path in (project.root / "imagery").glob("*/*.tif"):
        truncate(path)
    with pytest.raises(ImageryError, match=r"nothing can be read of 3 scenes.*S0 B01"):
        run_export(project)
    assert contents(former.folder)


def test_windows_beside_the_imagery_are_an_error(project: Project) -> None:
    write_labels(project.root, label(3000, 100))
    with pytest.raises(ImageryError, match="outside all 3 scenes"):
        run_export(project)


def test_windows_that_are_all_cloud_are_empty_and_no_error(tmp_path: Path) -> None:
    layers = sentinel2_layers(0, size=1920, bands=BANDS, cloud=1.0)
    project = make_project(tmp_path / "project", scenes=[StacScene("S0", "2024-05-10", layers)])
    result = run_export(project)
    window = training_windows(read_labels(project), 16)[0]
    empty = composed(exported(result), window.box, project.config.imagery.framing.spans(window.date), "median")
    assert not empty.valid.any()
    assert not empty.data.any()


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES

class Deadly:
    def note(self, message): pass
    @contextmanager
    def bar(self, what, total=None):
        done = 0
        def advance(steps):
            nonlocal done
            done += steps
            if what == "copy assets" and done == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

run_stage(STAGES["export"], STAGES, load_project(Path(sys.argv[1])), Deadly())
"""


@pytest.mark.parametrize("after", [7])
def test_after_a_kill_the_same_command_goes_on(tmp_path: Path, after: int) -> None:
    project = make_project(tmp_path / "killed")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(project.root), str(after)], check=False)
    assert killed.returncode == -9
    (work,) = (project.state / "work").glob("export-*")
    done = {path: path.stat().st_mtime_ns for path in work.glob("*/*.tif")}
    assert after <= len(done) <= 15
    result = run_export(project)
    kept = {path: (result.folder / path.relative_to(work)).stat().st_mtime_ns for path in done}
    assert kept == done  # nothing that was complete is made again
    assert contents(result.folder) == contents(run_export(make_project(tmp_path / "whole")).folder)


def test_of_a_damaged_export_only_the_damaged_copy_is_made_again(project: Project) -> None:
    before = run_export(project)
    whole = contents(before.folder)
    lost, *others = sorted(before.folder.glob("*/*.tif"))
    kept = {path: path.stat().st_ino for path in others}
    lost.write_bytes(b"rotten" + lost.read_bytes()[6:])
    after = run_export(project)
    assert not after.skipped
    assert after.manifest == before.manifest
    assert contents(after.folder) == whole
    assert {path: path.stat().st_ino for path in others} == kept


def test_an_outage_publishes_nothing_and_keeps_the_work(project: Project) -> None:
    """One asset lies at an address that nobody answers; a list without it exports whole."""
    scenes = freeze_label_scenes(project, Silent())
    whole = scenes.read_text()
    content = json.loads(whole)
    content["scenes"][1]["assets"]["B08"] = "http://127.0.0.1:1/S1/B08.tif"
    scenes.write_text(json.dumps(content))
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1/S1/B08\.tif.*the same command goes on"):
        run_export(project)
    assert not (project.root / "export").exists()
    (work,) = (project.state / "work").glob("export-*")
    assert list(work.glob("*/*.tif"))
    scenes.write_text(whole)
    assert run_export(project).manifest.summary["failed_assets"] == []


def test_a_full_disk_is_told_and_finished_copies_stay(project: Project) -> None:
    """The limit on file sizes fails the same way: the write comes back short."""
    small = 6_000
    script = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass").replace(
        "run_stage(", f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({small}, {small}))\nrun_stage("
    )
    script = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + script
    command = [sys.executable, "-c", script, str(project.root), "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.search(rf"{StoreError.__name__}: .*the disk is full", ended.stderr)
    (work,) = (project.state / "work").glob("export-*")
    assert all(path.stat().st_size <= small for path in work.glob("*/*.tif"))
    result = run_export(project)
    assert contents(result.folder)
