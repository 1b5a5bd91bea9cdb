"""Label files of every kind of bad luck, and the good ones."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from rasters import CRS
from shore import DATE, halves, square, write_labels, write_shore

from olmoearth_core.errors import LabelError
from olmoearth_core.labels.labels import check_labels, read_labels
from olmoearth_core.labels.vector import read_area
from olmoearth_core.project import load_project


def write_raw(folder: Path, features: list[dict[str, Any]], **members: Any) -> None:
    """A GeoJSON label file exactly as given."""
    text = json.dumps({"type": "FeatureCollection", **members, "features": features})
    (folder / "labels" / "shore.geojson").write_text(text)


def feature(geometry: dict[str, Any] | None, **properties: Any) -> dict[str, Any]:
    properties = {"class": "land", "start_datetime": DATE, **properties}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def ring(*corners: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[list(corner) for corner in corners]]}


GOOD = ring((3.0, 42.0), (3.01, 42.0), (3.01, 42.01), (3.0, 42.0))
BOWTIE = ring((3.0, 42.0), (3.01, 42.01), (3.01, 42.0), (3.0, 42.01), (3.0, 42.0))


def refusal(folder: Path) -> str:
    with pytest.raises(LabelError) as caught:
        read_labels(load_project(folder))
    return str(caught.value)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32631", "EPSG:3857", "EPSG:32630"])
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".shp"])
def test_any_crs_and_format_gives_the_same_labels(tmp_path: Path, crs: str, suffix: str) -> None:
    changes = {"labels.files": [f"labels/other{suffix}"], "labels.date_property": "start_date"}
    project = write_shore(tmp_path, changes)
    frame = gpd.GeoDataFrame(
        {"class": ["land", "water"], "start_date": [DATE, DATE]},
        geometry=[square(0, 0, 480, 960), square(480, 0, 960, 960)],
        crs=CRS,
    )
    frame.to_crs(crs).to_file(tmp_path / f"labels/other{suffix}")
    labels = read_labels(project)
    assert labels.grid.crs == CRS
    found = labels.frame.sort_values("class_index")  # FlatGeobuf puts features into an order of its own
    assert found["class_index"].tolist() == [0, 1]
    assert labels.frame["date"].tolist() == [date(2024, 5, 1)] * 2
    assert labels.frame["source"].tolist() == [f"labels/other{suffix}"] * 2
    assert labels.frame["feature"].tolist() == [0, 1]
    far = shapely.hausdorff_distance(found.geometry.to_numpy(), frame.geometry.to_numpy())
    assert far.max() < 0.05  # metres


def test_the_grid_is_the_one_that_the_project_names(tmp_path: Path) -> None:
    project = write_shore(tmp_path, {"imagery.crs": "EPSG:3035", "imagery.resolution": 20})
    labels = read_labels(project)
    assert (labels.grid.crs, labels.grid.resolution) == ("EPSG:3035", 20)
    assert labels.frame.crs == "EPSG:3035"


@pytest.mark.parametrize(
    ("crs", "word"), [("EPSG:4326", "not projected"), ("EPSG:1", "no CRS"), ("EPSG:2263", "US survey foot")]
)
def test_a_grid_that_cannot_be_is_refused(tmp_path: Path, crs: str, word: str) -> None:
    write_shore(tmp_path, {"imagery.crs": crs})
    assert "project.yaml: imagery.crs" in refusal(tmp_path)
    assert word in refusal(tmp_path)


def place(longitude: float, latitude: float) -> dict[str, Any]:
    return feature({"type": "Point", "coordinates": [longitude, latitude]})


OVER = ring((179.9, -17.0), (-179.9, -17.0), (-179.9, -16.9), (179.9, -17.0))


@pytest.mark.parametrize(
    "features", [[place(179.5, -17), place(-179.8, -17)], [place(179.7, -17), feature(OVER)], [feature(OVER)]]
)
def test_labels_on_both_sides_of_180_degrees_lie_together(tmp_path: Path, features: list[dict[str, Any]]) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, features)
    labels = read_labels(load_project(tmp_path))
    assert labels.grid.crs in ("EPSG:32760", "EPSG:32701")
    left, _, right, _ = labels.frame.total_bounds
    assert right - left < 100_000


def test_labels_too_wide_for_a_zone_are_refused(tmp_path: Path) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [place(37, 0), place(-60, 0)])
    assert "project.yaml: the labels reach from longitude -60.00 to 37.00, too wide for one UTM zone" in refusal(
        tmp_path
    )
    write_shore(tmp_path, {"imagery.crs": "EPSG:3857"})
    write_raw(tmp_path, [place(37, 0), place(-60, 0)])
    assert read_labels(load_project(tmp_path)).grid.crs == "EPSG:3857"


def test_labels_are_clipped_to_the_area(tmp_path: Path) -> None:
    project = write_shore(tmp_path, {"labels.area": "half.gpkg"})
    write_labels(tmp_path / "half.gpkg", [(square(0, 0, 480, 500), "half", None)], "EPSG:3857")
    labels = read_labels(project)
    assert labels.frame["class_index"].tolist() == [0]
    assert labels.frame.area.sum() == pytest.approx(480 * 500, rel=1e-4)


def test_what_the_area_cuts_keeps_its_dimension(tmp_path: Path) -> None:
    touching = square(480, 0, 600, 960)  # shares an edge with the area
    labels = [(square(0, 0, 480, 960), "land", DATE), (touching, "water", DATE)]
    project = write_shore(
        tmp_path, {"labels.area": "half.gpkg", "labels.files": ["labels/utm.gpkg"]}, labels=halves(DATE)
    )
    write_labels(tmp_path / "labels/utm.gpkg", labels, CRS)
    write_labels(tmp_path / "half.gpkg", [(square(0, 0, 480, 500), "half", None)], CRS)
    assert read_labels(project).frame["class_index"].tolist() == [0]


def test_an_area_without_labels_is_told(tmp_path: Path) -> None:
    write_shore(tmp_path, {"labels.area": "far.geojson"})
    write_labels(tmp_path / "far.geojson", [(square(9000, 0, 9500, 500), "far", None)])
    assert "far.geojson: no label lies in labels.area" in refusal(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    write_shore(tmp_path, {"labels.files": ["labels/gone.geojson"]})
    assert refusal(tmp_path).startswith("labels/gone.geojson: no such file")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.geojson", "hello", "not a vector file"),
        ("a.tif", "II*", "not a raster that can be read"),
        ("a.csv", "class,x,y\nland,3,42\n", "Set labels.crs"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "no features"),
    ],
)
def test_no_labels_in_the_file(tmp_path: Path, name: str, content: str, word: str) -> None:
    write_shore(tmp_path, {"labels.files": [f"labels/{name}"]})
    (tmp_path / "labels" / name).write_text(content)
    message = refusal(tmp_path)
    assert message.startswith(f"labels/{name}: ")
    assert word in message


def test_a_file_with_two_layers(tmp_path: Path) -> None:
    write_shore(tmp_path, {"labels.files": ["labels/two.gpkg"]})
    frame = gpd.GeoDataFrame({"class": ["land"]}, geometry=[square(0, 0, 9, 9)], crs=CRS)
    frame.to_file(tmp_path / "labels/two.gpkg", layer="first")
    frame.to_file(tmp_path / "labels/two.gpkg", layer="second")
    assert refusal(tmp_path).startswith("labels/two.gpkg: holds 2 layers (first, second)")


def test_a_file_without_crs(tmp_path: Path) -> None:
    write_shore(tmp_path, {"labels.files": ["labels/no.shp"]})
    frame = gpd.GeoDataFrame({"class": ["land"]}, geometry=[square(0, 0, 9, 9)], crs=CRS)
    frame.to_file(tmp_path / "labels/no.shp")
    (tmp_path / "labels/no.prj").unlink()
    assert "labels/no.shp: states no CRS" in refusal(tmp_path)


def test_metres_that_are_called_degrees(tmp_path: Path) -> None:
    write_shore(tmp_path)
    west = shapely.geometry.mapping(square(0, 0, 480, 960))
    write_raw(tmp_path, [feature(west)])
    message = refusal(tmp_path)
    assert "WGS 84 is in degrees" in message
    assert "500040" in message
    assert "look like metres" in message


def test_longitudes_beyond_180(tmp_path: Path) -> None:
    write_shore(tmp_path)
    ring = [[179.9, 1], [180.25, 1], [180.25, 1.1], [179.9, 1.1], [179.9, 1]]
    write_raw(tmp_path, [feature({"type": "Polygon", "coordinates": [ring]})])
    assert "-179.75 in place of 180.25" in refusal(tmp_path)


def test_a_crs_that_is_of_no_place_on_earth(tmp_path: Path) -> None:
    write_shore(tmp_path)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::5800"}}
    write_raw(tmp_path, [feature(GOOD)], crs=crs)
    assert "EPSG:5800, which is no CRS of places on Earth" in refusal(tmp_path)


def test_a_crs_that_nobody_knows_is_not_taken_for_degrees(tmp_path: Path) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [feature(GOOD)], crs={"type": "name", "properties": {"name": "EPSG:999999"}})
    assert "EPSG:999999, which is no CRS of places on Earth" in refusal(tmp_path)


def test_a_latitude_beyond_the_pole(tmp_path: Path) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [feature({"type": "Point", "coordinates": [12, 91]})])
    assert "has the latitude 91; latitudes are -90 to 90" in refusal(tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_coordinate_that_is_no_number(tmp_path: Path) -> None:
    write_shore(tmp_path)
    ring = [[float("nan"), 45], [12.1, 45], [12.1, 45.1], [float("nan"), 45]]
    write_raw(tmp_path, [feature({"type": "Polygon", "coordinates": [ring]})])
    assert "without numbers" in refusal(tmp_path)


def test_degrees_that_are_called_metres(tmp_path: Path) -> None:
    write_shore(tmp_path)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    write_raw(tmp_path, [feature(GOOD)], crs=crs)
    assert "look like degrees" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (BOWTIE, "Self-intersection"),
        (None, "has no geometry"),
        ({"type": "Polygon", "coordinates": []}, "empty geometry"),
        (ring((3.0, 42.0), (3.01, 42.0)), "too short ring"),
        ({"type": "GeometryCollection", "geometries": [GOOD]}, "GeometryCollection; allowed are points"),
    ],
)
def test_broken_geometry_names_feature_and_reason(tmp_path: Path, geometry: Any, reason: str) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [feature(GOOD), feature(GOOD, **{"class": "water"}), feature(geometry)])
    message = refusal(tmp_path)
    assert message.startswith("labels/shore.geojson: feature 2 ")
    assert reason in message


def test_an_unknown_class_names_feature_file_and_what_is_allowed(tmp_path: Path) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [feature(GOOD), feature(GOOD, **{"class": "Water"}), feature(GOOD, **{"class": None})])
    message = refusal(tmp_path)
    assert "labels/shore.geojson: feature 1 has the class 'Water'; allowed are land, water" in message
    assert "feature 2 has no class" in message


def test_a_missing_class_property_names_those_that_are_there(tmp_path: Path) -> None:
    write_shore(tmp_path, {"labels.class_property": "cover"})
    assert "has no property 'cover'; its properties are: class, start_datetime" in refusal(tmp_path)


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    classes = [{"name": "1", "color": "#aaaaaa"}, {"name": "7", "color": "#0000aa"}]
    project = write_shore(tmp_path, {"task.classes": classes})
    write_raw(tmp_path, [feature(GOOD, **{"class": 7}), feature(GOOD, **{"class": 1.0}), feature(GOOD, **{"class": 7})])
    assert read_labels(project).frame["class_index"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("value", "word"), [("2024-06-31", "'2024-06-31'"), ("soon", "'soon'"), (None, "no start_datetime")]
)
def test_a_date_that_is_none(tmp_path: Path, value: Any, word: str) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [feature(GOOD), feature(GOOD, start_datetime=value)])
    message = refusal(tmp_path)
    assert message.startswith("labels/shore.geojson: feature 1 ")
    assert word in message
    assert "expected a date like 2024-06-30" in message


def test_the_day_is_the_one_that_is_written(tmp_path: Path) -> None:
    project = write_shore(tmp_path)
    dates = ["2024-05-01T23:30:00-08:00", "2024-05-01", "2024-05-01T00:00:00Z"]
    write_raw(tmp_path, [feature(GOOD, start_datetime=day) for day in dates])
    assert set(read_labels(project).frame["date"]) == {date(2024, 5, 1)}


def test_one_date_for_files_without_one(tmp_path: Path) -> None:
    project = write_shore(tmp_path, {"labels.date_property": "when"})
    assert "no property 'when' with the date" in refusal(tmp_path)
    project = write_shore(tmp_path, {"labels.date_property": "when", "labels.date": "2023-07-01"})
    assert set(read_labels(project).frame["date"]) == {date(2023, 7, 1)}


def test_every_problem_is_counted(tmp_path: Path) -> None:
    write_shore(tmp_path)
    write_raw(tmp_path, [feature(GOOD, **{"class": "ice"})] * 12 + [feature(BOWTIE)])
    message = refusal(tmp_path)
    assert "feature 12 has a broken geometry" in message
    assert "and 10 more like these" in message


def test_heights_are_dropped(tmp_path: Path) -> None:
    project = write_shore(tmp_path)
    high = ring((3.0, 42.0, 5.0), (3.01, 42.0, 5.0), (3.01, 42.01, 5.0), (3.0, 42.0, 5.0))  # type: ignore[arg-type]
    write_raw(tmp_path, [feature(high)])
    assert not shapely.has_z(read_labels(project).frame.geometry.to_numpy()).any()


def test_an_area_has_to_be_made_of_polygons(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "line.geojson", [(square(0, 0, 9, 9).exterior, "x", None)])
    with pytest.raises(LabelError, match=r"area\.geojson: an area is made of polygons; found LineString"):
        read_area(path, "area.geojson")


def test_the_reservoir(real_data: Path, tmp_path: Path) -> None:
    files = [str(real_data / f"reservoir/labels/water_{day}.geojson") for day in ("2020-06-21", "2020-09-14")]
    labels = read_labels(write_shore(tmp_path, {"labels.files": files}))
    assert labels.grid.crs == "EPSG:32631"
    assert np.bincount(labels.frame["class_index"]).tolist() == [12, 6]
    # both dates cover the square of 372 x 372 pixels, save for the 50 m2 pieces that were dropped
    assert labels.frame.area.sum() == pytest.approx(2 * 3720**2, rel=1e-3)


def test_labels_that_are_all_ignored_are_told(tmp_path: Path) -> None:
    labels = [(square(0, 0, 100, 100), "rock", DATE)]
    _, (problem,) = check_labels(write_shore(tmp_path, {"labels.unmapped": "ignore"}, labels=labels, scenes=[]))
    assert problem.source == "labels.files"
    assert problem.message == "no value in them means a class; check labels.classes"
