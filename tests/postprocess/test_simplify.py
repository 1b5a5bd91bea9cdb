"""Smoother outlines keep what polygons are to each other."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import CRS
from scipy.ndimage import gaussian_filter
from test_polygons import NAMES, write_map

from olmoearth_core.postprocess.polygons import outline
from olmoearth_core.postprocess.simplify import simplify, with_shared_corners


def smooth_classes(seed: int, size: int = 60) -> np.ndarray:
    """Three classes in rounded patches, with some nodata."""
    random = np.random.default_rng(seed)
    fields = gaussian_filter(random.normal(size=(4, size, size)), (0, 3, 3))
    classes = fields.argmax(axis=0).astype(np.uint8)
    classes[classes == 3] = 255
    return classes


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), tolerance=st.sampled_from([1.0, 10.0, 25.0, 80.0]), noisy=st.booleans())
def test_no_gap_no_overlap_and_no_polygon_lost(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tolerance: float, noisy: bool
) -> None:
    folder = tmp_path_factory.mktemp("map")
    classes = np.random.default_rng(seed).integers(0, 3, (25, 25)).astype(np.uint8) if noisy else smooth_classes(seed)
    write_map(folder / "map.tif", classes)
    exact = outline(folder / "map.tif", NAMES, min_area=0, scratch=folder)
    simple = simplify(exact, 10.0, tolerance)
    assert len(simple) == len(exact)
    assert simple.geometry.is_valid.all()
    assert not simple.geometry.is_empty.any()
    holes = [shapely.get_num_interior_rings(frame.geometry.to_numpy()).sum() for frame in (exact, simple)]
    assert holes[0] == holes[1]
    assert shapely.coverage_is_valid(simple.geometry.to_numpy())
    together = shapely.union_all(simple.geometry.to_numpy()).area
    assert simple.geometry.area.sum() == pytest.approx(together, rel=1e-9)
    assert list(simple["class"]) == list(exact["class"])
    assert (simple["area_m2"] == exact["area_m2"]).all(), "the area is what was counted from pixels"


def test_vertices_are_added_where_neighbours_meet_and_nothing_moves() -> None:
    below = shapely.box(0, 0, 60, 20)
    left, right = shapely.box(0, 20, 30, 50), shapely.box(30, 20, 60, 50)
    polygons = np.array([below, left, right])
    noded = with_shared_corners(polygons, 10.0)
    assert shapely.equals(noded, polygons).all()
    assert (30.0, 20.0) in noded[0].exterior.coords
    assert len(noded[0].exterior.coords) == 6
    assert not shapely.coverage_is_valid(polygons)
    assert shapely.coverage_is_valid(noded)


def test_stairs_go_and_the_shape_stays(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:80, :80]
    disc = ((rows - 40) ** 2 + (columns - 40) ** 2 < 30**2).astype(np.uint8)
    write_map(tmp_path / "map.tif", disc)
    exact = outline(tmp_path / "map.tif", NAMES, min_area=0, scratch=tmp_path)
    simple = simplify(exact, 10.0, 15.0)
    inner, stairs = (
        simple[simple["class"] == "forest"].geometry.iloc[0],
        exact[exact["class"] == "forest"].geometry.iloc[0],
    )
    assert shapely.get_num_coordinates(inner) < 0.3 * shapely.get_num_coordinates(stairs)
    assert inner.symmetric_difference(stairs).area < 0.03 * stairs.area
    assert inner.hausdorff_distance(stairs) < 15


def test_no_tolerance_and_no_polygons_change_nothing() -> None:
    empty = gpd.GeoDataFrame({"class": []}, geometry=gpd.GeoSeries([], crs=CRS))
    assert simplify(empty, 10.0, 5.0) is empty
    one = gpd.GeoDataFrame({"class": ["a"]}, geometry=[shapely.box(0, 0, 10, 10)], crs=CRS)
    assert simplify(one, 10.0, 0.0) is one
