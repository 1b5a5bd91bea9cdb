"""The stage on real rasters with a real model: seams, nodata, resume, bad luck."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from safetensors.numpy import load_file, save_file
from smallmap import (
    CLASSES,
    SIZE,
    checksums,
    clouds,
    full_disk,
    infer_run,
    metres,
    odd_area,
    paste,
    small_project,
    square,
    write_area,
)

from olmoearth_core.errors import CheckpointError, MappingError, StoreError
from olmoearth_core.grid import Grid
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.checks import check_extent
from olmoearth_core.inference.infer import infer, make_plan
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.manifest import Manifest, describe_outputs, write_manifest
from olmoearth_core.models.model_folder import read_card
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.store import PARTIAL

TESTS = Path(__file__).parents[1]


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def with_map(project: Project, **settings: object) -> Project:
    """The same project with other settings in its section map."""
    config = project.config.model_copy(update={"map": project.config.map.model_copy(update=settings)})
    return Project(project.root, config)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds())


@pytest.fixture(scope="module")
def tiles(project: Project) -> tuple[Path, dict]:
    """The folder of an uninterrupted run, and its summary."""
    out = project.root / "tiles" / "whole"
    return out, infer(infer_run(project, out))


def test_tiles_make_no_seam_bit_for_bit(project: Project, tiles: tuple[Path, dict]) -> None:
    one = project.root / "tiles" / "one"
    summary = infer(infer_run(with_map(project, tile_size=8192), one))
    assert summary["tiles"] == 1
    assert tiles[1]["tiles"] > 4
    assert summary["windows"] == summary["windows_computed"] == tiles[1]["windows"] < tiles[1]["windows_computed"]
    assert np.array_equal(paste(one), paste(tiles[0]))
    assert len(np.unique(paste(one)[0])) == 4, "a map of one class would prove nothing"
    assert summary["class_pixels"] == tiles[1]["class_pixels"]


def test_nodata_lies_outside_the_area_and_under_clouds_and_nowhere_else(tiles: tuple[Path, dict]) -> None:
    grid, (left, top) = Grid("EPSG:32631"), metres(0, 0)
    whole = grid.around((left, top - 10 * SIZE, left + 10 * SIZE, top))
    x, y = whole.centres
    import shapely

    area = shapely.contains_xy(odd_area(), *np.meshgrid(x, y))
    first, second = clouds()
    seen = (first == 4) | (second == 4)
    pixels = paste(tiles[0])
    assert ((pixels[0] != 255) == (area & seen)).mean() > 0.9999  # the area passed through nine digits of a degree
    assert ((pixels == 255).all(axis=0) == (pixels == 255).any(axis=0)).all()
    assert tiles[1]["area_pixels"] - tiles[1]["mapped_pixels"] == pytest.approx((area & ~seen).sum(), abs=2)
    probabilities = pixels[1:, pixels[0] != 255].astype(int)
    assert abs(probabilities.sum(axis=0) - 250).max() <= 2
    assert (probabilities[pixels[0][pixels[0] != 255], np.arange(probabilities.shape[1])] == probabilities.max(0)).all()


def test_a_tile_is_a_geotiff_that_explains_itself(tiles: tuple[Path, dict]) -> None:
    path = next(tiles[0].glob("*.tif"))
    with rasterio.open(path) as tile:
        assert tile.crs.to_epsg() == 32631
        assert tile.nodata == 255
        assert tile.dtypes == ("uint8",) * 5
        assert tile.descriptions == ("class", *(f"probability of {c['name']}" for c in CLASSES), "observations")
        assert tile.scales[1:] == (0.004,) * 3 + (1.0,)
        assert tile.compression.value == "DEFLATE"
        assert set(tile.block_shapes) == {(256, 256)}
        assert all(interpretation.name != "alpha" for interpretation in tile.colorinterp)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == checksums(tiles[0])[path.name]
    plan = read_plan(tiles[0])
    assert plan.batch_sizes == [32, 16]
    assert plan.precision in ("fp32", "bf16")
    assert (tiles[0] / "scenes.json").read_bytes() == next((tiles[0].parents[1] / "scenes").glob("*.json")).read_bytes()


def test_the_same_run_gives_the_same_bytes_and_counts_what_it_cost(project: Project, tiles: tuple[Path, dict]) -> None:
    out = project.root / "tiles" / "again"
    run = infer_run(project, out)
    assert infer(run) == tiles[1]
    assert checksums(out) == checksums(tiles[0])
    assert run.meter.device_seconds > 0
    assert run.meter.bytes_read > 0
    text = "".join(path.read_text() for path in out.glob("*.json") if path.name != "manifest.json")
    assert str(project.root) not in text


CHILD = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
sys.path.insert(0, {tests!r})
from smallmap import infer_run
from olmoearth_core.inference.infer import infer
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project

class Killer(Silent):
    @contextmanager
    def bar(self, what, total=None):
        steps = 0
        def advance(n):
            nonlocal steps
            steps += n
            if steps == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

infer(infer_run(load_project(Path({project!r})), Path({out!r}), Killer()))
"""


def test_after_kill_9_the_finished_tiles_are_kept_and_the_rest_is_computed(
    project: Project, tiles: tuple[Path, dict]
) -> None:
    out = project.root / "tiles" / "killed"
    code = CHILD.format(tests=str(TESTS), project=str(project.root), out=str(out))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = {path.stem: path.stat().st_mtime_ns for path in out.glob("*.tif") if path.with_suffix(".json").exists()}
    assert 2 <= len(kept) < tiles[1]["tiles"]

    (out / f"x.tif.00{PARTIAL}").write_bytes(b"half a tile")
    listener = Listener()
    assert infer(infer_run(project, out, listener)) == tiles[1]
    assert checksums(out) == checksums(tiles[0])
    assert {name: (out / f"{name}.tif").stat().st_mtime_ns for name in kept} == kept
    assert f"{len(kept)} of {tiles[1]['tiles']} tiles" in listener.notes[0]


def test_tiles_made_by_another_plan_are_made_anew(project: Project, tiles: tuple[Path, dict]) -> None:
    out = project.root / "tiles" / "other"
    shutil.copytree(tiles[0], out)
    plan = json.loads((out / "plan.json").read_text())
    plan["precision"] = "fp32" if plan["precision"] == "bf16" else "bf16"
    (out / "plan.json").write_text(json.dumps(plan))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tif")}
    listener = Listener()
    assert infer(infer_run(project, out, listener)) == tiles[1]
    assert checksums(out) == checksums(tiles[0])
    assert all(path.stat().st_mtime_ns != former for path, former in before.items())
    assert "another plan" in listener.notes[0]


def test_a_tile_that_changed_is_computed_anew(project: Project, tiles: tuple[Path, dict]) -> None:
    out = project.root / "tiles" / "changed"
    shutil.copytree(tiles[0], out)
    damaged, *others = sorted(out.glob("*.tif"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    before = [path.stat().st_mtime_ns for path in others]
    infer(infer_run(project, out))
    assert checksums(out) == checksums(tiles[0])
    assert [path.stat().st_mtime_ns for path in others] == before


def test_a_full_disk_is_one_clear_error_and_costs_no_finished_tile(project: Project, tiles: tuple[Path, dict]) -> None:
    out = project.root / "tiles" / "full"
    sizes = sorted(path.stat().st_size for path in tiles[0].glob("*.tif"))
    run = infer_run(project, out)
    with full_disk(sizes[-1] - 1), pytest.raises(StoreError, match=r"\.tif: the disk is full. Finished work is kept"):
        infer(run)
    finished = [path for path in out.glob("*.tif") if path.with_suffix(".json").exists()]
    assert 0 < len(finished) < tiles[1]["tiles"]
    assert not list(out.rglob(f"*{PARTIAL}"))
    infer(infer_run(project, out))
    assert checksums(out) == checksums(tiles[0])


def test_a_tile_under_clouds_is_nodata_and_named(tmp_path: Path) -> None:
    cloudy = np.full((SIZE, SIZE), 4, np.uint8)
    cloudy[:56] = 9  # the upper tiles of the area
    project = small_project(tmp_path, area=square(0, 0, 40, 110), scl=(cloudy, cloudy))
    listener = Listener()
    summary = infer(infer_run(project, tmp_path / "tiles", listener))
    assert summary["empty_tiles"]
    assert len(summary["empty_tiles"]) < summary["tiles"]
    with rasterio.open(tmp_path / "tiles" / f"{summary['empty_tiles'][0]}.tif") as tile:
        bands = tile.read()
        assert (bands[:-1] == 255).all()
        assert (bands[-1] == 0).all(), "observations: within the area, and never seen"
    assert summary["mapped_pixels"] == 40 * 54
    assert summary["windows_seen"] < summary["windows_computed"]
    assert any("no valid observation" in note for note in listener.notes)


def test_an_area_without_any_clear_observation_is_a_map_of_nodata(tmp_path: Path) -> None:
    cloudy = np.full((SIZE, SIZE), 9, np.uint8)
    project = small_project(tmp_path, area=square(4, 4, 20, 20), scl=(cloudy, cloudy))
    listener = Listener()
    summary = infer(infer_run(project, tmp_path / "tiles", listener))
    assert summary["mapped_pixels"] == summary["windows_seen"] == 0
    assert listener.notes[0].startswith("Computing ")
    assert listener.notes[1:] == ["No pixel of the area has a valid observation: the map holds nodata only."]


def test_an_area_outside_the_imagery_is_refused(project: Project, tmp_path: Path) -> None:
    run = infer_run(project, tmp_path / "tiles")
    far = tmp_path / "far.geojson"
    write_area(far, square(4000, 0, 50, 50))
    run.files["area.geojson"] = far  # type: ignore[index]
    with pytest.raises(MappingError, match=r"area\.geojson.*outside the imagery"):
        infer(run)
    assert not list((tmp_path / "tiles").glob("*.tif"))


def test_a_catalogue_that_is_gone_since_its_search_is_told(project: Project, tmp_path: Path) -> None:
    run = infer_run(project, tmp_path)
    (project.root / "imagery").rename(project.root / "elsewhere")
    try:
        with pytest.raises(MappingError, match=r"imagery/catalog\.json: the catalogue is not there any more"):
            infer(run)
    finally:
        (project.root / "elsewhere").rename(project.root / "imagery")


def test_where_no_asset_can_be_read_the_map_is_nodata_and_says_so(tmp_path: Path) -> None:
    project = small_project(tmp_path, area=square(16, 16, 20, 20))
    run = infer_run(project, tmp_path / "tiles")
    for path in (tmp_path / "imagery").rglob("*.tif"):
        path.unlink()
    summary = infer(run)
    assert summary["mapped_pixels"] == 0
    assert {Path(failure["asset"]).stem for failure in summary["failed_assets"]}
    assert summary["empty_tiles"]


def test_a_model_of_other_classes_is_refused(project: Project, tmp_path: Path) -> None:
    task = project.config.task
    fewer = Project(
        project.root,
        project.config.model_copy(update={"task": task.model_copy(update={"classes": task.classes[:2]})}),
    )
    with pytest.raises(MappingError, match=r"predicts open water, forest, bare & built.*olmoearth finetune"):
        infer(infer_run(fewer, tmp_path / "tiles"))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "other"])
def test_a_damaged_model_is_refused(project: Project, tmp_path: Path, damage: str) -> None:
    shutil.copytree(project.root, tmp_path / "p", ignore=shutil.ignore_patterns("tiles"))
    copy = load_project(tmp_path / "p")
    weights = copy.root / "models" / "small" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flipped":
        content[-5] ^= 16
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        weights.unlink()
    else:
        tensors = load_file(weights)
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        infer(infer_run(copy, tmp_path / "tiles"))


def test_an_unreadable_asset_is_left_out_and_told_also_after_a_resume(tmp_path: Path) -> None:
    project = small_project(tmp_path)
    whole = infer(infer_run(project, tmp_path / "whole"))
    assert whole["failed_assets"] == []
    (tmp_path / "imagery" / "B" / "B04.tif").write_bytes(b"this is no GeoTIFF")
    listener = Listener()
    summary = infer(infer_run(project, tmp_path / "tiles", listener))
    assert [(f["scene"], f["asset"]) for f in summary["failed_assets"]] == [("B", "B04")]
    assert summary["mapped_pixels"] == whole["mapped_pixels"]  # the other date remains
    assert any("B04 of B" in note for note in listener.notes)
    assert infer(infer_run(project, tmp_path / "tiles")) == summary


def test_of_damaged_tiles_the_whole_ones_and_what_they_lack_are_kept(tmp_path: Path) -> None:
    """As `run_stage` gives them back: the damaged files gone, no journal, the former manifest in scratch."""
    project = small_project(tmp_path)
    (tmp_path / "imagery" / "B" / "B04.tif").write_bytes(b"this is no GeoTIFF")
    run = infer_run(project, tmp_path / "tiles")
    summary = infer(run)
    assert summary["failed_assets"]
    before = checksums(run.out)
    finished = Manifest(
        stage="infer",
        stage_version=1,
        key=run.key,
        settings={},
        inputs={},
        outputs=describe_outputs(run.out),
        summary=summary,
    )
    for lost in (min(run.out.glob("*.tif")), run.out / "plan.json"):
        shutil.rmtree(run.scratch)
        write_manifest(run.scratch, finished)
        lost.unlink()
        kept = {path: path.stat().st_mtime_ns for path in run.out.glob("*.tif")}
        assert infer(infer_run(project, run.out)) == summary
        assert checksums(run.out) == before
        assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_specks_far_apart_are_refused_before_anything_is_computed(project: Project) -> None:
    areas = load_areas(project.path("area.geojson"), "area.geojson", crs=None, resolution=10)
    card = read_card(project.root / "models" / "small")
    plan = make_plan(project.config, areas, card, torch.device("cpu"))
    check_extent(plan.tiles, "area.geojson")
    far = plan.tiles[0].model_copy(update={"column": plan.tiles[0].column + 200_000, "row": plan.tiles[0].row + 90_000})
    with pytest.raises(MappingError, match=r"area\.geojson: its parts lie so far apart .* 200,0\d\d x 90,0\d\d pixels"):
        check_extent([*plan.tiles, far], "area.geojson")
