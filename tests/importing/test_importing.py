"""A whole import: what lies on disk afterwards, how it is read back, and that nothing is ever half there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from foreign import DAY, LEFT, TOP, make_cube, values, write_netcdf, write_tiff
from numpy.testing import assert_array_equal
from rasters import open_scenes
from rio_cogeo import cog_validate

from olmoearth_core.errors import CoreError, ProjectError, SourceError
from olmoearth_core.framing import PointInTime
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.compose import compose
from olmoearth_core.importing.importing import Imported, Labelling, import_data
from olmoearth_core.importing.labelling import Measured, label_files, parse_classes, parse_measured
from olmoearth_core.importing.source import Options
from olmoearth_core.labels.labels import read_labels
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.validate import validate

BANDS = ("B02", "B03")
PATCHES = Options(bands=BANDS, date=DAY)
SPAN = 400
"""Metres from one patch to the next."""


def write_patches(folder: Path, count: int = 4, edge: int = 16, **extra: Any) -> Path:
    for i in range(count):
        name = ("forest", "lake")[i % 2]
        write_tiff(folder / name / f"{name}_{i}.tif", values(i, 2, edge, edge), left=LEFT + SPAN * i, **extra)
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def errors_of_core_schema(value: dict[str, Any]) -> list[str]:
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    kind = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}[value["type"]]
    schemas = get_local_schema_cache()
    registry = Registry().with_resources([(uri, Resource.from_contents(s)) for uri, s in schemas.items()])
    schema = next(schema for uri, schema in schemas.items() if uri.endswith(f"/{kind}.json"))
    return [error.message for error in Draft7Validator(schema, registry=registry).iter_errors(value)]


def test_patches_are_read_back_as_scenes_with_labels(tmp_path: Path) -> None:
    source = write_patches(tmp_path / "patches")
    made = import_data([source], tmp_path / "out", PATCHES)
    assert (made.kind, made.scenes, made.classes, made.level) == ("patches", 4, {"forest": 2, "lake": 2}, "L2A")
    scenes = open_scenes(tmp_path / "out" / "catalog.json")
    assert [scene.id for scene in scenes.scenes] == ["forest_0", "forest_2", "lake_1", "lake_3"]
    assert {(s.offset, s.reason, s.datetime) for s in scenes.scenes} == {(0, "the assets declare an offset of 0", DAY)}
    for i, name in ((0, "forest"), (3, "lake")):
        with rasterio.open(source / name / f"{name}_{i}.tif") as file:
            pixels, bounds = file.read(), file.bounds
        box = Grid("EPSG:32631", 10).around(bounds)
        steps = PointInTime(kind="point_in_time").spans(DAY.date())
        cube = compose(scenes, box, steps, modality="sentinel2_l2a", bands=BANDS, composite="least_cloudy")
        assert_array_equal(cube.data[0], pixels)
        assert cube.valid.all()

    labels = gpd.read_file(tmp_path / "out" / "labels" / "patches.geojson")
    assert labels["class"].tolist() == ["forest", "forest", "lake", "lake"]
    assert set(labels["start_datetime"].astype(str).str[:10]) == {"2024-05-01"}
    there = shapely.box(LEFT, TOP - 160, LEFT + 160, TOP)
    assert labels.to_crs("EPSG:32631").geometry[0].symmetric_difference(there).area < 10  # 1e-7 of a degree: 1 cm
    area = gpd.read_file(tmp_path / "out" / "area.geojson").to_crs("EPSG:32631")
    assert area.area.sum() == pytest.approx(4 * 160 * 160, rel=1e-3)


def test_a_catalogue_is_valid_stac_of_cogs_that_moves_with_its_folder(tmp_path: Path) -> None:
    cube = make_cube({"B2": values(1, 2, 600, 600), "B3": values(2, 2, 600, 600)})
    scl = np.full((2, 600, 600), 4, np.uint8)
    scl[0, :300] = 9
    cube["SCL"] = (("time", "y", "x"), scl, {"grid_mapping": "spatial_ref"})
    import_data([write_netcdf(tmp_path / "place.nc", cube)], tmp_path / "a" / "out")
    (tmp_path / "a").rename(tmp_path / "b")
    root = tmp_path / "b" / "out"
    for path in root.rglob("*.json"):
        text = path.read_text()
        assert str(tmp_path) not in text
        if path.name != "import.json":
            assert errors_of_core_schema(json.loads(text)) == []
    items = list(pystac.Catalog.from_file(str(root / "catalog.json")).get_items(recursive=True))
    assert [item.properties["eo:cloud_cover"] for item in items] == [50, 0]
    for item in items:
        assert item.properties["proj:code"] == "EPSG:32631"
        for name, asset in item.assets.items():
            href = asset.get_absolute_href()
            assert cog_validate(href, quiet=True)[0]
            with rasterio.open(href) as file:
                assert (file.nodata, file.dtypes[0]) == (0, "uint8" if name == "SCL" else "uint16")
                assert file.overviews(1) == [2]
                assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
                assert asset.extra_fields["proj:shape"] == list(file.shape)
                assert asset.extra_fields["proj:transform"] == list(file.transform)[:6]
    scenes = open_scenes(root / "catalog.json").scenes
    assert [(scene.cloud_cover, scene.mask is not None) for scene in scenes] == [(50, True), (0, True)]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    source = write_patches(tmp_path / "patches")
    for place in ("a", "b/c"):
        import_data([source], tmp_path / place / "out", PATCHES)
    before = content(tmp_path / "a" / "out")
    assert before == content(tmp_path / "b" / "c" / "out")
    import_data([source], tmp_path / "a" / "out", PATCHES)
    assert content(tmp_path / "a" / "out") == before


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    source = write_patches(tmp_path / "patches")
    import_data([source], tmp_path / "out", PATCHES)
    before = content(tmp_path / "out")
    write_tiff(source / "lake" / "lake_3.tif", values(0, 2, 16, 16).astype(np.float32) + 0.5, left=LEFT + 3 * SPAN)
    with pytest.raises(SourceError, match=r"lake_3.tif band 1: holds fractions up to"):
        import_data([source], tmp_path / "out", PATCHES, again=True)
    assert content(tmp_path / "out") == before
    with pytest.raises(SourceError, match="fractions"):
        import_data([source], tmp_path / "new" / "out", PATCHES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "patches"]


def test_an_import_of_other_files_is_not_replaced_unasked(tmp_path: Path) -> None:
    one, other = write_patches(tmp_path / "one"), write_patches(tmp_path / "other", count=6)
    import_data([one], tmp_path / "out", PATCHES)
    before = content(tmp_path / "out")
    with pytest.raises(SourceError, match=r"out: holds an import of other files \(forest_0.tif, .*--replace"):
        import_data([other], tmp_path / "out", PATCHES)
    assert content(tmp_path / "out") == before
    assert import_data([other], tmp_path / "out", PATCHES, again=True).scenes == 6
    write_tiff(other / "lake" / "lake_5.tif", values(99, 2, 16, 16), left=LEFT + 5 * SPAN)  # as before, other pixels
    with pytest.raises(SourceError, match="holds an import of other files"):
        import_data([other], tmp_path / "out", PATCHES)


def test_what_a_killed_import_left_is_cleared(tmp_path: Path) -> None:
    source = write_patches(tmp_path / "patches")
    killed = tmp_path / ".out.importing" / "sentinel-2-l2a" / "forest_0"
    killed.mkdir(parents=True)
    (killed / "half.tif").write_bytes(b"half")
    import_data([source], tmp_path / "out", PATCHES)
    assert not any("half" in name for name in content(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "patches"]


def test_files_that_need_no_change_stay_where_they_are(tmp_path: Path) -> None:
    for name, nodata, pixels in (
        ("B02", 0, values(1)), ("B03", None, values(2)), ("B04", None, values(3) * (values(4) > 300)),
        ("B08", 0, values(5, dtype=np.int32)),
    ):  # fmt: skip
        write_tiff(tmp_path / "in" / "2024-05-01" / f"{name}.tif", pixels.astype(pixels.dtype), nodata=nodata)
    made = import_data([tmp_path / "in"], tmp_path / "out", Options(link=True))
    (scene,) = open_scenes(tmp_path / "out" / "catalog.json").scenes
    assert made.linked == 2
    assert {band: href.endswith(f"in/2024-05-01/{band}.tif") for band, href in scene.assets.items()} == {
        "B02": True, "B03": True, "B04": False, "B08": False,
    }  # fmt: skip
    scenes = open_scenes(tmp_path / "out" / "catalog.json")
    assert all(Path(scenes.address(scene, href)).is_file() for href in scene.assets.values())
    assert str(tmp_path) not in next((tmp_path / "out").rglob("2024-05-01.json")).read_text()


def test_zeros_without_nodata_are_told(tmp_path: Path) -> None:
    pixels = values(1)
    pixels[0, :5] = 0
    write_tiff(tmp_path / "in" / "20240501_B02.tif", pixels)
    made = import_data([tmp_path / "in"], tmp_path / "out")
    assert "5 values of 0 in 1 layers count as dark ground" in " ".join(made.warnings)
    with rasterio.open(next((tmp_path / "out").rglob("B02.tif"))) as file:
        assert_array_equal(file.read(1), np.maximum(pixels, 1))
    made = import_data([tmp_path / "in"], tmp_path / "out", Options(nodata=0))
    assert not made.warnings
    with rasterio.open(next((tmp_path / "out").rglob("B02.tif"))) as file:
        assert_array_equal(file.read(1), pixels)


def test_the_offset_of_a_product_is_subtracted_once(tmp_path: Path) -> None:
    product = "S2A_MSIL2A_20230815T095031_N0509_R079_T33TWM_20230815T140000.SAFE"
    write_tiff(tmp_path / "in" / product / "R10m" / "T33TWM_20230815T095031_B02_10m.tif", values(1) + 1000, nodata=0)
    for options, expected in ((Options(), values(1)), (Options(offset=0), values(1) + 1000)):
        made = import_data([tmp_path / "in"], tmp_path / "out", options)
        with rasterio.open(next((tmp_path / "out").rglob("B02.tif"))) as file:
            assert_array_equal(file.read(1), expected)
        (scene,) = open_scenes(tmp_path / "out" / "catalog.json").scenes
        assert scene.offset == 0
        assert ("products of baseline 04.00 or later" in " ".join(made.warnings)) == (options.offset is None)


def test_values_that_look_as_if_the_offset_is_still_there_are_told(tmp_path: Path) -> None:
    for day, pixels, told in (("2024-05-01", values(1) + 1000, True), ("2021-05-01", values(1) + 1000, False),
                              ("2024-05-01", values(1), False)):  # fmt: skip
        write_tiff(tmp_path / day / "in" / f"{day}_B02.tif", pixels, nodata=0)
        made = import_data([tmp_path / day / "in"], tmp_path / "out", again=True)
        assert ("give --offset -0.1" in " ".join(made.warnings)) == told


def test_level_1c_is_recorded_and_told(tmp_path: Path) -> None:
    source = write_patches(tmp_path / "patches")
    made = import_data([source], tmp_path / "out", Options(bands=("B02", "B10"), date=DAY))
    assert "level 1C" in made.warnings[0]
    (scene, *_) = open_scenes(tmp_path / "out" / "catalog.json").scenes
    assert list(scene.assets) == ["B02"], "B10 is an asset, but no band of the modality"
    item = json.loads(next((tmp_path / "out").rglob("forest_0.json")).read_text())
    assert (item["properties"]["processing:level"], sorted(item["assets"])) == ("L1C", ["B02", "B10"])


def test_scenes_that_lack_a_band_are_told(tmp_path: Path) -> None:
    for day, names in (("2024-05-01", ("B02", "B03", "SCL")), ("2024-05-11", ("B02",))):
        for name in names:
            write_tiff(tmp_path / "in" / day / f"{name}.tif", np.full((8, 8), 4, np.uint16))
    made = import_data([tmp_path / "in"], tmp_path / "out")
    assert made.missing == {"B03": 1, "SCL": 1}
    assert made.warnings == [
        "1 of 2 scenes lack B03; a run leaves those scenes out",
        "1 of 2 scenes have no SCL; clouds in them are not masked",
    ]


def test_a_project_of_patches_is_ready(tmp_path: Path) -> None:
    source = write_patches(tmp_path / "patches", count=12)
    made = import_data([source], tmp_path / "woods" / "source", PATCHES, project=tmp_path / "woods")
    project = load_project(tmp_path / "woods")
    config = project.config
    assert (config.name, config.task.class_names) == ("woods", ["forest", "lake"])
    assert (config.imagery.crs, config.imagery.resolution, config.labels.windows) == ("EPSG:32631", 10, "centred")
    assert (config.model.window_size, config.map.date) == (16, DAY.date())
    assert [f for f in validate(project, Silent()) if f.severity == "error"] == []
    assert (tmp_path / "woods" / ".gitignore").read_text() == "/source\n"
    assert made.project == tmp_path / "woods"
    with pytest.raises(SourceError, match=r"project.yaml: exists already"):
        import_data([source], tmp_path / "woods" / "source", PATCHES, project=tmp_path / "woods")


def write_outlines(path: Path, rows: list[dict[str, Any]]) -> Path:
    left, top = LEFT + 20, TOP - 20
    shapes = [shapely.box(left + 50 * i, top - 100, left + 50 * i + 40, top) for i in range(len(rows))]
    gpd.GeoDataFrame(rows, geometry=shapes, crs="EPSG:32631").to_crs("EPSG:4326").to_file(path)
    return path


def import_with(folder: Path, labelling: Labelling) -> Imported:
    cube = make_cube({"B2": values(1, 3, 48, 48)}, ("2024-01-01", "2024-02-10", "2024-03-15"))
    path = write_netcdf(folder / "place.nc", cube)
    return import_data([path], folder / "p" / "source", labelling=labelling, project=folder / "p")


def test_a_project_with_a_partners_outlines(tmp_path: Path) -> None:
    path = write_outlines(tmp_path / "survey.geojson", [{"kind": k} for k in ("rice", "maize", "rice", "maize")])
    made = import_with(tmp_path, Labelling([path], class_property="kind"))
    assert made.classes == {"maize": 2, "rice": 2}
    config = load_project(tmp_path / "p").config
    assert (config.labels.files, config.labels.class_property) == (["source/labels/survey.geojson"], "kind")
    assert config.imagery.framing.model_dump() == {
        "kind": "period", "timesteps": 3, "days": 30, "offset_days": 0,
    }  # fmt: skip
    assert str(config.labels.date) == str(config.map.date) == "2024-01-01"
    assert (tmp_path / "p/source/labels/survey.geojson").read_bytes() == path.read_bytes()


def test_a_project_with_a_raster_of_labels(tmp_path: Path) -> None:
    density = (np.arange(48 * 48).reshape(48, 48) % 101).astype(np.uint8)
    write_tiff(tmp_path / "density.tif", density, nodata=255)
    labelling = Labelling([tmp_path / "density.tif"], parse_classes(["forest=30-100", "open=0-29"]))
    import_with(tmp_path, labelling)
    labels = load_project(tmp_path / "p").config.labels
    assert labels.classes == {"forest": ["30-100"], "open": ["0-29"]}
    assert (tmp_path / "p/source/labels/density.tif").read_bytes() == (tmp_path / "density.tif").read_bytes()
    with pytest.raises(SourceError, match=r"holds 101 different values \(0 to 100\)"):
        import_data([tmp_path / "place.nc"], tmp_path / "q", labelling=Labelling([tmp_path / "density.tif"]))
    write_tiff(tmp_path / "classes.tif", density // 50, nodata=2)
    made = import_data([tmp_path / "place.nc"], tmp_path / "q", labelling=Labelling([tmp_path / "classes.tif"]))
    assert list(made.classes) == ["0", "1"]


def test_a_project_with_a_raster_of_what_was_measured(tmp_path: Path) -> None:
    """Values instead of classes: the project is a regression."""
    density = (np.arange(48 * 48).reshape(48, 48) % 101).astype(np.uint8)
    write_tiff(tmp_path / "density.tif", density, nodata=255)
    measured = parse_measured("Tree cover", "0, 100", "%", classes=False)
    made = import_with(tmp_path, Labelling([tmp_path / "density.tif"], measured=measured))
    assert made.classes == {}
    config = load_project(tmp_path / "p").config
    assert (config.task.name, config.task.kind, config.task.unit) == ("tree_cover", "regression", "%")
    assert config.task.range == (0, 100)
    assert (config.labels.value_property, str(config.labels.date)) == ("value", "2024-01-01")
    assert read_labels(load_project(tmp_path / "p")).rasters[0].amounts.sum() > 0


def test_a_project_with_measured_points(tmp_path: Path) -> None:
    path = tmp_path / "plots.csv"
    path.write_text("\n".join(["x,y,height_m", *(f"{LEFT + 55 + 20 * i},{TOP - 55},{i}.5" for i in range(4))]) + "\n")
    measured = parse_measured("height_m", "0,60", None, classes=False)
    import_with(tmp_path, Labelling([path], crs="EPSG:32631", measured=measured))
    project = load_project(tmp_path / "p")
    assert project.config.labels.value_property == "height_m"
    assert read_labels(project).frame["value"].tolist() == [0.5, 1.5, 2.5, 3.5]
    wrong = Labelling([path], crs="EPSG:32631", measured=Measured("tall", (0, 60)))
    with pytest.raises(SourceError, match=r"has no column 'tall'; it has: x, y, height_m\. Give it with --value"):
        import_data([tmp_path / "place.nc"], tmp_path / "q", labelling=wrong)
    with pytest.raises(SourceError, match="--value tall: name the files that hold it with --labels"):
        import_data([tmp_path / "place.nc"], tmp_path / "q", labelling=replace(wrong, files=()))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (("height", None, None, False), "--value height: say which values are possible, for example --range 0,100"),
        (("height", "5", None, False), "--range 5: expected the least and the largest value"),
        (("height", "5,1", None, False), "--range 5,1: expected the least and the largest value"),
        (("height", "0,inf", None, False), "--range 0,inf: expected the least and the largest value"),
        (("height", "0,1", None, True), "--value height: labels are values or classes"),
        ((None, "0,1", None, False), "--range and --unit are about measured values"),
    ],
)
def test_what_was_measured_has_to_be_said_whole(said: tuple[Any, ...], sentence: str) -> None:
    name, limits, unit, classes = said
    with pytest.raises(SourceError, match=sentence):
        parse_measured(name, limits, unit, classes=classes)


def test_the_day_of_labels_that_say_none(tmp_path: Path) -> None:
    write_tiff(tmp_path / "classes.tif", (np.arange(48 * 48).reshape(48, 48) % 2).astype(np.uint8), nodata=255)
    path = write_netcdf(tmp_path / "place.nc", make_cube({"B2": values(1, 1, 48, 48)}, ("2024-01-01",)))
    made = import_data([path], tmp_path / "a", labelling=Labelling([tmp_path / "classes.tif"]))
    (told,) = (warning for warning in made.warnings if "labels.date" in warning)
    assert "classes.tif say no date: labels.date is set to that of the imagery, 2024-01-01" in told
    assert "--label-date" in told
    made = import_data([path], tmp_path / "b", labelling=Labelling([tmp_path / "classes.tif"], day=date(2023, 7, 1)))
    assert not any("labels.date" in warning for warning in made.warnings)
    assert "  date: 2023-07-01\n" in made.text
    dated = write_outlines(tmp_path / "s.geojson", [{"class": k, "start_datetime": "2024-01-01"} for k in "ab"])
    with pytest.raises(SourceError, match="--label-date: every label file says its dates itself"):
        import_data([path], tmp_path / "c", labelling=Labelling([dated], day=date(2023, 7, 1)))


def test_labels_in_a_table(tmp_path: Path) -> None:
    rows = [f"{LEFT + 55 + 20 * i},{TOP - 55},{('rice', 'maize')[i % 2]}" for i in range(4)]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["x,y,crop", *rows]) + "\n")
    made = import_with(tmp_path, Labelling([path], class_property="crop", crs="EPSG:32631"))
    assert made.classes == {"maize": 2, "rice": 2}
    project = load_project(tmp_path / "p")
    assert (project.config.labels.files, project.config.labels.crs) == (["source/labels/points.csv"], "EPSG:32631")
    assert len(read_labels(project).frame) == 4
    with pytest.raises(SourceError, match="has no column 'class'; it has: x, y, crop"):
        import_data([tmp_path / "place.nc"], tmp_path / "q", labelling=Labelling([path], crs="EPSG:32631"))


def test_labels_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_outlines(tmp_path / "survey.geojson", [{"kind": "rice"}, {"kind": None}])
    for labelling, words in (
        (Labelling([path]), "has no property 'class'; it has: kind"),
        (Labelling([path], class_property="kind"), r"1 features have no kind \(the first is feature 1\)"),
        (Labelling([path, path], {"a": [1], "b": [2]}, "kind"), "features have no kind"),
        (Labelling([write_outlines(tmp_path / "one.geojson", [{"class": "rice"}])]), "only the class rice found"),
    ):
        with pytest.raises(SourceError, match=words):
            import_with(tmp_path, labelling)
        assert not (tmp_path / "p").exists()
    write_tiff(tmp_path / "two.tif", values(0, 2, 8, 8))
    with pytest.raises(SourceError, match="has 2 bands; labels have one"):
        import_with(tmp_path, Labelling([tmp_path / "two.tif"]))


@pytest.mark.parametrize("text", ["forest", "=3", "forest=", "forest= ,"])
def test_a_class_by_word(text: str) -> None:
    assert parse_classes(["forest=30-100, 254", "open=0..29.5"]) == {"forest": ["30-100", 254], "open": ["0..29.5"]}
    with pytest.raises(SourceError, match="expected NAME=VALUES"):
        parse_classes([text])
    with pytest.raises(SourceError, match="forest stands twice"):
        parse_classes(["forest=1", "forest=2"])


def test_a_project_needs_labels_and_a_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--project needs labels"):
        import_with(tmp_path, Labelling())
    source = write_patches(tmp_path / "patches")
    with pytest.raises(ProjectError, match="'No Name' cannot be a name"):
        import_data([source], tmp_path / "No Name" / "source", PATCHES, project=tmp_path / "No Name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["patches", "place.nc"]


def test_sources_that_are_none(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    tiff, text = tmp_path / "20240501_B02.tif", other / "thesis.txt"
    write_tiff(tiff)
    cube = write_netcdf(tmp_path / "cube.nc", make_cube({"B2": values(1, 2, 8, 8)}))
    for sources, target, words in (
        ([tmp_path / "gone"], tmp_path / "out", "gone: no such file or folder"),
        ([empty], tmp_path / "out", r"empty: holds no GeoTIFF \(.tif\), NetCDF file or Zarr store"),
        ([tiff, cube], tmp_path / "out", "cannot be imported with the others"),
        ([text], tmp_path / "out", "thesis.txt: cannot be imported"),
        ([empty, tiff], tmp_path / "out", "name one folder, or files of one kind"),
        ([tiff], other, r"other: holds something that is no import \(thesis.txt\)"),
        ([tiff], text, "is a file; name a new folder"),
        ([tmp_path], tmp_path / "out", "lies in"),
    ):
        with pytest.raises(SourceError, match=words):
            import_data(sources, target)
    assert text.read_text() == "years of work"
    assert not (tmp_path / "out").exists()


def test_cubes_beside_rasters_of_labels(tmp_path: Path) -> None:
    write_netcdf(tmp_path / "in" / "cube.nc", make_cube({"B2": values(1, 2, 8, 8)}))
    write_tiff(tmp_path / "in" / "density.tif")
    made = import_data([tmp_path / "in"], tmp_path / "out")
    assert (made.kind, made.scenes) == ("cubes", 2)
    assert "1 GeoTIFFs beside the cubes are not imported" in made.warnings[0]


def test_outlines_of_the_older_form(tmp_path: Path) -> None:
    times = {"oe_start_time": "2024-05-01T00:00:00Z", "oe_end_time": "2024-06-01T00:00:00Z"}
    labels = write_outlines(tmp_path / "fields.geojson", [{"class": k, **times} for k in ("rice", "maize")])
    made = import_data([labels], tmp_path / "labels")
    assert (made.kind, made.classes) == ("outlines", {"maize": 1, "rice": 1})
    features = json.loads((tmp_path / "labels" / "labels" / "fields.geojson").read_text())["features"]
    assert features[0]["properties"] == {
        "class": "rice", "start_datetime": "2024-05-01T00:00:00Z", "end_datetime": "2024-06-01T00:00:00Z",
    }  # fmt: skip
    request = write_outlines(tmp_path / "request.geojson", [times, {**times, "oe_start_time": "2024-05-02T00:00:00Z"}])
    made = import_data([request], tmp_path / "request")
    assert [str(day) for day in made.days] == ["2024-05-01", "2024-06-01"]
    assert "2 different spans of time" in made.warnings[0]
    area = gpd.read_file(tmp_path / "request" / "area.geojson").to_crs("EPSG:32631")
    assert area.area.sum() == pytest.approx(2 * 40 * 100, rel=0.01)
    assert not (tmp_path / "request" / "labels").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"class": "a"}], "has no property oe_start_time"),
        ([{"oe_start_time": "May"}], "feature 0 has oe_start_time 'May'"),
        ([{"oe_start_time": "2024-05-02", "oe_end_time": "2024-05-01"}], "in order"),
        ([{"oe_annotations_task_id": "t1", "oe_labels": {"category": "a"}}], "no feature of its task t1 has them"),
        ([{"oe_start_time": "2024-05-01", "oe_labels": {"a": 1, "b": 2}}], r"several oe_labels \(a, b\)"),
        ([{"oe_start_time": "2024-05-01", "oe_labels": "[tea"}], r"has oe_labels '\[tea'"),
        ([{"oe_start_time": "2024-05-01", "class": c} for c in ("a", None)], "feature 1 has no class, others have"),
    ],
)
def test_outlines_that_cannot_be_used(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    path = write_outlines(tmp_path / "x.geojson", rows)
    with pytest.raises(CoreError, match=words):
        import_data([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_annotations_with_their_tasks_and_a_request_make_a_project(tmp_path: Path) -> None:
    """The files as the older tools write them: the class in oe_labels, the times with the task."""
    year = {"oe_start_time": "2024-01-01T00:00:00+00:00", "oe_end_time": "2024-12-26T00:00:00+00:00"}
    labels = [{"oe_annotations_task_id": f"t{i % 2}", "oe_labels": {"category": k}} for i, k in enumerate("aba")]
    annotations = write_outlines(tmp_path / "annotation_features.geojson", labels)
    tasks = write_outlines(
        tmp_path / "annotation_task_features.geojson", [{"oe_annotations_task_id": f"t{i}", **year} for i in range(2)]
    )
    request = write_outlines(tmp_path / "request.geojson", [{**year, "oe_start_time": "2025-01-01", "oe_end_time": ""}])
    made = import_data([annotations, tasks, request], tmp_path / "old" / "source", project=tmp_path / "old")
    assert made.classes == {"a": 2, "b": 1}
    config = load_project(tmp_path / "old").config
    assert config.labels.files == ["source/labels/annotation_features.geojson"]
    assert (config.map.area, str(config.map.date)) == ("source/area.geojson", "2025-01-01")
    assert (config.imagery.framing.kind, config.imagery.framing.timesteps) == ("period", 12)  # type: ignore[union-attr]
    found = read_labels(load_project(tmp_path / "old")).frame
    assert sorted(found["class_index"]) == [0, 0, 1]
    assert {str(day)[:10] for day in found["date"]} == {"2024-01-01"}
    area = gpd.read_file(tmp_path / "old" / "source" / "area.geojson").to_crs("EPSG:32631")
    assert area.area.sum() == pytest.approx(40 * 100, rel=0.01), "what was requested, not what was annotated"

    former = [{"es_label": 3, "es_start_time": "2024-01-01", "es_annotations_task_id": "t"}]
    made = import_data([write_outlines(tmp_path / "former.geojson", former)], tmp_path / "former")
    assert made.classes == {"3": 1}
    with pytest.raises(SourceError, match="--project needs labels"):
        import_data([request], tmp_path / "none" / "source", project=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_crs_without_a_code_is_kept(tmp_path: Path) -> None:
    own = "+proj=laea +lat_0=42 +lon_0=3 +x_0=500000 +y_0=4690000 +ellps=GRS80 +units=m"
    write_tiff(tmp_path / "in" / "20240501_B02.tif", crs=own)
    made = import_data([tmp_path / "in"], tmp_path / "out")
    assert made.crs[0].startswith("PROJCRS")
    item = json.loads(next((tmp_path / "out").rglob("20240501.json")).read_text())
    assert (item["properties"]["proj:code"], item["properties"]["proj:wkt2"]) == (None, made.crs[0])
    assert len(open_scenes(tmp_path / "out" / "catalog.json").scenes) == 1


def test_a_folder_of_labels_is_its_files_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    with pytest.raises(SourceError, match="a folder without a file of labels"):
        label_files([folder])
    for name in ("b.geojson", "a.tif", "README.md", "notes.txt"):
        (folder / name).touch()
    alone = tmp_path / "c.csv"
    assert label_files([alone, folder]) == [alone, folder / "a.tif", folder / "b.geojson"]
