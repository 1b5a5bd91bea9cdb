"""Drawing a sample from real map files, interpreting it, and what is refused on the way."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from smallmap import full_disk
from typer.testing import CliRunner

from flows.cli.app import app
from olmoearth_core.assessment.assess import assess
from olmoearth_core.assessment.sample import draw, map_files, read_design
from olmoearth_core.errors import MappingError, StoreError

CLASSES = ["water", "forest", "bare & built"]


def write_map(path: Path, classes: np.ndarray, *, west: float = 400_000, crs: str = "EPSG:32635", **tags: str) -> Path:
    """A map as postprocess writes it, as far as a sample is concerned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "OLMOEARTH_CLASSES": json.dumps(dict(enumerate(CLASSES))),
        "OLMOEARTH_MAP_ID": "small-2024-05-01-abcd",
        **tags,
    }
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "tiled": True}
    shape = {"height": classes.shape[0], "width": classes.shape[1], "blockxsize": 64, "blockysize": 64}
    transform = Affine(10, 0, west, 0, -10, 4_900_000)
    with rasterio.open(path, "w", **profile, **shape, crs=crs, transform=transform) as target:
        target.write(classes.astype(np.uint8), 1)
        target.update_tags(**told)
    return path


def some_classes(seed: int, height: int = 150, width: int = 200) -> np.ndarray:
    random = np.random.default_rng(seed)
    classes = random.choice(3, (height, width), p=[0.02, 0.6, 0.38])
    classes[:20, :30] = 255
    return classes


@pytest.fixture
def map_path(tmp_path: Path) -> Path:
    return write_map(tmp_path / "maps/small/map.tif", some_classes(0))


def interpret(folder: Path, *, wrong: int = 0) -> dict[int, str]:
    """Answers as the map has them, but for the first `wrong` units."""
    design = read_design(folder)
    names = [(unit.id, CLASSES[(unit.mapped + (k < wrong)) % 3]) for k, unit in enumerate(design.units)]
    return dict(names)


def fill_table(folder: Path, answers: dict[int, str]) -> None:
    table = pd.read_csv(folder / "sample.csv", dtype=str, keep_default_na=False)
    table["reference"] = [answers[int(i)] for i in table["id"]]
    table.to_csv(folder / "sample.csv", index=False)


def fill_layer(folder: Path, answers: dict[int, str]) -> gpd.GeoDataFrame:
    layer = gpd.read_file(folder / "sample.gpkg", layer="sample")
    layer["reference"] = [answers[int(i)] for i in layer["id"]]
    layer.to_file(folder / "sample.gpkg", layer="sample", driver="GPKG")
    return layer


def test_units_lie_on_pixels_of_their_class_and_nobody_can_tell_which(map_path: Path, tmp_path: Path) -> None:
    design = draw([map_path], tmp_path / "sample", size=200, least=30)
    with rasterio.open(map_path) as source:
        values = [v[0] for v in source.sample([(unit.x, unit.y) for unit in design.units])]
    assert values == [unit.mapped for unit in design.units]
    assert len({(unit.x, unit.y) for unit in design.units}) == 200
    assert np.bincount(values)[0] == 30
    layer = gpd.read_file(tmp_path / "sample/sample.gpkg", layer="sample")
    assert list(layer.columns) == ["id", "reference", "note", "geometry"]
    pixels = gpd.read_file(tmp_path / "sample/sample.gpkg", layer="pixels")
    assert pixels.contains(layer.geometry).all()
    assert pixels.to_crs("EPSG:32635").area.to_numpy() == pytest.approx(100, rel=1e-3)
    order = [unit.mapped for unit in design.units]
    assert order != sorted(order)
    assert "mapped" not in (tmp_path / "sample/sample.csv").read_text()


def test_every_pixel_of_a_class_has_the_same_chance(tmp_path: Path) -> None:
    """Over 300 draws each of 12 rare pixels, spread over blocks, is drawn about equally often."""
    classes = np.ones((130, 130), np.uint8)
    spots = [
        (0, 0),
        (0, 129),
        (129, 0),
        (129, 129),
        (5, 5),
        (64, 64),
        (63, 64),
        (70, 10),
        (10, 70),
        (100, 90),
        (1, 64),
        (64, 1),
    ]
    for row, column in spots:
        classes[row, column] = 0
    path = write_map(tmp_path / "map.tif", classes)
    times: dict[tuple[float, float], int] = {}
    for seed in range(300):
        for unit in draw([path], tmp_path / f"s{seed}", size=6, least=3, seed=seed).units:
            if unit.mapped == 0:
                times[unit.x, unit.y] = times.get((unit.x, unit.y), 0) + 1
    assert len(times) == len(spots)
    assert sum(times.values()) == 900
    assert min(times.values()) > 45  # 75 on average, standard deviation 7.5
    assert max(times.values()) < 105


def test_equal_seeds_draw_equal_units(map_path: Path, tmp_path: Path) -> None:
    one, two, other = (
        draw([map_path], tmp_path / name, size=60, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.units == two.units != other.units


def test_a_map_of_two_zones_is_one_map(tmp_path: Path) -> None:
    folder = tmp_path / "maps/both"
    write_map(folder / "map_32635.tif", some_classes(1))
    write_map(folder / "map_32636.tif", some_classes(2), west=300_000, crs="EPSG:32636")
    files = map_files(folder)
    assert [path.name for path in files] == ["map_32635.tif", "map_32636.tif"]
    design = draw(files, tmp_path / "sample", size=300)
    assert {unit.raster for unit in design.units} == {0, 1}
    assert sum(design.pixels) == 2 * (150 * 200 - 600)
    for unit in design.units[:20]:
        assert (24 < unit.longitude < 27) if unit.raster == 0 else (30 < unit.longitude < 33)


@pytest.mark.parametrize("fill", [fill_table, fill_layer])
def test_a_perfect_map_has_the_areas_that_it_shows(map_path: Path, tmp_path: Path, fill: object) -> None:
    folder = tmp_path / "sample"
    design = draw([map_path], folder, size=200)
    fill(folder, interpret(folder))  # type: ignore[operator]
    result = assess(folder)
    assert result["overall_accuracy"]["value"] == 1
    for k, found in enumerate(result["classes"].values()):
        assert found["area_hectares"]["value"] == pytest.approx(design.hectares[k])
        assert found["area_hectares"]["high"] == pytest.approx(design.hectares[k])
    assert json.loads((folder / "assessment.json").read_bytes()) == result
    page = (folder / "assessment.html").read_text()
    assert "bare &amp; built" in page
    assert "http" not in page


def test_mistakes_and_doubts_are_counted(map_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    draw([map_path], folder, size=200)
    answers = interpret(folder, wrong=40)
    last = list(answers)[-3:]
    fill_table(folder, answers | dict.fromkeys(last, "unsure"))
    result = assess(folder)
    low, high = result["overall_accuracy"]["low"], result["overall_accuracy"]["high"]
    assert 0.6 < low < 0.8 < high < 0.9
    assert sum(map(sum, result["counts"])) == 197
    assert "3 of 200 units are unsure" in result["notes"][0]


def test_a_simple_sample_is_drawn_from_all_pixels(map_path: Path, tmp_path: Path) -> None:
    design = draw([map_path], tmp_path / "sample", size=500, simple=True)
    assert np.bincount([unit.mapped for unit in design.units])[0] < 25  # 2 % of the map
    fill_table(tmp_path / "sample", interpret(tmp_path / "sample"))
    assert assess(tmp_path / "sample")["design"]["kind"] == "simple"


def test_bad_maps_are_refused(map_path: Path, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="no map there"):
        map_files(tmp_path / "nowhere")
    with pytest.raises(MappingError, match="not one pixel is mapped"):
        draw([write_map(tmp_path / "void.tif", np.full((70, 70), 255))], tmp_path / "s")
    with pytest.raises(MappingError, match="different maps"):
        draw([map_path, write_map(tmp_path / "b.tif", some_classes(3), OLMOEARTH_MAP_ID="other")], tmp_path / "s")
    with pytest.raises(MappingError, match="OLMOEARTH_CLASSES"):
        draw([write_map(tmp_path / "c.tif", some_classes(3), OLMOEARTH_CLASSES="")], tmp_path / "s")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(MappingError, match="cannot be read as a raster"):
        draw([tmp_path / "text.tif"], tmp_path / "s")
    draw([map_path], tmp_path / "s", size=20, least=2)
    with pytest.raises(MappingError, match="holds a sample already"):
        draw([map_path], tmp_path / "s")


def test_bad_answers_are_refused(map_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    draw([map_path], folder, size=60, least=10)
    good = interpret(folder)
    with pytest.raises(MappingError, match="60 of 60 units have no reference class yet"):
        assess(folder)
    fill_table(folder, good | {5: "swamp"})
    with pytest.raises(
        MappingError, match=r"'swamp' is none of the map's. Allowed: water, forest, bare & built, unsure"
    ):
        assess(folder)
    table = pd.read_csv(folder / "sample.csv", dtype=str)
    for frame, told in (
        (table.iloc[1:], "1 ids are missing"),
        (pd.concat([table, table.iloc[:2]]), "2 ids appear twice"),
        (pd.concat([table, table.iloc[:1].assign(id="999")]), "1 ids are no units"),
        (table.drop(columns="reference"), "has no column reference"),
    ):
        frame.to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(MappingError, match=told):
            assess(folder, tmp_path / "bad.csv")
    layer = fill_layer(folder, good)
    layer.geometry = layer.geometry.translate(0.0002, 0)  # some 15 m
    layer.to_file(tmp_path / "moved.gpkg", layer="sample", driver="GPKG")
    with pytest.raises(MappingError, match="60 points were moved"):
        assess(folder, tmp_path / "moved.gpkg")
    with pytest.raises(MappingError, match="cannot be read"):
        assess(folder, tmp_path / "none.csv")
    with pytest.raises(MappingError, match="olmoearth sample"):
        assess(tmp_path / "nowhere")


def test_a_map_that_changed_since_is_refused(map_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    draw([map_path], folder, size=60)
    fill_table(folder, interpret(folder))
    kept = map_path.read_bytes()
    map_path.write_bytes(kept + b" ")
    with pytest.raises(MappingError, match="changed since the sample was drawn"):
        assess(folder)
    map_path.unlink()
    assert "not there any more" in assess(folder)["notes"][0]


def test_a_full_disk_is_told_and_leaves_no_half_sample(map_path: Path, tmp_path: Path) -> None:
    with full_disk(5000), pytest.raises(StoreError, match="the disk is full"):
        draw([map_path], tmp_path / "sample", size=60)
    assert not [path for path in (tmp_path / "sample").rglob("*") if path.suffix == ".gpkg"]
    assert len(draw([map_path], tmp_path / "sample", size=60).units) >= 60


def test_the_commands(map_path: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["sample", str(map_path.parent), "--size", "80", "--least", "10", "--json"])
    assert made.exit_code == 0, made.output
    folder = Path(json.loads(made.stdout)["folder"])
    assert folder == tmp_path / "assessments/small"
    fill_table(folder, interpret(folder, wrong=8))
    shown = CliRunner().invoke(app, ["assess", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "Overall accuracy 0." in shown.output
    told = CliRunner().invoke(app, ["assess", str(folder), "--json"])
    assert json.loads(told.stdout)["design"]["units"] == 80
