"""The simulated world: written as a partner would hand it over, told by the season and not by a date."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.features import geometry_mask
from rio_cogeo import cog_validate
from shapely.geometry import shape
from sklearn.ensemble import RandomForestClassifier

from olmoearth_core.errors import CoreError, MappingError
from olmoearth_core.project import load_project
from olmoearth_core.simulate import World, map_accuracy, simulate_world, single_date_baseline, world_preview
from olmoearth_core.simulate.look import clear_pixels, look, scene_dates
from olmoearth_core.templates import find_template, write_template


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The demo's world."""
    return simulate_world(tmp_path_factory.mktemp("worlds") / "demo.world")


def _small(folder: Path, **changes: int) -> World:
    return simulate_world(folder, **{"size": 96, "every": 60, **changes})


def _bytes(world: World) -> dict[str, bytes]:
    return {str(p.relative_to(world.folder)): p.read_bytes() for p in world.folder.rglob("*") if p.is_file()}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = _bytes(_small(tmp_path / "a"))
    assert first == _bytes(_small(tmp_path / "b"))
    other = _bytes(_small(tmp_path / "c", seed=1))
    assert first.keys() == other.keys()
    assert first["truth.tif"] != other["truth.tif"]


def test_a_world_is_found_again_replaced_by_another_and_nothing_else_is_touched(tmp_path: Path) -> None:
    made = _small(tmp_path / "w").truth.stat().st_mtime_ns
    assert _small(tmp_path / "w").truth.stat().st_mtime_ns == made
    assert _small(tmp_path / "w", seed=2).about["seed"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["w"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CoreError, match="no simulated world"):
        _small(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("size", [100, 90, 516])
def test_a_size_that_does_not_fit_the_60_m_bands_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 6"):
        simulate_world(tmp_path / "w", size=size)
    assert not list(tmp_path.iterdir())


def test_the_catalogue_moves_with_its_folder(tmp_path: Path) -> None:
    shutil.move(_small(tmp_path / "a").folder, tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
    catalogue = pystac.Catalog.from_file(str(tmp_path / "b" / "catalog.json"))
    items = list(catalogue.get_items(recursive=True))
    assert len(items) == 7
    for item in items:
        for asset in item.get_assets().values():
            assert Path(asset.get_absolute_href() or "").is_file()


def test_scenes_are_cogs_of_sentinel_2(world: World) -> None:
    items = list(pystac.Catalog.from_file(str(world.catalogue)).get_items(recursive=True))
    assert len(items) == 37
    left, bottom, right, top = world.box.bounds
    assert all(edge % 60 == 0 for edge in (left, bottom, right, top))
    item = items[0]
    assert len(item.assets) == 13
    for band, asset in item.get_assets().items():
        path = asset.get_absolute_href()
        valid, errors, _warnings = cog_validate(path, quiet=True)
        assert valid, errors
        with rasterio.open(path) as file:
            resolution = 60 if band in ("B01", "B09") else 10 if band in ("B02", "B03", "B04", "B08") else 20
            assert file.res == (resolution, resolution)
            assert tuple(file.bounds) == (left, bottom, right, top)
            assert file.crs.to_string() == item.properties["proj:code"] == "EPSG:32631"
            assert file.nodata == 0
            assert file.dtypes[0] == ("uint8" if band == "SCL" else "uint16")
            assert asset.extra_fields["proj:shape"] == list(file.shape)
    red = item.assets["B04"].extra_fields["bands"][0]
    assert (red["eo:common_name"], red["raster:scale"], red["raster:offset"]) == ("red", 0.0001, -0.1)


def _asset(item: pystac.Item, name: str) -> np.ndarray:
    with rasterio.open(item.assets[name].get_absolute_href()) as file:
        image: np.ndarray = file.read(1)
    return image


def test_the_sky_has_all_that_a_partner_meets(world: World) -> None:
    items = list(pystac.Catalog.from_file(str(world.catalogue)).get_items(recursive=True))
    covers = [item.properties["eo:cloud_cover"] for item in items]
    assert min(covers) < 2
    assert max(covers) == 100
    assert sum(20 < cover < 80 for cover in covers) >= 3
    edges = [item for item in items if item.properties["s2:nodata_pixel_percentage"] > 0]
    assert 2 <= len(edges) <= 10
    for item in items:
        classes = _asset(item, "SCL")
        cloud = np.isin(classes, (8, 9, 10))
        present = classes != 0
        assert item.properties["eo:cloud_cover"] == pytest.approx(100 * cloud.sum() / present.sum(), abs=0.01)
        swir = _asset(item, "B11")  # on the grid of SCL
        assert ((swir == 0) == ~present).all()
        blue = (_asset(item, "B02").reshape(192, 2, 192, 2).mean(axis=(1, 3)) - 1000) / 10000
        clear = np.isin(classes, (4, 5))
        if min((classes == 9).sum(), clear.sum()) > 500:
            assert np.median(blue[classes == 9]) > 3 * np.median(blue[clear])
        if min((classes == 3).sum(), clear.sum()) > 500:
            assert np.median(swir[classes == 3]) < np.median(swir[clear])


def test_labels_are_a_survey_of_some_fields_and_true(world: World) -> None:
    features = json.loads(world.labels.read_text())["features"]
    truth, names = world.read_truth(), list(world.classes)
    assert {feature["properties"]["class"] for feature in features} == set(names)
    for feature in features:
        assert feature["properties"]["start_datetime"] == "2023-01-01T00:00:00Z"
        assert feature["properties"]["end_datetime"] == "2023-12-31T23:59:59Z"
        outline = world.box.grid.project(shape(feature["geometry"]))
        inside = geometry_mask([outline], truth.shape, world.box.transform, invert=True)
        assert (truth[inside] == names.index(feature["properties"]["class"])).all()
    assert 0.35 < (world.read_labels() != 255).mean() < 0.55
    assert not (world.scored() & (world.read_labels() != 255)).any()
    shares = np.bincount(truth.ravel(), minlength=len(names)) / truth.size
    assert shares.min() > 0.1


def test_the_demo_project_names_what_the_world_holds(world: World, tmp_path: Path) -> None:
    write_template(find_template("demo"), tmp_path / "demo", project_name="demo")
    shutil.copytree(world.folder, tmp_path / "demo" / "world")
    project = load_project(tmp_path / "demo")
    assert {c.name: c.color for c in project.config.task.classes} == world.classes
    assert project.path(project.config.imagery.catalogue).is_file()
    assert all(project.path(name).is_file() for name in (*project.config.labels.files, project.config.map.area))
    assert project.config.map.date == world.date


def _composite(world: World, first: date, days: int) -> np.ndarray:
    """(12, H, W): clear pixels of a span, the clearest date first; 0 where there is none."""
    dates = [day for day in scene_dates(world) if 0 <= (day - first).days < days]
    clear = {day: clear_pixels(world, day) for day in dates}
    image, filled = np.zeros((12, *world.box.shape), np.float32), np.zeros(world.box.shape, bool)
    for day in sorted(dates, key=lambda day: -clear[day].mean()):
        new = clear[day] & ~filled
        image[:, new] = look(world, day)[:, new]
        filled |= new
    return image


def test_one_date_cannot_tell_the_classes_and_the_season_can(world: World) -> None:
    day, accuracy = single_date_baseline(world)
    assert clear_pixels(world, day).mean() > 0.7
    assert 0.5 < accuracy <= 0.75

    start = world.date.toordinal()
    pixels = np.concatenate([_composite(world, date.fromordinal(start + 30 * i), 30) for i in range(12)])
    pixels = pixels.reshape(len(pixels), -1).T
    rng = np.random.default_rng(0)
    labels, truth = world.read_labels().ravel(), world.read_truth().ravel()
    train = rng.choice(np.flatnonzero(labels != 255), 5000, replace=False)
    test = rng.choice(np.flatnonzero(world.scored()), 10000, replace=False)
    forest = RandomForestClassifier(60, random_state=0).fit(pixels[train], labels[train])
    assert (forest.predict(pixels[test]) == truth[test]).mean() >= 0.92


def _map(path: Path, world: World, values: np.ndarray, shrink: int = 0) -> Path:
    box = world.box.pad(-shrink)
    rows, columns = box.slices_in(world.box)
    profile = {"driver": "GTiff", "height": box.height, "width": box.width, "count": 1, "dtype": "uint8", "nodata": 255}
    with rasterio.open(path, "w", crs=box.grid.crs, transform=box.transform, **profile) as file:
        file.write(values[rows, columns], 1)
    return path


def test_a_map_is_held_against_the_truth(tmp_path: Path) -> None:
    world = _small(tmp_path / "w")
    truth = world.read_truth()
    right = map_accuracy(_map(tmp_path / "right.tif", world, truth, shrink=3), world)
    assert right.overall == 1
    assert set(right.iou.values()) == {1.0}
    assert right.n == world.scored().sum()

    flat = map_accuracy(_map(tmp_path / "flat.tif", world, np.zeros_like(truth)), world)
    share = (truth[world.scored()] == 0).mean()
    assert flat.overall == pytest.approx(share)
    assert flat.iou["winter crop"] == pytest.approx(share)
    assert all(value == 0 for name, value in flat.iou.items() if name != "winter crop")
    present = {list(world.classes)[value] for value in np.unique(truth[world.scored()])}
    assert set(right.iou) == present


def test_what_a_map_leaves_out_counts_as_wrong(tmp_path: Path) -> None:
    world = _small(tmp_path / "w")
    truth, here = world.read_truth(), world.scored()
    holes = np.where(np.arange(96) % 2 == 0, 255, truth).astype(np.uint8)
    found = map_accuracy(_map(tmp_path / "holes.tif", world, holes), world)
    assert found.overall == pytest.approx((holes[here] != 255).mean())
    small = map_accuracy(_map(tmp_path / "small.tif", world, truth, shrink=30), world)
    assert small.n == found.n
    assert small.overall < 0.5


def test_a_map_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    world = _small(tmp_path / "w")
    (tmp_path / "map.tif").write_bytes(b"no map")
    with pytest.raises(MappingError, match=r"map\.tif"):
        map_accuracy(tmp_path / "map.tif", world)


def test_the_preview_shows_imagery_truth_and_map(tmp_path: Path) -> None:
    from matplotlib.image import imread

    world = _small(tmp_path / "w", every=20)
    values = world.read_truth()
    for name in ("a.png", "b.png"):
        world_preview(world, _map(tmp_path / "m.tif", world, values), tmp_path / name, baseline=0.7)
    image = imread(tmp_path / "a.png")
    assert image.shape[1] > 2 * image.shape[0]
    colours = {tuple(colour) for colour in (image[..., :3].reshape(-1, 3) * 255).round().astype(int)}
    for colour in world.classes.values():
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in colours
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
