"""Patches where zones meet: one of a kind over the meridian, and the ground covered once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core.grid import Grid
from olmoearth_core.inference.zones import Strip
from olmoearth_core.longitudes import around, bbox, hull
from olmoearth_core.postprocess.patches import _noded
from olmoearth_core.postprocess.polygons import outline
from olmoearth_core.postprocess.preview import write_value_preview
from olmoearth_core.postprocess.simplify import simplify
from olmoearth_core.postprocess.tile_index import write_index
from olmoearth_core.postprocess.zone_edges import in_degrees, joined

NAMES = ["water", "forest", "bare"]
WEST, EAST = Strip("EPSG:32631", None, 3), Strip("EPSG:32632", -3, None)
ACROSS = [Strip("EPSG:32760", None, 3), Strip("EPSG:32701", -3, None)]
Classes = Callable[[np.ndarray, np.ndarray], np.ndarray]


def write_zone(folder: Path, strip: Strip, middle: tuple[float, float], classes: Classes, size: int = 60) -> Path:
    """A map of one zone around a place in degrees: `classes` of longitude (from the meridian) and latitude."""
    grid = Grid(strip.crs)
    x, y = shapely.get_coordinates(grid.project(shapely.Point(*middle)))[0]
    box = grid.around((x - size * 5, y - size * 5, x + size * 5, y + size * 5))
    east, north = (k.ravel() for k in np.meshgrid(*box.centres))
    place = gpd.GeoSeries(gpd.points_from_xy(east, north), crs=strip.crs).to_crs("EPSG:4326")
    found = classes(strip.longitude(east, north), place.y.to_numpy()).reshape(box.shape).astype(np.uint8)
    found[~strip.holds(box)] = 255
    path = folder / f"map_{strip.crs[-5:]}.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, "crs": strip.crs, "transform": box.transform}  # fmt: skip  # noqa: E501
    with rasterio.open(path, "w", height=box.height, width=box.width, **profile) as target:
        target.write(found, 1)
    return path


def patches(folder: Path, strips: list[Strip], paths: list[Path], smooth: float = 0.0) -> gpd.GeoDataFrame:
    zones = []
    for strip, path in zip(strips, paths, strict=True):
        found = outline(path, NAMES, min_area=0, scratch=folder, strip=strip, beyond=4)
        zones.append(in_degrees(simplify(found, 10, smooth) if smooth else _noded(found, 10), strip))
    return joined(zones, strips)


def test_a_field_over_the_meridian_is_one_patch(tmp_path: Path) -> None:
    def bands(_: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        return np.floor((latitude - 45) / 0.001).clip(0, 2)

    paths = [write_zone(tmp_path, strip, (6, 45.0015), bands) for strip in (WEST, EAST)]
    found = patches(tmp_path, [WEST, EAST], paths)
    assert sorted(found["class"]) == sorted(NAMES)
    for field in found.itertuples():
        assert field.geometry.bounds[0] < 6 < field.geometry.bounds[2]
    metres = found.to_crs("EPSG:6933").area.to_numpy()
    assert found["area_m2"].to_numpy() == pytest.approx(metres, rel=1e-3)
    # simplified, it is cut and joined alike
    assert sorted(patches(tmp_path, [WEST, EAST], paths, smooth=15)["class"]) == sorted(NAMES)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), coarse=st.sampled_from([0.0002, 0.0006]), smooth=st.sampled_from([0.0, 15.0]))
def test_the_ground_is_covered_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, coarse: float, smooth: float
) -> None:
    table = np.random.default_rng(seed).integers(0, 3, (400, 400))

    def random(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        from_meridian = longitude - 3 * np.sign(longitude)
        return table[(from_meridian / coarse).astype(int) % 400, ((latitude - 60) / coarse).astype(int) % 400]

    folder = tmp_path_factory.mktemp("edge")
    paths = [write_zone(folder, strip, (6, 60.002), random) for strip in (WEST, EAST)]
    found = patches(folder, [WEST, EAST], paths, smooth).geometry.to_numpy()
    assert shapely.is_valid(found).all()
    here = shapely.box(5.9985, 60.0005, 6.0015, 60.0035)
    pieces = shapely.intersection(found, here)
    assert shapely.area(pieces).sum() == pytest.approx(here.area, rel=1e-9)
    assert shapely.area(shapely.union_all(pieces)) == pytest.approx(here.area, rel=1e-9)


def test_at_the_antimeridian_patches_are_cut_and_the_index_goes_on(tmp_path: Path) -> None:
    def one(longitude: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.ones_like(longitude)

    paths = [write_zone(tmp_path, strip, (180, -17), one) for strip in ACROSS]
    west, east = patches(tmp_path, ACROSS, paths).geometry
    assert west.bounds[2] == 180
    assert east.bounds[0] == -180
    assert max(west.bounds[2] - west.bounds[0], east.bounds[2] - east.bounds[0]) < 0.01
    write_index(tmp_path / "map.gti.gpkg", paths, date(2024, 1, 1), tmp_path)
    with rasterio.open(tmp_path / "map.gti.gpkg") as index:
        assert index.crs.to_epsg() == 3832
        assert index.width < 100
        known = index.read(1) == 1
    # at the meridian, where neither grid has a centre, a pixel of the index may be nobody's
    assert known[10:-10, 10:-10].mean() > 0.95
    about = {"title": "t", "subtitle": "s", "footer": "f", "unit": "", "limits": (0.0, 2.0)}
    write_value_preview(tmp_path / "preview.png", paths, **about)  # type: ignore[arg-type]
    assert (tmp_path / "preview.png").stat().st_size > 5000
    area = shapely.union(shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -178, -16))
    assert bbox(area) == [179, -17, -178, -16]
    assert hull(area).equals(area)
    assert around([[179, -17, -178, -16], [170, -18, 171, -17]]) == [170, -18, -178, -16]
    assert around([[1, 2, 3, 4], [-5, 0, 2, 3]]) == [-5, 0, 3, 4]
