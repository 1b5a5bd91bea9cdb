"""Which windows are kept, and windows with labels in their middles."""

from __future__ import annotations

import time
from datetime import date

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core.grid import Grid
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.targets import rasterize
from olmoearth_core.labels.windows import TrainingWindow, training_windows
from olmoearth_core.project import SamplingConfig

GRID = Grid("EPSG:32631", 10.0)
DAY = date(2024, 5, 1)
SIZE = 16
EDGE = SIZE * GRID.resolution


def labels_at(xy: np.ndarray, classes: np.ndarray) -> Labels:
    table = {"class_index": classes, "date": DAY, "source": "a", "feature": np.arange(len(xy)), "split": ""}
    return Labels(gpd.GeoDataFrame(table, geometry=shapely.points(xy), crs=GRID.crs), GRID)


def cells(*columns: int, row: int = 0) -> np.ndarray:
    """Middles of lattice boxes."""
    return np.array([[(column + 0.5) * EDGE, -(row + 0.5) * EDGE] for column in columns])


def kept(labels: Labels, **config: object) -> list[TrainingWindow]:
    return training_windows(labels, SIZE, sampling=SamplingConfig.model_validate(config))


def columns(windows: list[TrainingWindow]) -> list[int]:
    return sorted(window.box.column // SIZE for window in windows)


def test_without_limits_all_are_kept() -> None:
    labels = labels_at(cells(*range(20)), np.arange(20) % 2)
    assert kept(labels) == training_windows(labels, SIZE)


def test_so_many_of_each_class_and_so_many_in_all() -> None:
    labels = labels_at(cells(*range(60)), np.repeat([0, 1, 2], [40, 15, 5]))
    by_class = np.bincount([[0, 1, 2][(c >= 40) + (c >= 55)] for c in columns(kept(labels, max_per_class=7))])
    assert by_class.tolist() == [7, 7, 5]
    few = columns(kept(labels, max_windows=12))
    assert np.bincount([(c >= 40) + (c >= 55) for c in few]).tolist() == [4, 4, 4]
    assert len(kept(labels, max_per_class=7, max_windows=3)) == 3
    assert len(kept(labels, max_windows=1000)) == 60


def test_a_window_with_several_classes_counts_for_the_rarest() -> None:
    xy = np.concatenate([cells(*range(30)), cells(0, 1, 2) + 10])  # the second class shares three windows
    labels = labels_at(xy, np.repeat([0, 1], [30, 3]))
    assert {0, 1, 2} < set(columns(kept(labels, max_per_class=3)))
    assert len(kept(labels, max_per_class=3)) == 6


def test_hard_ones_first() -> None:
    """Class 0 along a line, class 1 at its end: the neighbours of class 1 are kept, whatever the seed."""
    labels = labels_at(cells(*range(101)), np.repeat([0, 1], [100, 1]))
    for seed in range(5):
        found = columns(kept(labels, max_per_class=3, near=2 * EDGE, seed=seed))
        assert found == [97, 98, 99, 100]
    far = [columns(kept(labels, max_per_class=3, seed=seed)) for seed in range(5)]
    assert not any(found[:3] == [97, 98, 99] for found in far)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(0, 60))
def test_what_is_kept_is_stable_as_labels_grow(seed: int, limit: int, more: int) -> None:
    """New labels push out as many windows as they bring in, no others."""
    random = np.random.default_rng(seed)
    places = random.permutation(4000)[: 200 + more]
    before, after = (labels_at(cells(*places[:n]), np.zeros(n, int)) for n in (200, 200 + more))
    old, new = (set(columns(kept(labels, max_per_class=limit, seed=seed))) for labels in (before, after))
    assert len(old) == len(new) == limit
    assert new - old <= set(places[200:].tolist())


def test_the_order_of_labels_makes_no_difference_and_the_seed_does() -> None:
    xy, classes = cells(*range(200)), np.arange(200) % 3
    turned = np.random.default_rng(1).permutation(200)
    forth, back = labels_at(xy, classes), labels_at(xy[turned], classes[turned])
    assert kept(forth, max_windows=20) == kept(back, max_windows=20)
    assert kept(forth, max_windows=20) != kept(forth, max_windows=20, seed=1)


def test_lots_fall_alike_on_all_places() -> None:
    """No row, column or corner of the land is preferred."""
    xy = np.concatenate([cells(*range(100), row=row) for row in range(100)])
    windows = kept(labels_at(xy, np.zeros(len(xy), int)), max_windows=2500)
    counts = np.histogram2d([w.box.row for w in windows], [w.box.column for w in windows], bins=4)[0]
    assert counts.sum() == 2500
    assert np.abs(counts - 2500 / 16).max() < 50  # four standard deviations


@pytest.mark.parametrize("size", [16, 15])
def test_centred_windows_have_the_label_in_their_middle(size: int) -> None:
    random = np.random.default_rng(0)
    xy = random.uniform(-9000, 9000, (50, 2))
    labels = labels_at(xy, np.zeros(50, int))
    windows = training_windows(labels, size, "centred")
    assert len({window.name for window in windows}) == len(windows) == 50
    assert all(rasterize(labels, window)[size // 2, size // 2] == 0 for window in windows)
    assert {window.centre.polygon.contains(shapely.points(xy)).sum() for window in windows} == {1}


def test_a_patch_and_its_parts() -> None:
    """A polygon is seen from its centroid, each part of one with several from its own; doubles make one window."""
    patch = shapely.box(1000, -1640, 1640, -1000)
    apart = shapely.MultiPolygon([shapely.box(5000, -5100, 5100, -5000), shapely.box(7000, -7100, 7100, -7000)])
    frame = gpd.GeoDataFrame(
        {"class_index": [0, 1, 0], "date": DAY, "source": "a", "feature": [0, 1, 2], "split": ""},
        geometry=[patch, apart, patch], crs=GRID.crs,
    )  # fmt: skip
    windows = training_windows(Labels(frame, GRID), 64, "centred")
    assert [(w.box.column, w.box.row) for w in windows] == [(100, 100), (473, 473), (673, 673)]
    assert (rasterize(Labels(frame, GRID), windows[0]) == 0).all()


def test_a_million_labels_are_placed_and_thinned_in_seconds() -> None:
    random = np.random.default_rng(0)
    labels = labels_at(random.uniform(0, 300_000, (1_000_000, 2)), random.integers(0, 5, 1_000_000))
    start = time.process_time()
    windows = training_windows(labels, 32, sampling=SamplingConfig(max_per_class=500, near=300.0))
    spent = time.process_time() - start
    assert len(windows) == 2500
    assert spent < 60  # measured: 8 s
