"""The reference projects that begin with `olmoearth import`: the commands of their README, and the pixels they lead to.

What is exact is compared bit for bit: the assets with the source, and the windows with the source where the project's
grid is the source's. Elsewhere a window is bilinear between source pixels; a plain interpolation written here says how.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
import yaml
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

from flows.cli.app import app
from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.grid import PixelBox
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES
from olmoearth_core.validate import validate

ROOT = Path(__file__).parents[2]
S2 = "sentinel2_l2a"
CLEAR = "2018-07-01"
"""A day without cloud in Romania."""
EUROSAT_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


def import_command(text: str, name: str) -> str:
    """The `olmoearth import` of a README or of the Makefile that names `name`, on one line."""
    text = re.sub(r"\\\n\s+", "", text.replace("$(OLMOEARTH_TEST_DATA)", "$OLMOEARTH_TEST_DATA"))
    (found,) = (line for line in text.splitlines() if "olmoearth import" in line and f"--to projects/{name}" in line)
    return found.split("olmoearth ", 1)[1]


def make_project(name: str, data: Path, folder: Path) -> Path:
    """A copy of the reference project, its data imported as its README says."""
    shutil.copytree(ROOT / "projects" / name, folder, ignore=lambda *_: {"source", "data", "scenes"})
    command = import_command((folder / "README.md").read_text(), name)
    command = command.replace("$OLMOEARTH_TEST_DATA", str(data)).replace(f"projects/{name}/source", f"{folder}/source")
    done = CliRunner().invoke(app, [*shlex.split(command), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["catalogue"] == str(folder / "source" / "catalog.json")
    return folder


def variant(folder: Path, project: Path, changes: Mapping[str, Any]) -> Path:
    """A project on the data of another; `changes` are keys of project.yaml ("labels.date")."""
    folder.mkdir()
    (folder / "source").symlink_to(project / "source")
    settings = yaml.safe_load((project / "project.yaml").read_text())
    for key, value in changes.items():
        section, _, last = key.partition(".")
        settings[section][last] = value
    (folder / "project.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run_to_dataset(folder: Path) -> Dataset:
    project = load_project(folder)
    assert [f.message for f in validate(project, Silent()) if f.severity == "error"] == []
    for stage in ("export", "preprocess"):
        run_stage(STAGES[stage], STAGES, project, Silent())
    return open_dataset(folder / "data" / "dataset")


def positions(box: PixelBox, crs: str, left: float, top: float, size: tuple[float, float]) -> NDArray[np.float64]:
    """(2, H, W): row and column of the box's pixel centres in a raster, counted from the middle of its first pixel."""
    x, y = np.meshgrid(*box.centres)
    x, y = Transformer.from_crs(box.grid.crs, crs, always_xy=True).transform(x, y)
    return np.stack([(top - y) / size[1] - 0.5, (x - left) / size[0] - 0.5])


def inside(at: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where positions lie in the pixels of a raster of `shape` (H, W)."""
    result: NDArray[np.bool_] = np.all((at > -0.5) & (at < np.reshape(shape, (2, 1, 1)) - 0.5), axis=0)
    return result


def bilinear(pixels: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels (H, W) at positions; beyond the middles of the outermost pixels their values."""
    found: NDArray[np.float64] = map_coordinates(pixels.astype(np.float64), at, order=1, mode="nearest")
    return found


@pytest.mark.parametrize("name", ["eurosat", "romania_forest"])
def test_make_imports_as_the_readme_says(name: str) -> None:
    readme = (ROOT / "projects" / name / "README.md").read_text()
    assert shlex.split(import_command(readme, name)) == shlex.split(
        import_command((ROOT / "Makefile").read_text(), name)
    )


def some_patches(data: Path, folder: Path, each: int) -> Path:
    """A folder with eurosat_200 in it, of which `each` patches a class are kept."""
    with (data / "eurosat_200" / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(re.findall(r"\d+", row["file"])[0]) <= each]
    for row in rows:
        target = folder / "eurosat_200" / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "eurosat_200" / row["file"], target)
    table = "\n".join(["file,class", *(f"{row['file']},{row['class']}" for row in rows)])
    (folder / "eurosat_200" / "labels.csv").write_text(table + "\n")
    return folder


def check_eurosat(data: Path, folder: Path, each: int) -> None:
    make_project("eurosat", data, folder)
    patches = {}
    for path in sorted((data / "eurosat_200").rglob("*.tif")):
        with rasterio.open(path) as file:
            patches[path.stem] = (file.read(), file.crs.to_string(), file.bounds, file.res, path.parent.name)
        for band, pixels in zip(EUROSAT_ORDER, patches[path.stem][0], strict=True):
            with rasterio.open(folder / f"source/sentinel-2-l1c/{path.stem}/{band}.tif") as asset:
                assert_array_equal(asset.read(1), pixels)
    assert len(patches) == 10 * each

    dataset = run_to_dataset(folder)
    assert len(dataset) == len(patches)
    assert len(dataset.bands[S2]) == 12
    counted = dict.fromkeys(dataset.classes, 0)
    for index in range(len(dataset)):
        box, (sample,) = dataset.box(index), dataset.read([index])
        places = {}
        for name in dataset.windows["scenes"].iloc[index]:  # some patches lie side by side, or on each other
            _, crs, bounds, size, _ = patches[name]
            places[name] = positions(box, crs, bounds.left, bounds.top, size)
        covers = {name: inside(at, (64, 64)) for name, at in places.items()}
        assert_array_equal(sample.valid[S2][0], np.any(list(covers.values()), axis=0))
        own = max(covers, key=lambda name: covers[name].sum())
        pixels, *_, label = patches[own]
        alone = covers[own] & ~np.any([np.zeros((64, 64)), *(c for n, c in covers.items() if n != own)], axis=0)
        assert covers[own].mean() > 0.85
        for c, band in enumerate(dataset.bands[S2]):
            wanted = bilinear(pixels[EUROSAT_ORDER.index(band)], places[own])
            assert np.abs(sample.inputs[S2][0, c] - wanted)[alone].max() <= 0.51, (own, band)
        # an outline in degrees is right to a centimetre: a centre on the very edge of a patch may fall to either side
        unlike = alone & (sample.target != dataset.classes.index(label))
        assert unlike.sum() <= 4
        counted[label] += 1
    assert set(counted.values()) == {each}


def test_eurosat_with_two_patches_a_class(real_data: Path, tmp_path: Path) -> None:
    check_eurosat(some_patches(real_data, tmp_path / "data", 2), tmp_path / "eurosat", 2)


@pytest.mark.verify
def test_eurosat(real_data: Path, tmp_path: Path) -> None:
    check_eurosat(real_data, tmp_path / "eurosat", 20)


@pytest.fixture(scope="module")
def romania(real_data: Path) -> dict[str, xarray.Dataset]:
    files = {size: real_data / f"romania_forest/sentinel2_cube_subset_romania_{size}.nc" for size in ("10m", "20m")}
    return {size: xarray.load_dataset(path, mask_and_scale=False) for size, path in files.items()}


@pytest.fixture(scope="module")
def romania_forest(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference project, imported."""
    return make_project("romania_forest", real_data, tmp_path_factory.mktemp("projects") / "romania_forest")


def read_picture(romania: Mapping[str, xarray.Dataset], band: str, day: str) -> NDArray[Any]:
    size = "20m" if band in ("B11", "B8A") else "10m"
    name = band if band in ("B11", "B8A", "SCL") else f"B{int(band[1:])}"
    picture: NDArray[Any] = romania[size][name].sel(time=day).to_numpy()
    return picture


def corner(romania: Mapping[str, xarray.Dataset]) -> tuple[float, float]:
    """Left and top edge of the square."""
    return float(romania["10m"].x[0]) - 5, float(romania["10m"].y[0]) + 5


def test_romania_is_imported_bit_for_bit(romania_forest: Path, romania: dict[str, xarray.Dataset]) -> None:
    items = sorted((romania_forest / "source" / "sentinel-2-l2a").glob("*/*.json"))
    assert len(items) == 140
    for path in items:
        item = json.loads(path.read_text())
        day = item["properties"]["datetime"][:10]
        assert sorted(item["assets"]) == ["B02", "B03", "B04", "B08", "B11", "B8A", "SCL"]
        classes = read_picture(romania, "SCL", day)
        cloud = 100 * np.isin(classes, (8, 9, 10)).sum() / (classes != 0).sum()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(cloud, abs=0.01)
        for band in item["assets"]:
            with rasterio.open(path.parent / f"{band}.tif") as asset:
                assert_array_equal(asset.read(1), read_picture(romania, band, day))
                assert asset.crs.to_string() == "EPSG:3035"
                assert asset.bounds[::3] == pytest.approx(corner(romania), abs=1e-4)

    dataset = run_to_dataset(romania_forest)
    assert dataset.bands[S2] == ("B02", "B03", "B04", "B08", "B8A", "B11")
    (first,) = dataset.read([0])
    assert first.inputs[S2].shape == (12, 6, 8, 8)
    assert str(first.dates[0]) == "2018-01-16"
    assert set(dataset.windows["split"]) == {"train", "validation", "test"}


def one_day(**more: Any) -> dict[str, Any]:
    return {"imagery.framing": {"kind": "point_in_time", "days": 1}, "labels.date": CLEAR, "map.date": CLEAR, **more}


def test_romania_on_its_own_grid_is_exact(
    real_data: Path, romania_forest: Path, romania: dict[str, xarray.Dataset], tmp_path: Path
) -> None:
    """The CRS of the data, with an origin from which its pixels are whole: any CRS can be a project's grid."""
    left, top = corner(romania)
    crs = f"+proj=laea +lat_0=52 +lon_0=10 +x_0={4321000 - left!r} +y_0={3210000 - top!r} +ellps=GRS80 +units=m"
    dataset = run_to_dataset(variant(tmp_path / "own-grid", romania_forest, one_day(**{"imagery.crs": crs})))
    with rasterio.open(real_data / "romania_forest/tree_cover_density_2018.tif") as file:
        density = np.kron(file.read(1), np.ones((2, 2), np.uint8))
    seen = np.zeros((100, 100), bool)
    for index in range(len(dataset)):
        box, (sample,) = dataset.box(index), dataset.read([index])
        rows, columns = (slice(max(start, 0), min(start + 8, 100)) for start in (box.row, box.column))
        part = tuple(slice(s.start - start, s.stop - start) for s, start in ((rows, box.row), (columns, box.column)))
        for c, band in enumerate(dataset.bands[S2]):
            source, window = read_picture(romania, band, CLEAR), sample.inputs[S2][0, c][part]
            if band in ("B8A", "B11"):  # 20 m: between pixels, three quarters of the near and one of the far
                at = np.stack(np.meshgrid((np.arange(100) - 0.5) / 2, (np.arange(100) - 0.5) / 2, indexing="ij"))
                assert np.abs(window - bilinear(source, at)[rows, columns]).max() <= 0.51
            else:
                assert_array_equal(window, source[rows, columns])
        assert sample.valid[S2][0][part].all()
        truth = sample.truths["tree_cover_density"]
        assert truth.values is not None
        assert_array_equal(truth.values[part], density[rows, columns])
        assert_array_equal(truth.strata[part], np.digitize(density[rows, columns], [20, 40, 60, 80]))
        seen[rows, columns] = True
    assert seen.all()


def test_romania_on_the_grid_of_europe_is_bilinear(
    romania_forest: Path, romania: dict[str, xarray.Dataset], tmp_path: Path
) -> None:
    dataset = run_to_dataset(variant(tmp_path / "europe", romania_forest, one_day()))
    left, top = corner(romania)
    assert (-left % 10, top % 10) == pytest.approx((7.4234, 4.2149), abs=1e-4), "no multiple of the pixel size"
    for index in range(len(dataset)):
        box, (sample,) = dataset.box(index), dataset.read([index])
        fine = positions(box, "EPSG:3035", left, top, (10, 10))
        seen = inside(fine, (100, 100))
        assert_array_equal(sample.valid[S2][0], seen)
        for c, band in enumerate(dataset.bands[S2]):
            at = (fine - 0.5) / 2 if band in ("B8A", "B11") else fine
            wanted = bilinear(read_picture(romania, band, CLEAR), at)
            assert np.abs(sample.inputs[S2][0, c] - wanted)[seen].max() <= 0.51, band
