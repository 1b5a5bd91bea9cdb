"""Sampling a source onto a box: what each rule gives by hand, and that no value depends on the box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.sampling import Method, Plan, Points, SourceGrid, SourceWindow, plan
from olmoearth_core.imagery.sampling import sample as sample_band

UTM31 = "EPSG:32631"
UTM32 = "EPSG:32632"


def source(resolution: float, *, left: float = 0.0, top: float = 0.0, width: int = 4, height: int = 4) -> SourceGrid:
    return SourceGrid(UTM31, (resolution, 0.0, left, 0.0, -resolution, top), width, height)


def sample(pixels: np.ndarray, grid: SourceGrid, box: PixelBox, method: Method = "values") -> np.ndarray:
    """What a reader and a plan make of a raster that is all in memory."""
    how = plan(grid, box, Points(box), method)
    assert how is not None
    return sample_band(how, cut(pixels, how), box)


def cut(pixels: np.ndarray, how: Plan) -> np.ndarray:
    ring = np.pad(pixels, 1)
    window = how.window
    return ring[window.top + 1 : window.bottom + 1, window.left + 1 : window.right + 1]


def ramp(height: int, width: int) -> np.ndarray:
    return (np.arange(height * width).reshape(height, width) + 1).astype(np.uint16) * 100


def test_a_raster_on_the_grid_is_cut_out_as_it_is() -> None:
    pixels = ramp(4, 4)
    box = Grid(UTM31, 10).box(1, 1, 2, 3)
    assert np.array_equal(sample(pixels, source(10), box), pixels[1:4, 1:3])


def test_twenty_metres_on_ten_are_weighted_three_to_one() -> None:
    pixels = np.array([[100, 200], [300, 400]], np.uint16)
    # the centres of the inner four 10 m pixels lie a quarter of a 20 m pixel from the nearer centre
    box = Grid(UTM31, 10).box(1, 1, 2, 2)
    expected = [[175, 225], [275, 325]]  # e.g. (9 * 100 + 3 * 200 + 3 * 300 + 400) / 16
    assert sample(pixels, source(20, width=2, height=2), box).tolist() == expected


def test_at_the_edge_of_a_raster_its_own_pixels_are_enough() -> None:
    pixels = np.array([[100, 200], [300, 400]], np.uint16)
    box = Grid(UTM31, 10).box(-1, -1, 3, 3)
    values = sample(pixels, source(20, width=2, height=2), box)
    assert values[0].tolist() == [0, 0, 0]  # outside
    assert values[1, 1] == 100  # only one neighbour has data
    assert values[1, 2] == 125  # two have: 3/4 of 100, 1/4 of 200


def test_nodata_never_mixes_with_values_and_neither_grows_nor_shrinks() -> None:
    pixels = np.full((2, 2), 1000, np.uint16)
    pixels[0, 1] = 0
    box = Grid(UTM31, 10).box(0, 0, 4, 4)
    values = sample(pixels, source(20, width=2, height=2), box)
    assert values.tolist() == [[1000, 1000, 0, 0], [1000, 1000, 0, 0], [1000] * 4, [1000] * 4]


def test_finer_pixels_are_averaged_whole() -> None:
    pixels = ramp(4, 4)
    box = Grid(UTM31, 20).box(0, 0, 2, 2)
    expected = pixels.reshape(2, 2, 2, 2).mean(axis=(1, 3))
    assert np.array_equal(sample(pixels, source(10), box), expected)


@pytest.mark.parametrize(("missing", "expected"), [(0, 100), (1, 100), (2, 0), (4, 0)])
def test_a_mean_needs_more_than_half_of_its_pixels(missing: int, expected: int) -> None:
    pixels = np.full((2, 2), 100, np.uint16)
    pixels.flat[:missing] = 0
    assert sample(pixels, source(10, width=2, height=2), Grid(UTM31, 20).box(0, 0, 1, 1)).item() == expected


@pytest.mark.parametrize("resolution", [5, 10, 15, 20])
def test_classes_are_taken_never_mixed(resolution: float) -> None:
    pixels = np.array([[4, 9], [8, 11]], np.uint8)
    box = Grid(UTM31, resolution).box(0, 0, int(40 / resolution), int(40 / resolution))
    values = sample(pixels, source(20, width=2, height=2), box, "classes")
    x, y = box.centres
    expected = pixels[(-y // 20).astype(int)][:, (x // 20).astype(int)]
    assert np.array_equal(values, expected)


def test_a_box_beside_the_raster_has_no_plan() -> None:
    box = Grid(UTM31, 10).box(4, 0, 3, 3)
    assert plan(source(10), box, Points(box), "values") is None


def test_a_raster_of_another_zone_lands_where_it_should() -> None:
    """A plane in easting and northing, stored in zone 32, is the same plane seen from zone 31."""
    from pyproj import Transformer

    to31 = Transformer.from_crs(UTM32, UTM31, always_xy=True)
    grid32 = SourceGrid(UTM32, (10.0, 0.0, 252_000.0, 0.0, -10.0, 4_690_020.0), 60, 60)
    x32, y32 = np.meshgrid(252_005.0 + 10 * np.arange(60), 4_690_015.0 - 10 * np.arange(60))
    x31, y31 = to31.transform(x32, y32)
    plane = (2 * (x31 - x31.min()) + 3 * (y31 - y31.min()) + 500).round().astype(np.uint16)
    box = Grid(UTM31, 10).around((x31.mean() - 150, y31.mean() - 150, x31.mean() + 150, y31.mean() + 150))
    values = sample(plane, grid32, box).astype(float)
    x, y = np.meshgrid(*box.centres)
    expected = 2 * (x - x31.min()) + 3 * (y - y31.min()) + 500
    assert np.abs(values - expected).max() <= 1.5  # two roundings


def test_a_point_that_the_other_crs_does_not_know_is_outside() -> None:
    """The far side of the Earth has no position in this projection."""
    box = Grid("EPSG:3857", 1000.0).box(19_000, 0, 4, 4)
    lambert = SourceGrid("+proj=ortho +lat_0=42 +lon_0=3", (1000.0, 0.0, 0.0, 0.0, -1000.0, 0.0), 50, 50)
    assert plan(lambert, box, Points(box), "values") is None


def test_a_window_tells_what_of_it_has_pixels() -> None:
    window = SourceWindow(-1, 5, 2, 4)
    assert window.shape == (6, 2)
    assert window.inside(source(10)) == SourceWindow(0, 4, 2, 4)


boxes = st.tuples(st.integers(-6, 40), st.integers(-6, 40), st.integers(1, 24), st.integers(1, 24))


@given(
    grid=st.sampled_from([7.0, 10.0, 15.0, 20.0, 33.0]),
    pixel=st.sampled_from([10.0, 20.0, 60.0]),
    shift=st.sampled_from([(0.0, 0.0), (5.0, 0.0), (3.3, -7.1)]),
    crs=st.sampled_from([UTM31, UTM32]),
    outer=boxes,
    inner=st.tuples(*[st.floats(0, 1)] * 4),
    nodata=st.sampled_from([0.0, 0.02, 0.5]),
    method=st.sampled_from(["values", "classes"]),
)
def test_a_value_never_depends_on_the_box(
    grid: float,
    pixel: float,
    shift: tuple[float, float],
    crs: str,
    outer: tuple[int, int, int, int],
    inner: tuple[float, float, float, float],
    nodata: float,
    method: Method,
) -> None:
    raster = neighbourhood(crs, pixel, shift)
    random = np.random.default_rng(0)
    pixels = random.integers(1, 60_000, (30, 30)).astype(np.uint16)
    pixels[random.random((30, 30)) < nodata] = 0
    origin = Grid(UTM31, grid).around((740_040.0, 4_690_000.0, 740_060.0, 4_690_020.0))
    column, row, width, height = outer
    a = origin.grid.box(origin.column + column, origin.row + row, width, height)
    b = inside(a, inner)
    whole, part = (plan(raster, box, Points(box), method) for box in (a, b))
    rows, columns = b.slices_in(a)
    expected = np.zeros(a.shape, np.uint16) if whole is None else sample_band(whole, cut(pixels, whole), a)
    found = np.zeros(b.shape, np.uint16) if part is None else sample_band(part, cut(pixels, part), b)
    assert np.array_equal(expected[rows, columns], found)


def neighbourhood(crs: str, pixel: float, shift: tuple[float, float]) -> SourceGrid:
    """A raster of 30 x 30 pixels near the border of the two zones, at the same place in both."""
    left, top = (740_040.0, 4_690_020.0) if crs == UTM31 else (245_640.0, 4_690_560.0)
    return SourceGrid(crs, (pixel, 0.0, left + shift[0], 0.0, -pixel, top + shift[1]), 30, 30)


@pytest.mark.parametrize("crs", [UTM31, UTM32])
def test_the_boxes_of_the_property_meet_the_raster(crs: str) -> None:
    """Or the property above would hold for nothing."""
    box = Grid(UTM31, 10).around((740_040.0, 4_689_820.0, 740_240.0, 4_690_020.0))
    values = sample(np.full((30, 30), 7, np.uint16), neighbourhood(crs, 10.0, (0.0, 0.0)), box)
    assert (values == 7).mean() > 0.8


def inside(box: PixelBox, share: tuple[float, float, float, float]) -> PixelBox:
    """A box inside `box`, from four numbers between 0 and 1."""
    left, top = int(share[0] * (box.width - 1)), int(share[1] * (box.height - 1))
    width = 1 + int(share[2] * (box.width - left - 1))
    height = 1 + int(share[3] * (box.height - top - 1))
    return PixelBox(box.grid, box.column + left, box.row + top, width, height)


@pytest.mark.parametrize(("degrees", "side"), [(1e-4, 1), (5e-5, 2)])
def test_degrees_are_measured_in_metres(degrees: float, side: int) -> None:
    """At 42 N a pixel of 1e-4 degrees is 8.3 m by 11.1 m: bilinear on 10 m; of half the size, a mean of 2 x 2."""
    grid = SourceGrid("EPSG:4326", (degrees, 0.0, 3.0, 0.0, -degrees, 42.3), 1000, 1000)
    box = Grid(UTM31, 10).around((502_000, 4_680_000, 502_010, 4_680_010))
    how = plan(grid, box, Points(box), "values")
    assert how is not None
    assert how.window.shape == (2, 2)
    assert (type(how).__name__ == "_Mean") == (side == 2)


def test_web_mercator_is_measured_on_the_ground() -> None:
    """10 units of it at 60 N are 5 m."""
    grid = SourceGrid("EPSG:3857", (10.0, 0.0, 333_958.0, 0.0, -10.0, 8_399_737.0), 2000, 2000)
    box = Grid(UTM31, 10).around((505_000, 6_650_000, 505_010, 6_650_010))
    how = plan(grid, box, Points(box), "values")
    assert how is not None
    assert type(how).__name__ == "_Mean"
