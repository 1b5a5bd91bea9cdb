"""Windows and targets: every labelled pixel in exactly one window, by rules that no order of files changes."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from olmoearth_core.grid import Grid
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.targets import make_target, rasterize
from olmoearth_core.labels.windows import IGNORE, TrainingWindow, training_windows

GRID = Grid("EPSG:32631", 10.0)
DAY = date(2024, 5, 1)


def make_labels(geometries: list[BaseGeometry], classes: list[int], days: list[date] | None = None) -> Labels:
    table = {
        "class_index": classes,
        "date": days or [DAY] * len(classes),
        "source": "a",
        "feature": range(len(classes)),
    }
    return Labels(gpd.GeoDataFrame(table, geometry=geometries, crs=GRID.crs), GRID)


def window(column: int, row: int, size: int, day: date = DAY) -> TrainingWindow:
    return TrainingWindow("w", GRID.box(column, row, size, size), day)


coordinate = st.floats(-250, 250).map(lambda metres: round(metres, 6))
convex = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=6).map(
    lambda points: shapely.MultiPoint(points).convex_hull
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(convex, st.integers(0, 2)), min_size=1, max_size=5), st.sampled_from([8, 16, 20]))
def test_windows_hold_each_labelled_pixel_once(shapes: list[tuple[BaseGeometry, int]], size: int) -> None:
    shapes = [(geometry, index) for geometry, index in shapes if geometry.geom_type == "Polygon"]
    if not shapes:
        return
    labels = make_labels([g for g, _ in shapes], [index for _, index in shapes])
    windows = training_windows(labels, size)
    corners = [(w.box.column, w.box.row) for w in windows]
    assert len(set(corners)) == len(corners)
    assert all(column % size == 0 and row % size == 0 for column, row in corners)

    whole = window(-40, -40, 80)
    pieced = np.full(whole.box.shape, IGNORE, np.uint8)
    for w in windows:
        pieced[w.box.slices_in(whole.box)] = rasterize(labels, w)

    x, y = np.meshgrid(*whole.box.centres)
    claims = [np.zeros(x.shape, bool) for _ in range(3)]
    unsure = np.zeros(x.shape, bool)  # outlines that pass a centre closer than floats can tell
    for geometry, index in shapes:
        claims[index] |= shapely.contains_xy(geometry, x, y)
        unsure |= shapely.dwithin(geometry.boundary, shapely.points(x, y), 1e-6)
    count = np.sum(claims, axis=0)
    expected = np.where(count == 1, np.argmax(claims, axis=0), IGNORE)
    assert (pieced == expected)[~unsure].all()
    assert (pieced == rasterize(labels, whole))[~unsure].all()


def test_a_polygon_claims_pixels_whose_centres_it_holds() -> None:
    target = rasterize(make_labels([shapely.box(14, -26, 36, -4)], [1]), window(0, 0, 8))
    assert np.argwhere(target == 1).tolist() == [[row, column] for row in (0, 1, 2) for column in (1, 2, 3)]


def test_a_point_claims_the_pixel_under_it_and_a_line_those_it_touches() -> None:
    labels = make_labels(
        [shapely.MultiPoint([(35, -5), (70, -79.9)]), shapely.LineString([(2, -42), (38, -42)])], [2, 1]
    )
    target = rasterize(labels, window(0, 0, 8))
    assert np.argwhere(target == 2).tolist() == [[0, 3], [7, 7]]
    assert np.argwhere(target == 1).tolist() == [[4, 0], [4, 1], [4, 2], [4, 3]]
    assert [(w.box.column, w.box.row) for w in training_windows(labels, 8)] == [(0, 0)]


def test_points_on_pixel_edges_lie_in_one_window() -> None:
    labels = make_labels([shapely.Point(80, -80)], [0])
    (only,) = training_windows(labels, 8)
    assert (only.box.column, only.box.row) == (8, 8)
    assert (rasterize(labels, only) == 0).sum() == 1


def test_a_polygon_that_only_shares_an_edge_makes_no_window() -> None:
    labels = make_labels([shapely.box(0, -80, 80, 0)], [0])
    assert [(w.box.column, w.box.row) for w in training_windows(labels, 8)] == [(0, 0)]


def test_where_classes_overlap_nothing_is_known_whatever_the_order() -> None:
    west, east, again = shapely.box(0, -80, 50, 0), shapely.box(30, -80, 80, 0), shapely.box(0, -80, 20, 0)
    forth = make_target(make_labels([west, east, again], [0, 1, 0]), window(0, 0, 8))
    back = make_target(make_labels([again, east, west], [0, 1, 0]), window(0, 0, 8))
    assert (forth.classes == back.classes).all()
    assert forth.conflicts == back.conflicts == 16
    assert forth.classes[0].tolist() == [0, 0, 0, IGNORE, IGNORE, 1, 1, 1]


def test_each_date_has_windows_and_targets_of_its_own() -> None:
    later = date(2024, 9, 1)
    labels = make_labels([shapely.box(0, -80, 80, 0)] * 2, [0, 1], [later, DAY])
    windows = training_windows(labels, 8)
    assert [w.date for w in windows] == [DAY, later]
    assert [w.name for w in windows] == ["20240501_0_0", "20240901_0_0"]
    assert [int(rasterize(labels, w)[0, 0]) for w in windows] == [1, 0]
    assert (rasterize(labels, window(0, 0, 8, date(2020, 1, 1))) == IGNORE).all()


def test_windows_do_not_depend_on_the_order_of_labels() -> None:
    random = np.random.default_rng(0)
    shapes = list(shapely.buffer(shapely.points(random.uniform(-5000, 5000, (60, 2))), 70))
    labels = make_labels(shapes, [0] * 60)
    turned = make_labels(shapes[::-1], [0] * 60)
    assert training_windows(labels, 16) == training_windows(turned, 16)


@pytest.mark.parametrize("radius", [0.0, 80.0])
def test_a_hundred_thousand_labels_are_quick(radius: float) -> None:
    random = np.random.default_rng(0)
    points = shapely.points(random.uniform(0, 300_000, (100_000, 2)))
    shapes = shapely.buffer(points, radius, quad_segs=4) if radius else points
    labels = make_labels(list(shapes), [0] * len(points))
    start = time.process_time()
    windows = training_windows(labels, 64)
    spent = time.process_time() - start
    assert len(windows) > 50_000
    assert spent < 20  # measured: 1.2 s for points, 2.4 s for circles


def test_targets_may_be_made_by_many_threads() -> None:
    labels = make_labels([shapely.Point(320, -320).buffer(250)], [0])
    expected = rasterize(labels, window(0, 0, 64))
    barrier = threading.Barrier(8)

    def work(_: int) -> bool:
        barrier.wait()
        return all((rasterize(labels, window(0, 0, 64)) == expected).all() for _ in range(150))

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error")
        assert all(pool.map(work, range(8)))
