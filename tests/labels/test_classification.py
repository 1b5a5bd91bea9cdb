"""Targets of a classification: the class of the label in a window's middle."""

from __future__ import annotations

from datetime import date

import geopandas as gpd
import numpy as np
import shapely
from rasters import CRS, LEFT, TOP

from olmoearth_core.grid import Grid
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.targets import count_pixels, make_target
from olmoearth_core.labels.windows import IGNORE, TrainingWindow, training_windows
from olmoearth_core.progress import Silent
from olmoearth_core.project import TaskConfig

GRID, DAY = Grid(CRS, 10.0), date(2024, 5, 1)
TASK = TaskConfig.model_validate(
    {"kind": "classification", "classes": [{"name": "fire", "color": "#ff0000"}, {"name": "road", "color": "#000000"}]}
)


def labels_of(*labels: tuple[shapely.Geometry, int]) -> Labels:
    geometries, classes = zip(*labels, strict=True)
    table = {"class_index": list(classes), "date": [DAY] * len(labels), "split": [""] * len(labels)}
    return Labels(gpd.GeoDataFrame(table, geometry=list(geometries), crs=CRS), GRID, task=TASK)


def square(left: float, top: float, edge: float) -> shapely.Geometry:
    return shapely.box(LEFT + left, TOP - top - edge, LEFT + left + edge, TOP - top)


def windows(labels: Labels) -> list[TrainingWindow]:
    return training_windows(labels, 16, "centred")


def test_a_polygon_is_drawn_alone_though_another_lies_in_its_window() -> None:
    labels = labels_of((square(0, 0, 50), 0), (square(60, 0, 30), 1))
    found = {int(make_target(labels, w).classes[8, 8]): make_target(labels, w) for w in windows(labels)}
    assert {k: (t.classes == k).sum() for k, t in found.items()} == {0: 25, 1: 9}
    assert all(set(np.unique(t.classes)) == {k, IGNORE} for k, t in found.items())
    counts, conflicts = count_pixels(labels, windows(labels), Silent())
    assert counts.sum(axis=0).tolist() == [1, 1]  # windows, not pixels
    assert conflicts.sum() == 0


def test_a_point_or_a_polygon_that_holds_no_pixel_centre_is_the_pixel_in_the_middle() -> None:
    for shape in (shapely.Point(LEFT + 3, TOP - 3), square(1, 1, 2)):
        labels = labels_of((shape, 1))
        (window,) = windows(labels)
        target = make_target(labels, window).classes
        assert np.argwhere(target == 1).tolist() == [[8, 8]]


def test_parts_of_one_label_have_a_window_each() -> None:
    both = shapely.MultiPolygon([square(0, 0, 30), square(90, 0, 50)])
    labels = labels_of((both, 0))
    assert [(make_target(labels, w).classes == 0).sum() for w in windows(labels)] == [9, 25]


def test_two_labels_with_one_middle_agree_or_leave_the_window_without_a_class() -> None:
    labels = labels_of((square(0, 0, 50), 0), (square(10, 10, 30), 0))
    (window,) = windows(labels)
    assert (make_target(labels, window).classes == 0).sum() == 25
    labels = labels_of((square(0, 0, 50), 0), (square(10, 10, 30), 1))
    (window,) = windows(labels)
    target = make_target(labels, window)
    assert (target.classes == IGNORE).all()
    assert target.conflicts == 25
