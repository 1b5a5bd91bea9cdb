"""Labels of a regression: measured values from files, tables and rasters onto the pixels of windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from rasters import CRS, LEFT, TOP
from shore import SIZE, square, write_shore

from olmoearth_core.errors import LabelError
from olmoearth_core.grid import Grid
from olmoearth_core.labels.labels import Labels, check_labels, read_labels
from olmoearth_core.labels.targets import make_target
from olmoearth_core.labels.values import UNMAPPED
from olmoearth_core.labels.windows import IGNORE, TrainingWindow, windows_of
from olmoearth_core.project import Project, TaskConfig

COVER = {"kind": "regression", "unit": "%", "range": [0, 100]}
TASK = TaskConfig.model_validate(COVER)
DAY = "2024-05-01"


def project_with(folder: Path, **labels: Any) -> Project:
    section = {"files": ["labels/cover.geojson"], "date": DAY, **labels}
    return write_shore(folder, {"task": COVER, "labels": section}, scenes=[])


def write_values(path: Path, geometries: list[Any], values: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    gpd.GeoDataFrame({"value": values}, geometry=geometries, crs=CRS).to_crs("EPSG:4326").to_file(path)


def write_raster(path: Path, pixels: np.ndarray, size: float, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape
    more = {"crs": CRS, "transform": Affine(size, 0, LEFT, 0, -size, TOP), "count": 1, "dtype": pixels.dtype, **more}
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, **more) as file:
        file.write(pixels, 1)


def whole(labels: Labels, project: Project) -> np.ndarray:
    """The values of all windows, put side by side over the place: (96, 96)."""
    place = np.full((96, 96), np.nan, np.float32)
    for window in windows_of(project, labels):
        target = make_target(labels, window)
        assert target.values is not None
        assert_array_equal(np.isnan(target.values), target.classes == IGNORE)
        row, column = window.box.row + round(TOP / 10), window.box.column - round(LEFT / 10)
        for i, j in np.argwhere(target.classes != IGNORE).tolist():
            place[row + i, column + j] = target.values[i, j]
    return place


def test_points_and_polygons_carry_their_values_and_their_strata(tmp_path: Path) -> None:
    project = project_with(tmp_path)
    places = [square(0, 0, 160, 160), shapely.Point(LEFT + 805, TOP - 105), square(300, 300, 310, 310)]
    write_values(tmp_path / "labels/cover.geojson", places, [10, 99.5, None])
    with pytest.raises(LabelError, match=r"cover\.geojson: feature 2 has no value; expected a number, 0 to 100 %"):
        read_labels(project)
    labels = read_labels(project_with(tmp_path, unmapped="ignore"))
    assert labels.frame["class_index"].tolist() == [0, 4]
    place = whole(labels, project)
    assert (place[80:, :16] == 10).all()
    assert place[10, 80] == 99.5
    assert np.isfinite(place).sum() == 257


def test_measurements_of_one_pixel_are_averaged_unless_they_are_far_apart(tmp_path: Path) -> None:
    project = project_with(tmp_path)
    here, there = shapely.Point(LEFT + 5, TOP - 5), shapely.Point(LEFT + 15, TOP - 5)
    write_values(tmp_path / "labels/cover.geojson", [here, here, here, there, there], [19, 21, 38, 10, 31])
    labels = read_labels(project)
    (window,) = windows_of(project, labels)
    target = make_target(labels, window)
    assert target.values is not None
    assert target.conflicts == 1
    row, column = window.box.row + round(TOP / 10), window.box.column - round(LEFT / 10)
    assert target.values[-row, -column] == 26
    assert target.classes[-row, -column] == 1
    assert target.classes[-row, 1 - column] == IGNORE


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_target_is_the_mean_of_what_is_claimed_in_any_order(data: st.DataObject) -> None:
    grid = Grid(CRS, 10.0)
    box = grid.box(50_000, -469_000, 8, 8)
    left, _, _, top = box.bounds
    count = data.draw(st.integers(1, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    spots = draw.integers(0, 8, (count, 4))
    shapes = [
        shapely.Point(left + 10 * a + 3, top - 10 * b - 3)
        if k % 2
        else shapely.box(left + 10 * a, top - 10 * max(b, d) - 10, left + 10 * max(a, c) + 10, top - 10 * b)
        for k, (a, b, c, d) in enumerate(spots.tolist())
    ]
    values = draw.uniform(40, 60, count)  # no two are a stratum apart
    frame = gpd.GeoDataFrame(
        {"class_index": TASK.strata_of(values), "value": values, "date": [window_day()] * count},
        geometry=shapes,
        crs=CRS,
    )
    claims: dict[tuple[int, int], list[float]] = {}
    x, y = box.centres
    for shape, value in zip(shapes, values.tolist(), strict=True):
        for i in range(8):
            for j in range(8):
                pixel = shapely.box(x[j] - 5, y[i] - 5, x[j] + 5, y[i] + 5)
                inside = pixel.contains(shape) if shape.geom_type == "Point" else shape.contains(pixel.centroid)
                if inside:
                    claims.setdefault((i, j), []).append(value)
    window = TrainingWindow("w", box, window_day())
    target = make_target(Labels(frame, grid, task=TASK), window)
    assert target.values is not None
    assert target.conflicts == 0
    for i in range(8):
        for j in range(8):
            if (i, j) in claims:
                assert_allclose(target.values[i, j], np.mean(claims[i, j]), rtol=1e-6)
            else:
                assert target.classes[i, j] == IGNORE
    shuffled = frame.iloc[draw.permutation(count)].reset_index(drop=True)
    again = make_target(Labels(shuffled, grid, task=TASK), window)
    assert_array_equal(again.values, target.values)


def window_day() -> Any:
    from datetime import date

    return date(2024, 5, 1)


def test_a_finer_raster_gives_the_mean_of_its_possible_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 101, (480, 480)).astype(np.uint8)  # 2 m
    pixels[:5, :5] = 0  # a value of 0 is a value
    pixels[0:5, 5:10] = 255
    pixels[0, 5:8] = 80  # 3 of 25 pixels know: not more than half
    pixels[5:10, 0:5] = 60
    pixels[5, 0:5] = 255  # 20 of 25 do
    write_raster(tmp_path / "labels/cover.tif", pixels, 2.0, nodata=255)
    project = project_with(tmp_path, files=["labels/cover.tif"])
    place = whole(read_labels(project), project)
    inner = np.where(pixels == 255, np.nan, pixels.astype(float)).reshape(96, 5, 96, 5)
    expected = np.nanmean(inner.transpose(0, 2, 1, 3).reshape(96, 96, 25), axis=-1)
    expected[0, 1] = np.nan
    assert_allclose(place, expected, rtol=1e-6)
    assert place[0, 0] == 0
    assert place[1, 0] == 60


def test_a_coarser_raster_gives_the_pixel_that_holds_the_centre(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).uniform(0, 100, (32, 32)).astype(np.float32)  # 30 m
    pixels[3, 4] = np.nan
    write_raster(tmp_path / "labels/cover.tif", pixels, 30.0)
    project = project_with(tmp_path, files=["labels/cover.tif"])
    labels = read_labels(project)
    assert_array_equal(whole(labels, project), np.kron(pixels, np.ones((3, 3), np.float32)))
    assert labels.rasters[0].amounts.sum() == 96 * 96 - 9
    strata = TASK.strata_of(np.kron(pixels, np.ones((3, 3))))
    counted = [labels.rasters[0].amounts[labels.rasters[0].cells[:, 2] == k].sum() for k in range(5)]
    assert counted == [int((strata == k).sum()) for k in range(5)]
    assert (strata == UNMAPPED).sum() == 9


def test_stored_values_of_a_raster_are_scaled_as_it_says(tmp_path: Path) -> None:
    write_raster(tmp_path / "labels/cover.tif", np.full((96, 96), 500, np.uint16), 10.0)
    with rasterio.open(tmp_path / "labels/cover.tif", "r+") as file:
        file.scales, file.offsets = (0.1,), (-10.0,)
    project = project_with(tmp_path, files=["labels/cover.tif"])
    assert_allclose(whole(read_labels(project), project), 40.0)


def test_values_of_a_raster_outside_the_range_are_refused_or_ignored_even_where_a_mean_hides_them(
    tmp_path: Path,
) -> None:
    pixels = np.full((480, 480), 50, np.uint8)
    pixels[102, 103] = 254
    write_raster(tmp_path / "labels/cover.tif", pixels, 2.0)
    project = project_with(tmp_path, files=["labels/cover.tif"])
    with pytest.raises(LabelError, match=r"cover\.tif: holds the values 254, which are not possible; task\.range says"):
        read_labels(project)
    assert (
        whole(read_labels(project_with(tmp_path, files=["labels/cover.tif"], unmapped="ignore")), project)
    ).mean() == 50
    write_values(tmp_path / "area.gpkg", [square(0, 0, SIZE, 400)], [0])
    labels = read_labels(project_with(tmp_path, files=["labels/cover.tif"], area="area.gpkg"))
    assert labels.rasters[0].amounts.sum() == 96 * 40


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([10.0, 120.0], "feature 1 has the value '120'; task.range says 0 to 100 %"),
        ([10.0, float("nan")], "feature 1 has no value; expected a number, 0 to 100 %"),
        (["oak", "pine"], "its property 'value' is text ('oak'); a regression needs a number that was measured"),
        (["1", "pine"], "feature 1 has the value 'pine'; task.range says 0 to 100 %"),
    ],
)
def test_values_that_cannot_be_are_told(tmp_path: Path, values: list[Any], sentence: str) -> None:
    places = [square(0, 0, 100, 100), square(200, 0, 300, 100)]
    write_values(tmp_path / "labels/cover.geojson", places, values)
    _, (problem,) = check_labels(project_with(tmp_path))
    assert problem.message.startswith(sentence)


def test_a_missing_property_and_values_that_are_all_impossible_are_told(tmp_path: Path) -> None:
    write_values(tmp_path / "labels/cover.geojson", [square(0, 0, 100, 100)], [500.0])
    _, (problem,) = check_labels(project_with(tmp_path, value_property="cover"))
    assert problem.message.startswith("has no property 'cover'; its properties are: value. Set labels.value_property")
    _, (problem,) = check_labels(project_with(tmp_path, unmapped="ignore"))
    assert problem.message.startswith("no value in them is possible; task.range says 0 to 100 %")


def test_a_table_may_write_its_values_with_a_comma(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir(parents=True)
    text = f"x;y;height\n{LEFT + 5};{TOP - 5};12,5\n"
    (tmp_path / "labels/plots.csv").write_text(text)
    labels = read_labels(project_with(tmp_path, files=["labels/plots.csv"], crs=CRS, value_property="height"))
    assert labels.frame["value"].tolist() == [12.5]
