from __future__ import annotations

from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from rasters import CRS
from smallmap import full_disk

from olmoearth_core.errors import StoreError
from olmoearth_core.grid import Grid
from olmoearth_core.postprocess.polygons import LAYER, Layer, outline, write_geopackage, write_geoparquet

NAMES = ["water", "forest", "bare"]


def write_map(path: Path, classes: np.ndarray) -> rasterio.Affine:
    box = Grid(CRS, 10.0).box(50003, -469002, classes.shape[1], classes.shape[0])
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, "tiled": True, "blockxsize": 16}
    with rasterio.open(
        path, "w", height=box.height, width=box.width, crs=CRS, transform=box.transform, blockysize=16, **profile
    ) as target:
        target.write(classes, 1)
    return box.transform


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), coarse=st.sampled_from([1, 3, 7]), nodata=st.sampled_from([0.0, 0.2]))
def test_polygons_cover_the_map_exactly(
    tmp_path_factory: pytest.TempPathFactory, seed: int, coarse: int, nodata: float
) -> None:
    random = np.random.default_rng(seed)
    classes = np.kron(random.integers(0, 3, (9, 9)), np.ones((coarse, coarse))).astype(np.uint8)
    classes[random.random(classes.shape) < nodata] = 255
    folder = tmp_path_factory.mktemp("map")
    transform = write_map(folder / "map.tif", classes)
    polygons = outline(folder / "map.tif", NAMES, min_area=0, scratch=folder)
    back = (
        rasterize(
            zip(polygons.geometry, polygons["value"], strict=True),
            classes.shape,
            fill=255,
            transform=transform,
            dtype="uint8",
        )
        if len(polygons)
        else np.full(classes.shape, 255)
    )
    assert np.array_equal(back, classes)
    assert polygons.geometry.is_valid.all()
    assert polygons.geometry.area.sum() == 100 * (classes != 255).sum()
    assert polygons["area_m2"].to_numpy() == pytest.approx(polygons.to_crs("EPSG:6933").area.to_numpy(), rel=1e-4)
    assert [NAMES[value] for value in polygons["value"]] == list(polygons["class"])
    assert not list(folder.glob("*.bin"))


def test_small_patches_join_their_largest_neighbour_and_nodata_takes_no_part(tmp_path: Path) -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[:, 20:] = 1
    classes[10:12, 10:12] = 2  # 400 m2 in water
    classes[10:12, 30:32] = 255  # a small hole stays a hole
    classes[25:35, 5:15] = 2  # 10,000 m2 stays
    classes[:, 38] = 255
    classes[3, 39] = 2  # small, but its large neighbour is of class 1
    write_map(tmp_path / "map.tif", classes)
    polygons = outline(tmp_path / "map.tif", NAMES, min_area=450, scratch=tmp_path)
    assert sorted(polygons["class"]) == ["bare", "forest", "forest", "water"]
    assert polygons["area_m2"].min() >= 450
    assert polygons.geometry.area.sum() == 100 * (classes != 255).sum()
    assert polygons["area_m2"].to_numpy() == pytest.approx(polygons.to_crs("EPSG:6933").area.to_numpy(), rel=1e-4)
    unsieved = outline(tmp_path / "map.tif", NAMES, min_area=400, scratch=tmp_path)
    assert 400 in set(unsieved.geometry.area), "a patch of exactly the minimum stays"


def test_neighbours_share_their_edges(tmp_path: Path) -> None:
    classes = np.random.default_rng(3).integers(0, 2, (30, 30)).astype(np.uint8)
    write_map(tmp_path / "map.tif", classes)
    polygons = outline(tmp_path / "map.tif", NAMES, min_area=300, scratch=tmp_path)
    union = shapely.union_all(polygons.geometry.to_numpy())
    assert union.geom_type == "Polygon"
    assert len(union.interiors) == 0
    assert union.area == polygons.geometry.area.sum() == 30 * 30 * 100


@pytest.mark.parametrize("empty", [False, True])
def test_both_files_hold_the_same_and_their_bytes_repeat(tmp_path: Path, empty: bool) -> None:
    classes = np.random.default_rng(1).integers(0, 3, (20, 20)).astype(np.uint8)
    write_map(tmp_path / "map.tif", np.full_like(classes, 255) if empty else classes)
    polygons = outline(tmp_path / "map.tif", NAMES, min_area=0, scratch=tmp_path)
    assert (len(polygons) == 0) == empty
    for name in ("a", "b"):
        (tmp_path / f"scratch_{name}").mkdir()
        write_geoparquet(tmp_path / f"{name}.parquet", polygons)
        write_geopackage(
            tmp_path / f"{name}.gpkg", [Layer(LAYER, polygons)], date(2024, 5, 1), tmp_path / f"scratch_{name}"
        )
    for suffix in ("parquet", "gpkg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    first, second = gpd.read_parquet(tmp_path / "a.parquet"), gpd.read_file(tmp_path / "a.gpkg")
    assert first.crs == second.crs == CRS
    assert list(first.columns) == list(second.columns) == ["class", "value", "area_m2", "geometry"]
    assert first.geometry.geom_equals(second.geometry).all()
    assert list(first["class"]) == list(second["class"])


def test_the_geopackage_leaves_no_setting_behind(tmp_path: Path) -> None:
    import pyogrio

    write_map(tmp_path / "map.tif", np.zeros((8, 8), np.uint8))
    polygons = outline(tmp_path / "map.tif", NAMES, min_area=0, scratch=tmp_path)
    write_geopackage(tmp_path / "a.gpkg", [Layer(LAYER, polygons)], date(2024, 5, 1), tmp_path)
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
    (tmp_path / "scratch").mkdir()
    write_geopackage(tmp_path / "a.gpkg", [Layer(LAYER, polygons.iloc[:0])], date(2024, 5, 1), tmp_path / "scratch")
    assert len(gpd.read_file(tmp_path / "a.gpkg")) == 0


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.9999])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, share: float) -> None:
    classes = np.random.default_rng(1).integers(0, 3, (60, 60)).astype(np.uint8)
    write_map(tmp_path / "map.tif", classes)
    polygons = outline(tmp_path / "map.tif", NAMES, min_area=0, scratch=tmp_path)
    (tmp_path / "scratch").mkdir()
    write_geopackage(tmp_path / "whole.gpkg", [Layer(LAYER, polygons)], date(2024, 5, 1), tmp_path / "scratch")
    limit = int(share * (tmp_path / "whole.gpkg").stat().st_size)
    with full_disk(limit), pytest.raises(StoreError, match=r"a\.gpkg.*(full|room)"):
        write_geopackage(tmp_path / "a.gpkg", [Layer(LAYER, polygons)], date(2024, 5, 1), tmp_path / "scratch")
    with full_disk(1_000), pytest.raises(StoreError, match=r"a\.parquet.*full"):
        write_geoparquet(tmp_path / "a.parquet", polygons)
    with full_disk(1_000), pytest.raises(StoreError, match="full"):
        outline(tmp_path / "map.tif", NAMES, min_area=0, scratch=tmp_path)
    assert not (tmp_path / "a.gpkg").exists()
    assert not (tmp_path / "a.parquet").exists()
    write_geopackage(tmp_path / "a.gpkg", [Layer(LAYER, polygons)], date(2024, 5, 1), tmp_path / "scratch")
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "whole.gpkg").read_bytes()
