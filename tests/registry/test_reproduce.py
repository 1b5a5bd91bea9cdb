"""A map made again: equal where nothing changed, and where something did, the verdict and the reason say so."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from madeagain import mapped_project, record_all
from smallmap import checksums

from flows.errors import FlowError
from flows.recorded import run_in
from flows.reproduce import reproduce
from olmoearth_core.again.compare import compare_rasters
from olmoearth_core.again.recipe import read_made, read_recipe
from olmoearth_core.errors import CoreError, MappingError
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.stage import StageResult
from registry.errors import RegistryError
from registry.objects import keep
from registry.reproduce.code_archive import differing_files, pack_source, unpack_source
from registry.reproduce.lay_out import Wish
from registry.reproduce.reproduction import Reproduction
from registry.workspace import Workspace


@dataclass(frozen=True)
class House:
    """A workspace that knows one project with one real map."""

    project: Project
    workspace: Workspace
    results: dict[str, StageResult]

    @property
    def map(self) -> Path:
        return self.results["postprocess"].folder / "map.tif"

    @property
    def id(self) -> str:
        return self.map.parent.name

    def again(self, asked: str | Path, into: Path, **wish: Any) -> Reproduction:
        return reproduce(str(asked), into, Wish(**wish), "current", Silent())

    def sql(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.workspace.home / "registry.db")) as connection, connection:
            connection.execute(statement, values)


@pytest.fixture(scope="module")
def built(models_home: Workspace, tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made once; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    workspace = Workspace.at(folder / "home", tracking_uri=models_home.tracking_uri)
    project = mapped_project(folder / "remade", name="remade")  # an experiment of its own in MLflow
    return House(project, workspace, record_all(project, workspace))


@pytest.fixture
def house(built: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """The house, in force for this process; tests put back what they change."""
    monkeypatch.setenv("OLMOEARTH_HOME", str(built.workspace.home))
    return built


@pytest.fixture
def copy(built: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A copy of the workspace that a test may spoil; the project is where it was."""
    home = shutil.copytree(built.workspace.home, tmp_path / "home")
    monkeypatch.setenv("OLMOEARTH_HOME", str(home))
    return House(built.project, Workspace.at(home), built.results)


@pytest.fixture
def no_project(house: House) -> Iterator[House]:
    """The house without its project folder: another machine, but for the imagery, which is in `moved`."""
    elsewhere = house.project.root.with_name("moved")
    house.project.root.rename(elsewhere)
    yield house
    elsewhere.rename(house.project.root)


def test_all_tiles_and_products_come_out_bit_for_bit(house: House, tmp_path: Path) -> None:
    before = checksums(house.project.root)
    found = house.again(house.map, tmp_path / "again")
    assert (found.verdict, found.reasons, found.same_weights) == ("equal", [], None)
    assert len(found.tiles) == found.recorded_tiles == 6
    assert {one.outcome for one in (*found.tiles, *found.products)} == {"equal"}
    assert "bit for bit" in found.sentence
    made = checksums(tmp_path / "again" / "made" / "map")
    assert made == checksums(house.map.parent), "every product, tags and STAC Item among them"
    assert checksums(house.project.root) == before, "the project is not touched"
    report = json.loads((tmp_path / "again" / "report.json").read_text())
    assert (report["verdict"], report["holds"], report["map"]) == ("equal", True, house.id)


def test_an_empty_folder_is_enough(no_project: House, tmp_path: Path) -> None:
    """Only the registry and the stores: no project folder, no MLflow server asked, a sample of tiles, the dataset."""
    with pytest.raises(
        RegistryError, match=r"the imagery of this map lay in .*remade/imagery/catalog.json.*--catalogue"
    ):
        no_project.again(no_project.id, tmp_path / "lost")
    imagery = no_project.project.root.with_name("moved") / "imagery" / "catalog.json"
    found = no_project.again(no_project.id, tmp_path / "again", tiles=2, catalogue=str(imagery), dataset=True)
    assert (found.verdict, found.reasons) == ("equal", [])
    assert found.sentence.startswith("Equal: 2 of 6 tiles of ")
    assert (tmp_path / "again" / "dataset" / "cubes.zarr").is_dir()
    assert not found.products
    recipe = read_recipe(tmp_path / "again")
    assert recipe.tiles is not None
    assert len(set(recipe.tiles)) == 2


def test_the_code_of_that_time_does_it_alone(house: House, tmp_path: Path) -> None:
    """What `--environment recorded` runs: the kept code in a process of its own, without registry and project."""
    folder = tmp_path / "again"
    house.again(house.id, folder, tiles=1)
    first = read_made(folder)
    shutil.rmtree(folder / "made")
    (tmp_path / "code.tar").write_bytes(pack_source())
    unpack_source(tmp_path / "code.tar", tmp_path / "code")
    (tmp_path / "code" / "registry" / "__init__.py").write_text("raise ImportError('not needed')\n")
    run_in(Path(sys.executable), tmp_path / "code", folder)
    assert read_made(folder).tiles == first.tiles


def test_an_asset_that_is_gone_is_named(house: House, tmp_path: Path) -> None:
    asset = house.project.root / "imagery" / "A" / "B03.tif"
    asset.rename(tmp_path / "B03.tif")
    try:
        found = house.again(house.map, tmp_path / "again")
    finally:
        (tmp_path / "B03.tif").rename(asset)
    assert found.verdict == "differs"
    assert not found.holds
    assert any("the asset B03 of the scene A cannot be read" in reason for reason in found.reasons), found.reasons
    assert found.difference.largest > 0
    assert found.difference.pixels >= 4 * 1000, "compared pixel by pixel with the recorded tiles"


def test_other_libraries_code_and_hardware_are_named(copy: House, tmp_path: Path) -> None:
    """Rows of a run elsewhere: its packages and code are in the store as any run's are."""
    store = f"{copy.workspace.artifacts}/objects"
    packages = keep(store, b'["numpy==1.26.0","python==3.11.2","torch==2.9.1"]')
    tree = tmp_path / "tree"
    (tmp_path / "code.tar").write_bytes(pack_source())
    unpack_source(tmp_path / "code.tar", tree)
    (tree / "olmoearth_core" / "grid.py").write_text("# another grid\n")
    assert differing_files(tmp_path / "code.tar", tree) == ["olmoearth_core/grid.py"]
    code = keep(store, pack_source(tree))
    hardware = json.dumps({"processor": "abacus", "gpus": ["H200"]})
    copy.sql("UPDATE runs SET environment_sha256 = ?, code_sha256 = ?, hardware = ?", packages, code, hardware)
    found = copy.again(copy.id, tmp_path / "again", tiles=1)
    assert found.verdict == "equal", "what is otherwise than recorded need not matter"
    told = "\n".join(found.reasons)
    assert "other library versions: torch " in told
    assert "numpy" in told
    assert "(2.9.1 recorded)" in told
    assert "olmoearth_core/grid.py" in told
    assert "recorded is abacus" in told
    assert "recorded is H200" in told


def test_other_bytes_in_the_stores_are_refused_and_named(copy: House, tmp_path: Path) -> None:
    [run] = [result for name, result in copy.results.items() if name == "infer"]
    scenes = run.manifest.inputs["scenes"]
    kept = Path(copy.workspace.artifacts) / "objects" / scenes[:2] / scenes[2:]
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b"2024-05-11", b"2024-05-12"))
    assert copy.again(copy.id, tmp_path / "spared", tiles=1).verdict == "equal", "a store or a project still has it"
    weights = next(Path(copy.workspace.artifacts).rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    copy.sql("UPDATE runs SET store = NULL, project_folder = '/gone'")
    copy.sql("UPDATE model_versions SET source = replace(source, ?, ?)", "/made", "/nowhere")
    with pytest.raises(RegistryError, match=f"{scenes}|has other bytes"):
        copy.again(copy.id, tmp_path / "refused", tiles=1)
    kept.write_bytes(content)
    with pytest.raises(RegistryError, match=r"its files are not to be had|weights.safetensors: content differs"):
        copy.again(copy.id, tmp_path / "swapped", tiles=1)


def test_a_map_of_before_is_made_from_its_project_folder(copy: House, tmp_path: Path) -> None:
    """Runs that kept nothing (recorded by an older version): what is needed is found in the project by its checksum."""
    shutil.rmtree(Path(copy.workspace.artifacts) / "objects")
    copy.sql("UPDATE runs SET store = NULL, code_sha256 = NULL, project_sha256 = NULL")
    copy.sql("UPDATE model_versions SET source = NULL")
    found = copy.again(copy.map, tmp_path / "again")
    assert found.verdict == "equal"
    assert found.reasons == ["by which code the map was made is not known or was not kept"]
    with pytest.raises(RegistryError, match=r"were not kept.*--environment current"):
        reproduce(copy.id, tmp_path / "then", Wish(tiles=1), "recorded", Silent())


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("no-such-map", r"no-such-map: neither a file nor the id of a map that the registry knows"),
        ("text", r"a file of no map that the registry knows"),
        ("full", r"is not empty\. .*--to"),
    ],
)
def test_what_cannot_be_made_again_is_said_in_a_sentence(
    house: House, tmp_path: Path, asked: str, sentence: str
) -> None:
    into = tmp_path / "again"
    if asked == "text":
        (tmp_path / "text").write_text("no raster")
        asked = str(tmp_path / "text")
    elif asked == "full":
        into.mkdir()
        (into / "mine").write_text("not to be overwritten")
        asked = house.id
    with pytest.raises((RegistryError, FlowError, CoreError), match=sentence):
        house.again(asked, into)


def _raster(path: Path, bands: np.ndarray, scales: list[float]) -> Path:
    profile = {"driver": "GTiff", "dtype": "uint8", "count": len(bands), "nodata": 255, "crs": "EPSG:32633"}
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 4_000_000)
    _, height, width = bands.shape
    with rasterio.open(path, "w", **profile, height=height, width=width, transform=transform) as raster:
        raster.write(bands)
        raster.scales = scales
    return path


def test_pixels_are_counted_band_by_band(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 100, (3, 700, 50), dtype=np.uint8)
    one = _raster(tmp_path / "one.tif", bands, [1, 1 / 250, 1 / 250])
    bands[0, 650, 3] = 200
    bands[2, 10, 10] += 50
    bands[1, 11, 11] = 255
    other = _raster(tmp_path / "other.tif", bands, [1, 1 / 250, 1 / 250])
    found = compare_rasters(one, other)
    assert (found.pixels, found.differing, found.largest) == (700 * 50, 1, pytest.approx(0.2))
    assert compare_rasters(one, _raster(tmp_path / "p.tif", bands[1:], [1 / 250] * 2), skip=1).largest == found.largest
    with pytest.raises(MappingError, match="one grid"):
        compare_rasters(_raster(tmp_path / "large.tif", np.zeros((3, 800, 50), np.uint8), [1, 1, 1]), other)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(MappingError, match="cannot be compared"):
        compare_rasters(one, tmp_path / "text.tif")


def test_small_differences_are_tolerated_only_where_something_explains_them(house: House, tmp_path: Path) -> None:
    """A tile is changed as other hardware would: then as nothing would."""
    from flows.reproduce import _model
    from registry.reproduce.behind import find_behind
    from registry.reproduce.reproduction import compare
    from registry.tables.database import Database

    folder = tmp_path / "again"
    house.again(house.id, folder)
    made = read_made(folder)
    name, path = next((n, folder / "made" / "tiles" / f"{n}.tif") for n in sorted(made.tiles))
    with rasterio.open(path, "r+") as tile:
        probabilities = tile.read(2)
        inside = probabilities < 250
        probabilities[inside] += 1
        tile.write(probabilities, 2)
    changed = made.model_copy(update={"tiles": {**made.tiles, name: "0" * 64}, "products": {}})
    database = Database(house.workspace.registry_url)
    with database.read() as session:
        behind = find_behind(session, house.workspace, house.id)
    database.close()
    model = _model(folder)
    explained = compare(behind, folder, changed, ["another processor"], environment="current", model=model)
    assert (explained.verdict, explained.holds) == ("tolerated", True)
    assert explained.difference.largest == pytest.approx(1 / 250)
    assert "0 of" in explained.sentence
    unexplained = compare(behind, folder, changed, [], environment="current", model=model)
    assert (unexplained.verdict, unexplained.holds) == ("differs", False)
    with rasterio.open(path, "r+") as tile:
        classes = tile.read(1)
        classes[classes != 255] = 2 - classes[classes != 255].clip(0, 2)
        tile.write(classes, 1)
    much = compare(behind, folder, changed, ["another processor"], environment="current", model=model)
    assert much.verdict == "differs"
