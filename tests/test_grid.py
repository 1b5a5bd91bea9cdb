"""The grid: pixel positions that depend on nothing but the grid, UTM zones, lattices."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import CRS
from shapely.geometry import LineString, Point, box

from olmoearth_core.errors import ProjectError
from olmoearth_core.grid import Grid, Lattice, PixelBox

resolutions = st.sampled_from([0.5, 1.0, 2.5, 10.0, 20.0, 30.0, 60.0, 120.0, 1000.0]) | st.floats(0.3, 500)
grids = st.builds(Grid, st.sampled_from(["EPSG:32631", "EPSG:32733", "EPSG:3035"]), resolutions)
columns = st.integers(-200_000, 1_000_000)
sizes = st.integers(1, 300)


@st.composite
def boxes(draw: st.DrawFn, grid: Grid | None = None, largest: int = 300) -> PixelBox:
    return PixelBox(
        grid or draw(grids), draw(columns), draw(columns), draw(st.integers(1, largest)), draw(st.integers(1, largest))
    )


def pixels(area: PixelBox) -> set[tuple[int, int]]:
    return {
        (c, r) for c in range(area.column, area.column + area.width) for r in range(area.row, area.row + area.height)
    }


# ---------------------------------------------------------------- boxes and coordinates


@given(area=boxes())
def test_a_box_around_the_bounds_of_a_box_is_that_box(area: PixelBox) -> None:
    """Bounds on the grid gain no pixel, whatever the resolution does to their last bits."""
    assert area.grid.around(area.bounds) == area


@given(grid=grids, x=st.floats(-1e6, 1e7), y=st.floats(-1e6, 1e7), width=st.floats(0, 5e3), height=st.floats(0, 5e3))
def test_a_box_around_bounds_holds_them_and_is_the_smallest(
    grid: Grid, x: float, y: float, width: float, height: float
) -> None:
    found = grid.around((x, y, x + width, y + height))
    left, bottom, right, top = found.bounds
    slack, size = 1e-5 * grid.resolution, grid.resolution
    assert left <= x + slack
    assert bottom <= y + slack
    assert right >= x + width - slack
    assert top >= y + height - slack
    assert x - left < size + slack
    assert y - bottom < size + slack
    assert right - (x + width) < size + slack
    assert top - (y + height) < size + slack
    assert found.width >= 1
    assert found.height >= 1


def test_a_point_has_a_pixel_also_on_an_edge() -> None:
    grid = Grid("EPSG:32631", 10.0)
    assert grid.around((500005, 4649995, 500005, 4649995)) == grid.box(50000, -465000, 1, 1)
    assert grid.around((500000, 4650000, 500000, 4650000)) == grid.box(50000, -465000, 1, 1)
    assert grid.around((500000, 4649990, 500020, 4650000)) == grid.box(50000, -465000, 2, 1)


def test_bounds_and_transform_by_hand() -> None:
    area = Grid("EPSG:32631", 10.0).box(50_000, -465_000, 3, 2)
    assert area.shape == (2, 3)
    assert area.bounds == (500_000.0, 4_649_980.0, 500_030.0, 4_650_000.0)
    assert tuple(area.transform)[:6] == (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_650_000.0)
    x, y = area.centres
    assert x.tolist() == [500_005.0, 500_015.0, 500_025.0]
    assert y.tolist() == [4_649_995.0, 4_649_985.0]
    assert area.polygon.equals(box(500_000, 4_649_980, 500_030, 4_650_000))


@given(area=boxes(), data=st.data())
def test_a_pixels_centre_has_the_same_bits_in_every_box(area: PixelBox, data: st.DataObject) -> None:
    column = data.draw(st.integers(area.column, area.column + area.width - 1))
    row = data.draw(st.integers(area.row, area.row + area.height - 1))
    inner = PixelBox(
        area.grid,
        column,
        row,
        data.draw(st.integers(1, area.column + area.width - column)),
        data.draw(st.integers(1, area.row + area.height - row)),
    )
    rows, cols = inner.slices_in(area)
    x, y = area.centres
    assert x[cols].tobytes() == inner.centres[0].tobytes()
    assert y[rows].tobytes() == inner.centres[1].tobytes()
    array = np.arange(area.width * area.height).reshape(area.shape)
    assert array[rows, cols].shape == inner.shape
    assert array[rows, cols][0, 0] == (row - area.row) * area.width + column - area.column


@given(area=boxes())
def test_centres_lie_between_the_edges_in_the_right_order(area: PixelBox) -> None:
    left, bottom, right, top = area.bounds
    x, y = area.centres
    assert x.dtype == y.dtype == np.float64
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) < 0).all()
    assert left < x[0] <= x[-1] < right
    assert bottom < y[-1] <= y[0] < top


@given(area=boxes())
def test_the_geobox_agrees(area: PixelBox) -> None:
    geobox = area.geobox
    assert isinstance(geobox, GeoBox)
    assert geobox.shape == area.shape
    assert geobox.transform == area.transform
    assert geobox.crs == area.grid.crs
    np.testing.assert_allclose(geobox.boundingbox.bbox, area.bounds, rtol=1e-12, atol=1e-6)
    coordinates = geobox.coordinates
    np.testing.assert_allclose(coordinates["x"].values, area.centres[0], rtol=1e-12, atol=1e-6)
    np.testing.assert_allclose(coordinates["y"].values, area.centres[1], rtol=1e-12, atol=1e-6)
    assert pickle.loads(pickle.dumps(area)) == area


def test_slices_in_refuses_what_is_not_inside() -> None:
    grid = Grid("EPSG:32631")
    outer = grid.box(10, 10, 5, 5)
    for inner in (
        grid.box(9, 10, 1, 1),
        grid.box(10, 9, 1, 1),
        grid.box(15, 10, 1, 1),
        grid.box(10, 14, 1, 2),
        Grid("EPSG:32632").box(10, 10, 1, 1),
        Grid("EPSG:32631", 20.0).box(10, 10, 1, 1),
    ):
        with pytest.raises(ValueError, match="does not lie in"):
            inner.slices_in(outer)


@given(data=st.data(), grid=grids)
def test_union_cut_and_pad_are_those_of_the_pixels(data: st.DataObject, grid: Grid) -> None:
    near = st.builds(PixelBox, st.just(grid), *[st.integers(-9, 9)] * 2, *[st.integers(1, 9)] * 2)
    a, b = data.draw(near), data.draw(near)
    both = a.union(b)
    assert pixels(a) | pixels(b) <= pixels(both)
    assert both.column in (a.column, b.column)
    assert both.column + both.width in (a.column + a.width, b.column + b.width)
    assert both.row in (a.row, b.row)
    assert both.row + both.height in (a.row + a.height, b.row + b.height)
    common = a.cut(b)
    assert pixels(common) == pixels(a) & pixels(b)
    assert (min(common.shape) < 1) == (not pixels(a) & pixels(b))
    assert a.pad(3).pad(-3) == a
    assert a.slices_in(a.pad(2)) == (slice(2, 2 + a.height), slice(2, 2 + a.width))


# ---------------------------------------------------------------- lattices


@st.composite
def lattices(draw: st.DrawFn) -> tuple[PixelBox, Lattice]:
    size = draw(st.integers(1, 12))
    return draw(boxes(Grid("EPSG:32631"), largest=25)), Lattice(size, draw(st.integers(1, size)))


@given(case=lattices())
def test_a_lattice_covers_its_area_with_windows_that_all_touch_it(case: tuple[PixelBox, Lattice]) -> None:
    area, lattice = case
    size = lattice.size
    found = list(lattice.boxes(area))
    assert set().union(*map(pixels, found)) >= pixels(area)
    for part in found:
        assert (part.width, part.height, part.grid) == (size, size, area.grid)
        assert part.column % lattice.stride == part.row % lattice.stride == 0
        assert min(part.cut(area).shape) >= 1
    assert len(set(found)) == len(found)
    assert found == sorted(found, key=lambda b: (b.row, b.column))
    # none that touches is missing: those just outside do not touch
    i, j = [b.column // lattice.stride for b in found], [b.row // lattice.stride for b in found]
    for column, row in ((min(i) - 1, j[0]), (max(i) + 1, j[0]), (i[0], min(j) - 1), (i[0], max(j) + 1)):
        outside = PixelBox(area.grid, lattice.start(column), lattice.start(row), size, size)
        assert min(outside.cut(area).shape) < 1
    assert len(found) == len(set(i)) * len(set(j))


@given(case=lattices())
def test_windows_that_do_not_overlap_lie_side_by_side(case: tuple[PixelBox, Lattice]) -> None:
    area, lattice = case
    found = list(Lattice(lattice.size, lattice.size).boxes(area))
    assert sum(len(pixels(part)) for part in found) == len(set().union(*map(pixels, found)))


@given(case=lattices(), numbers=st.lists(st.integers(-50, 50), min_size=1))
def test_a_lattice_counts_arrays_as_it_counts_numbers(case: tuple[PixelBox, Lattice], numbers: list[int]) -> None:
    _, lattice = case
    for count in (lattice.start, lattice.first, lattice.last):
        assert count(np.array(numbers)).tolist() == [count(number) for number in numbers]


@given(case=lattices(), data=st.data())
def test_areas_that_meet_use_the_same_windows_where_they_meet(
    case: tuple[PixelBox, Lattice], data: st.DataObject
) -> None:
    area, lattice = case
    assume(area.width > 1)
    cut = data.draw(st.integers(1, area.width - 1))
    left = PixelBox(area.grid, area.column, area.row, cut, area.height)
    right = PixelBox(area.grid, area.column + cut, area.row, area.width - cut, area.height)
    whole, *halves = (set(lattice.boxes(part)) for part in (area, left, right))
    assert halves[0] | halves[1] == whole
    assert {part for part in whole if min(part.cut(left).shape) >= 1} == halves[0]


# ---------------------------------------------------------------- UTM


@pytest.mark.parametrize(
    ("longitude", "latitude", "crs"),
    [
        (3.0, 0.0, "EPSG:32631"),
        (3.0, -1e-9, "EPSG:32731"),
        (-180.0, 10.0, "EPSG:32601"),
        (-174.0, 10.0, "EPSG:32602"),
        (179.999, 10.0, "EPSG:32660"),
        (180.0, -10.0, "EPSG:32760"),
        (5.999999, 45.0, "EPSG:32631"),
        (6.0, 45.0, "EPSG:32632"),
        (0.0, 84.0, "EPSG:32631"),
        (0.0, -80.0, "EPSG:32731"),
        (36.8, -1.3, "EPSG:32737"),  # Nairobi
        (5.3, 60.4, "EPSG:32631"),  # Bergen: MGRS would say 32
        (15.6, 78.2, "EPSG:32633"),  # Longyearbyen: the same in both
        (10.0, 78.2, "EPSG:32632"),  # Svalbard: MGRS would say 33
    ],
)
def test_utm_zones(longitude: float, latitude: float, crs: str) -> None:
    assert Grid.utm(longitude, latitude) == Grid(crs, 10.0)


@given(longitude=st.floats(-179.999, 179.999), latitude=st.floats(-80, 84))
def test_the_zone_is_the_one_whose_area_of_use_holds_the_point(longitude: float, latitude: float) -> None:
    area = CRS.from_user_input(Grid.utm(longitude, latitude).crs).area_of_use
    assert area is not None
    assert area.west - 1e-9 <= longitude <= area.east + 1e-9
    assert area.south - 1e-9 <= latitude <= area.north + 1e-9


@pytest.mark.parametrize(
    ("longitude", "latitude"),
    [(0, 84.001), (0, -80.001), (0, 90), (180.001, 0), (-181, 0), (math.nan, 0), (0, math.nan), (0, math.inf)],
)
def test_places_without_a_zone_are_refused_with_what_to_do(longitude: float, latitude: float) -> None:
    with pytest.raises(ProjectError, match=r"lies in no UTM zone \(80 S to 84 N\)\. Set imagery\.crs in project\.yaml"):
        Grid.utm(longitude, latitude)


# ---------------------------------------------------------------- projecting


def test_geometries_are_projected_x_before_y() -> None:
    grid = Grid("EPSG:32631")
    # the central meridian of zone 31 is 3 E, false easting 500 km; the equator is the origin of northings
    here = grid.project(Point(3.0, 0.0))
    assert (here.x, here.y) == pytest.approx((500_000.0, 0.0), abs=1e-6)
    north = grid.project(LineString([(3.0, 0.0), (3.0, 1.0)]))
    # the meridian's length from 0 to 1 degree on WGS 84 is 110574.389 m; the scale on the central meridian is 0.9996
    assert north.length == pytest.approx(110_574.389 * 0.9996, abs=0.01)


def test_a_geometry_in_the_grids_crs_stays_bit_for_bit() -> None:
    outline = box(500_000.1, 0.1, 500_010.3, 10.7)
    assert Grid("EPSG:32631").project(outline, "EPSG:32631") is outline
    assert Grid("EPSG:32631").project(outline, CRS.from_epsg(32631).to_wkt()) is outline


def test_projecting_there_and_back() -> None:
    degrees = box(3.1, 45.1, 3.2, 45.2)
    there = Grid("EPSG:32631").project(degrees, "EPSG:4326")
    back = Grid("EPSG:4326", 1.0).project(there, "EPSG:32631")
    assert back.equals_exact(degrees, tolerance=1e-9)
