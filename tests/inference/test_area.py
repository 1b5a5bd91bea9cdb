from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasters import CRS
from shapely.geometry import MultiPoint, Point, Polygon, box
from smallmap import metres, odd_area, square, write_area

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import Grid
from olmoearth_core.inference.area import Area, load_areas

GRID = Grid(CRS, 10.0)


def load(path: Path, crs: str | None = None) -> Area:
    (area,) = load_areas(path, path.name, crs=crs, resolution=10.0)
    return area


def area_of(*parts: Polygon) -> Area:
    return Area(GRID, parts, box(0, 0, 1, 1))


def test_every_polygon_of_a_collection_counts_and_request_properties_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    write_area(path, odd_area(), oe_start_time="2024-01-01T00:00:00+00:00", oe_end_time="2024-12-31T00:00:00+00:00")
    area = load(path)
    assert area.grid == GRID  # the UTM zone of the place
    assert len(area.parts) == 2
    corner = square(92, 96, 20, 17)
    assert area.mask(GRID.around(corner.bounds)).sum() == 20 * 17


@pytest.mark.parametrize(("crs", "name"), [("EPSG:3857", "a.gpkg"), ("EPSG:4326", "a.fgb"), (CRS, "a.gpkg")])
def test_any_vector_file_of_any_crs_gives_the_same_pixels(tmp_path: Path, crs: str, name: str) -> None:
    write_area(tmp_path / "area.geojson", odd_area())
    expected = load(tmp_path / "area.geojson")
    gpd.GeoSeries([odd_area()], crs=CRS).to_crs(crs).to_file(tmp_path / name)
    area = load(tmp_path / name)
    box = expected.bounds.pad(3)
    assert np.array_equal(area.mask(box), expected.mask(box))


def test_the_grid_of_the_project_is_used_where_it_is_given(tmp_path: Path) -> None:
    write_area(tmp_path / "area.geojson", odd_area())
    assert load(tmp_path / "area.geojson", "EPSG:3035").grid == Grid("EPSG:3035", 10.0)


def test_bounds_are_those_of_the_pixels(tmp_path: Path) -> None:
    # nine digits of a degree are not exact: the rim must not gain a column of pixels that are not the area's
    write_area(tmp_path / "area.geojson", square(3, 5, 40, 30))
    bounds = load(tmp_path / "area.geojson").bounds
    assert bounds == GRID.around(square(3, 5, 40, 30).bounds)


corner = st.tuples(st.floats(0, 60), st.floats(0, 60))


@given(points=st.lists(corner, min_size=3, max_size=9), cut=st.tuples(*[st.integers(0, 30)] * 4))
def test_a_pixel_is_in_the_area_or_not_whatever_box_is_asked_for(
    points: list[tuple[float, float]], cut: tuple[int, int, int, int]
) -> None:
    outline = MultiPoint([metres(*point) for point in points]).convex_hull
    if outline.geom_type != "Polygon" or outline.area < 100:
        return
    area = area_of(outline)
    whole = GRID.around(outline.bounds).pad(2)
    column, row, width, height = cut
    part = GRID.box(whole.column + column, whole.row + row, width + 1, height + 1).cut(whole)
    if part.width < 1 or part.height < 1:
        return
    mask = area.mask(whole)
    assert np.array_equal(area.mask(part), mask[part.slices_in(whole)])
    rows, columns = np.nonzero(mask)
    x, y = whole.centres
    assert all(outline.contains(Point(x[c], y[r])) for r, c in zip(rows[::7], columns[::7], strict=True))
    if mask.any():
        inside = np.zeros_like(mask)
        inside[area.bounds.slices_in(whole)] = True
        assert not (mask & ~inside).any()
    assert (0 in area.touched([part])) or not area.mask(part).any()


def test_a_diagonal_through_pixel_centres_is_cut_alike_by_all_boxes() -> None:
    left, top = metres(0.5, 0.5)
    area = area_of(Polygon([(left, top), (left + 500, top - 500), (left, top - 500)]))
    whole = GRID.around(area.parts[0].bounds)
    mask = area.mask(whole)
    for column in range(whole.width):
        strip = GRID.box(whole.column + column, whole.row, 1, whole.height)
        assert np.array_equal(area.mask(strip)[:, 0], mask[:, column])


def test_a_box_that_shares_only_an_edge_is_not_touched() -> None:
    area = area_of(square(10, 10, 10, 10))
    inside = area.bounds
    beside = GRID.box(inside.column + inside.width, inside.row, 10, 10)
    assert area.touched([beside, inside]) == [1]


BOW_TIE = Polygon([metres(0, 0), metres(20, 20), metres(20, 0), metres(0, 20)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"type": "FeatureCollection", "features": []}, "no features|empty"),
        ("not a vector file", "not a vector file|read"),
        ({"type": "Point", "coordinates": [3.0, 42.36]}, "polygons"),
        ({"type": "Feature", "properties": {}, "geometry": None}, "no geometr"),
        (BOW_TIE, "feature 0.*Self-intersection"),
        (square(10.6, 10.6, 0.2, 0.2), "smaller than one pixel"),
        (box(10, 83, 11, 85), "UTM ends at 80 S and 84 N. Set imagery.crs"),
    ],
)
def test_an_area_that_cannot_be_mapped_is_refused_in_a_sentence(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "area.geojson"
    if isinstance(content, Polygon) and content.bounds[0] > 1000:
        write_area(path, content)
    elif isinstance(content, Polygon):
        gpd.GeoSeries([content], crs="EPSG:4326").to_file(path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(MappingError, match=said) as error:
        load(path)
    assert "area.geojson" in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="no such file"):
        load(tmp_path / "nowhere.geojson")
