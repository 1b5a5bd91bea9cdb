"""Mapping again: what changed is computed, what did not is taken over, and nobody can tell the difference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasters import LEFT, TOP, Layer, StacScene, write_catalogue
from scipy.ndimage import gaussian_filter
from shapely.geometry import Polygon
from smallmap import BANDS, checksums, infer_run, metres, small_project, square, write_area

from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.plan import read_plan, tile_windows
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.inference.reuse import reused_tiles
from olmoearth_core.manifest import MANIFEST, Manifest, describe_outputs, write_manifest
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project

PLACES = {  # left, top, width, height in pixels from the imagery's upper left
    "A": (0, 0, 256, 192), "B": (0, 0, 256, 192), "C": (0, 0, 90, 90), "D": (60, 40, 70, 50), "E": (150, 100, 60, 60),
    "F": (200, 0, 56, 192), "G": (0, 130, 256, 62), "H": (100, 0, 28, 192), "I": (30, 150, 40, 30),
    "J": (230, 170, 26, 22),
}  # fmt: skip


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def scene(name: str, seed: int) -> StacScene:
    """One of ten scenes, of two months by turns, with a cloud cover by which small ones come first."""
    left, top, width, height = PLACES[name]
    random = np.random.default_rng(seed)
    layers = {}
    for band in (*BANDS, "SCL"):
        field = gaussian_filter(random.normal(size=(height, width)), 4)
        pixels = np.full((height, width), 4, np.uint8) if band == "SCL" else (1500 + 9000 * field).clip(1, 9000)
        dtype = np.uint8 if band == "SCL" else np.uint16
        layers[band] = Layer(pixels.astype(dtype), left=LEFT + 10 * left, top=TOP - 10 * top)
    day = f"2024-0{5 + 'ABCDEFGHIJ'.index(name) % 2}-{11 + 'ABCDEFGHIJ'.index(name)}"
    return StacScene(name, day, layers, cloud_cover=width * height / 1e4)


def area() -> Polygon:
    """Cut every way, so that tiles at its edge compute fewer windows than lie around them."""
    return Polygon([metres(*at) for at in ((4, 4), (250, 4), (250, 186), (150, 186), (120, 50), (60, 186), (4, 186))])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("refresh")
    project = small_project(folder, area=area(), tile_size=64, overlap=0.25)
    shutil.rmtree(folder / "imagery")
    write_catalogue(folder / "imagery", [scene(name, seed) for seed, name in enumerate(PLACES)])
    finish(project, "first")
    return project


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Project:
    """The project with its first map, to do with as one likes."""
    shutil.copytree(project.root, tmp_path / "p")
    return load_project(tmp_path / "p")


def finish(project: Project, name: str, key: str = "1" * 64, progress: Any = None) -> Path:
    """Map, as a stage of its own, finished; the folder."""
    run = infer_run(project, project.root / "tiles" / name, progress)
    run = type(run)(**{**run.__dict__, "key": key})
    summary = infer(run)
    shutil.rmtree(run.scratch)
    outputs = describe_outputs(run.out)
    made = {"stage": "infer", "stage_version": 1, "key": key, "settings": {}, "inputs": {}}
    write_manifest(run.out, Manifest(**made, outputs=outputs, summary=summary))
    return run.out


def refresh(project: Project) -> tuple[set[str], set[str], list[str]]:
    """Ask the catalogue again and map; tiles computed, tiles taken over, what was said. Equals a full run in a copy."""
    freeze_map_scenes(project, Silent(), refresh=True)
    listener = Listener()
    out = finish(project, "second", "2" * 64, listener)
    taken = set(reused_tiles(project, "2" * 64))
    alone = project.root.parent / "alone"
    shutil.copytree(project.root, alone, ignore=shutil.ignore_patterns("tiles", ".olmoearth", "scenes"))
    assert checksums(finish(load_project(alone), "full", "2" * 64)) == checksums(out)
    shutil.rmtree(alone)
    names = {tile.name for tile in read_plan(out).tiles}
    for name in taken:
        assert (out / f"{name}.tif").samefile(project.root / "tiles" / "first" / f"{name}.tif")
    return names - taken, taken, listener.notes


def touched(project: Project, *scenes: str) -> set[str]:
    """The tiles with a window in which a pixel's centre lies in one of `scenes`, by plain arithmetic."""
    plan = read_plan(project.root / "tiles" / "first")
    (zone,) = load_areas(project.path("area.geojson"), "area.geojson", crs=None, resolution=10)
    origin = round(LEFT / 10), round(-TOP / 10)
    found = set()
    for tile in plan.tiles:
        for window in tile_windows(zone, plan.box(tile), plan.layout):
            for left, top, width, height in (PLACES[name] for name in scenes):
                column, row = window.column - origin[0], window.row - origin[1]
                if left - window.width < column < left + width and top - window.height < row < top + height:
                    found.add(tile.name)
    return found


@pytest.mark.parametrize("name", ["C", "D", "H", "J"])
def test_a_scene_processed_anew_has_exactly_its_tiles_computed_anew(copy: Project, name: str) -> None:
    write_catalogue(copy.root / "anew", [scene(name, 77)])
    shutil.rmtree(copy.root / "imagery" / name)
    shutil.move(copy.root / "anew" / name, copy.root / "imagery" / name)
    computed, taken, notes = refresh(copy)
    assert computed == touched(copy, name)
    assert len(taken) > len(computed) > 0
    assert notes[0] == (
        f"{len(taken)} of {len(taken) + len(computed)} tiles are as they were in an earlier map; "
        f"{len(computed)} to compute."
    )
    changed = {
        tile for tile in computed
        if (copy.root / f"tiles/first/{tile}.tif").read_bytes() != (copy.root / f"tiles/second/{tile}.tif").read_bytes()
    }  # fmt: skip
    assert changed, "it was worth it"
    assert set(reused_tiles(copy, "2" * 64).values()) == {"1" * 64}


def test_nothing_new_is_nothing_computed_and_the_first_run_stays_the_origin(copy: Project) -> None:
    for path in copy.root.glob("imagery/*/*"):
        path.touch()  # other times, the same content
    computed, taken, _ = refresh(copy)
    assert computed == set()
    shutil.rmtree(copy.root / "tiles" / "first")
    finish(copy, "third", "3" * 64)
    assert reused_tiles(copy, "3" * 64) == dict.fromkeys(taken, "1" * 64)


def test_another_model_computes_all(copy: Project) -> None:
    weights = copy.root / "models" / "small" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of a number's least digits
    weights.write_bytes(content)
    card = copy.root / "models" / "small" / "card.json"
    from olmoearth_core.digest import sha256_file
    from olmoearth_core.models.model_folder import read_card, save_card

    former = read_card(card.parent)
    save_card(card.parent, former.model_copy(update={"weights_sha256": sha256_file(weights)}))
    computed, taken, _ = refresh(copy)
    assert taken == set()
    assert len(computed) == len(read_plan(copy.root / "tiles" / "first").tiles)


def change_map(project: Project, **settings: Any) -> Project:
    import yaml

    values = yaml.safe_load((project.root / "project.yaml").read_text())
    for key, value in settings.items():
        section, name = key.split("__")
        values[section][name] = value
    (project.root / "project.yaml").write_text(yaml.safe_dump(values))
    return load_project(project.root)


def test_a_later_date_computes_the_tiles_whose_scenes_or_months_differ(copy: Project) -> None:
    # the first day of the spans moves past scene A (11 May), the months that the encoder reads stay
    assert touched(copy, "C") != touched(copy, "A") == {t.name for t in read_plan(copy.root / "tiles" / "first").tiles}
    moved = change_map(copy, map__date="2024-05-03")
    computed, taken, _ = refresh(moved)  # 30 days from 3 May: the same scenes in the same months
    assert computed == set()
    assert taken
    shutil.rmtree(moved.root / "tiles" / "second")
    computed, taken, _ = refresh(change_map(moved, map__date="2024-05-14"))  # without C of 13 May, and A of 11 May
    assert taken == set()


def test_another_composite_and_other_cloud_masks_compute_all(copy: Project) -> None:
    computed, taken, _ = refresh(change_map(copy, imagery__composite="median"))
    assert taken == set()
    assert computed


def test_an_area_that_grew_computes_what_is_new(copy: Project) -> None:
    grown = shapely.union(area(), square(95, 150, 36, 30))  # in the notch
    write_area(copy.root / "area.geojson", grown)
    computed, taken, _ = refresh(copy)
    assert taken
    assert computed
    new = shapely.difference(grown, area()).buffer(-1)
    plan = read_plan(copy.root / "tiles" / "second")
    assert {t.name for t in plan.tiles if plan.box(t).polygon.intersects(new)} <= computed
    far = shapely.difference(grown, area()).buffer(10)
    assert all(plan.box(t).polygon.intersects(far) for t in plan.tiles if t.name in computed)


Damage = Callable[[Path], None]


def _flip(folder: Path) -> None:
    path = min(folder.glob("*.tif"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _forge(folder: Path) -> None:
    """A tile and its record changed together: its manifest knows better."""
    path = min(folder.glob("*.tif"))
    other = max(folder.glob("*.tif"))
    record = TileRecord.model_validate_json(path.with_suffix(".json").read_bytes())
    sha = TileRecord.model_validate_json(other.with_suffix(".json").read_bytes()).sha256
    shutil.copyfile(other, path)
    path.with_suffix(".json").write_text(record.model_copy(update={"sha256": sha}).model_dump_json())


@pytest.mark.parametrize(
    "damage", [_flip, _forge, lambda f: min(f.glob("*.tif")).unlink()], ids=["bits", "forged", "gone"]
)
def test_a_tile_that_is_not_what_was_written_is_not_taken(copy: Project, damage: Damage) -> None:
    damage(copy.root / "tiles" / "first")
    lost = min(tile.name for tile in read_plan(copy.root / "tiles" / "first").tiles)
    computed, _, _ = refresh(copy)
    assert computed == {lost}


def test_tiles_of_scenes_that_could_not_be_read_are_not_taken(copy: Project) -> None:
    first = copy.root / "tiles" / "first"
    manifest = Manifest.model_validate_json((first / MANIFEST).read_bytes())
    failure = {"scene": "D", "asset": "B04", "reason": "broken"}
    write_manifest(first, manifest.model_copy(update={"summary": {**manifest.summary, "failed_assets": [failure]}}))
    computed, taken, _ = refresh(copy)
    assert computed == touched(copy, "D")
    assert taken


def test_what_nobody_vouches_for_is_not_taken(copy: Project) -> None:
    """`--refresh` takes the manifest of tiles away that lack assets."""
    (copy.root / "tiles" / "first" / MANIFEST).unlink()
    assert refresh(copy)[1] == set()


def test_what_a_killed_run_of_other_settings_left_is_taken(copy: Project) -> None:
    work = copy.state / "work" / "infer-222222222222"
    work.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(copy.root / "tiles" / "first", work)
    (work / MANIFEST).unlink()
    out = finish(copy, "second", "3" * 64)
    names = {tile.name for tile in read_plan(out).tiles}
    assert reused_tiles(copy, "3" * 64) == dict.fromkeys(names, "222222222222")
