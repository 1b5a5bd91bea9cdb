"""Places on a globe: the antimeridian, the poles, and assets whose header lies about where they are."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasters import LEFT, TOP, Layer, StacScene, open_scenes, write_catalogue
from shapely.geometry import box, mapping

from olmoearth_core.errors import CatalogueError, ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.footprint import (
    boxes_in_degrees,
    check_place,
    footprint_of,
    lonlat_bounds,
    near,
)
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.imagery.search import search_area
from olmoearth_core.longitudes import within_180

FIJI = Grid("EPSG:32701").around((177_000, 8_000_000, 187_000, 8_010_000))
"""Zone 1 south begins at 180, which at this latitude is x = 182 km."""


def test_a_box_on_the_antimeridian_is_two_boxes_in_degrees() -> None:
    west, _, east, _ = lonlat_bounds(FIJI)
    assert 179.9 < west < 180 < east < 180.1
    (parts,) = boxes_in_degrees(np.array([FIJI.bounds]), FIJI.grid.crs)
    left, right = sorted(part.bounds for part in parts.geoms)
    assert (left[0], right[2]) == (-180, 180)
    assert left[2] - left[0] + right[2] - right[0] == pytest.approx(east - west)


@pytest.mark.parametrize("bbox", [(179.5, -20, -179.5, -17), (-180, -19, -179.9, -17), (179.8, -19, 180, -17)])
def test_scenes_on_both_sides_of_the_antimeridian_are_near(bbox: Any) -> None:
    assert near(bbox, FIJI)
    assert not near((178.0, -20, 178.5, -17), FIJI)
    assert not near((0.0, -20, 1.0, -17), FIJI)


def test_a_search_area_on_the_antimeridian_stays_small() -> None:
    parts = [box(179.93, -18.02, 180, -18), box(-180, -18.02, -179.96, -18)]
    area = search_area(parts)
    assert area.covers(shapely.union_all(parts))
    assert area.bounds[0] >= -180
    assert area.bounds[2] <= 180
    assert area.area < 0.02  # a few cells of 0.05 degrees, not a girdle around the Earth


def test_boxes_that_hold_a_pole_have_all_longitudes() -> None:
    pole = PixelBox(Grid("EPSG:3995", 1000.0), -50, -50, 100, 100)
    west, south, east, north = lonlat_bounds(pole)
    assert (west, east, north) == (-180, 180, 90)
    assert 89 < south < 90
    assert all(near((edge, 89.7, edge + 5, 89.9), pole) for edge in range(-180, 175, 30))
    assert not near((0, 80, 5, 81), pole)
    west, south, east, north = lonlat_bounds(PixelBox(Grid("EPSG:3031", 1000.0), -50, -50, 100, 100))
    assert (west, south, east) == (-180, -90, 180)
    assert -90 < north < -89


@given(west=st.floats(-180, 180), width=st.floats(0.01, 20), south=st.floats(-85, 80))
def test_what_is_within_180_is_the_same_ground(west: float, width: float, south: float) -> None:
    area = within_180(box(west, south, west + width, south + 2))
    assert area.area == pytest.approx(2 * width, abs=1e-6)
    assert area.bounds[0] >= -180
    assert area.bounds[2] <= 180
    assert within_180(area) == area


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (mapping(box(179, 10, 181, 11)), 2.0),
        (mapping(box(-181, 10, -179, 11)), 2.0),
        # a ring that jumps from 179 to -179
        ({"type": "Polygon", "coordinates": [[[179, 10], [-179, 10], [-179, 11], [179, 11], [179, 10]]]}, 2.0),
        # a bow tie
        ({"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}, 2.0),
    ],
)
def test_footprints_are_mended(geometry: dict[str, Any], expected: float) -> None:
    footprint = footprint_of({"id": "a", "geometry": geometry})
    assert footprint.is_valid
    assert footprint.area == pytest.approx(expected)
    assert footprint.bounds[0] >= -180
    assert footprint.bounds[2] <= 180


@pytest.mark.parametrize("geometry", [{"type": "Circle"}, {"type": "Polygon", "coordinates": [[[1]]]}, [], {"a": 1}])
def test_a_footprint_that_is_none_is_named(geometry: Any) -> None:
    with pytest.raises(CatalogueError, match="item a: its geometry is none"):
        footprint_of({"id": "a", "geometry": geometry})


# ------------------------------------------------------------------ headers that lie


def grid(left: float, top: float, crs: str = "EPSG:32631") -> SourceGrid:
    return SourceGrid(crs, (10.0, 0.0, left, 0.0, -10.0, top), 96, 96)


def test_a_header_that_lies_about_its_place_is_found_out() -> None:
    here = lonlat_bounds(Grid("EPSG:32631").around((LEFT, TOP - 960, LEFT + 960, TOP)))
    check_place(here, grid(LEFT, TOP))
    with pytest.raises(ImageryError, match=r"header places it at 3\.\d+ to 3\.\d+ E.*the catalogue at 3\.\d+ to 3"):
        check_place(here, grid(LEFT + 50_000, TOP))
    with pytest.raises(ImageryError, match="header places it"):
        check_place(here, grid(LEFT, TOP, "EPSG:32632"))  # the neighbouring zone: 6 degrees away
    with pytest.raises(ImageryError, match="nowhere on Earth"):
        check_place(here, grid(1e9, 1e9))


def test_an_asset_that_lies_costs_its_observation_and_is_listed(tmp_path: Path) -> None:
    layers = {"B02": Layer(np.full((96, 96), 7, np.uint16))}
    write_catalogue(tmp_path, [StacScene("liar", "2024-05-05", layers), StacScene("honest", "2024-05-06", layers)])
    with rasterio.open(tmp_path / "liar" / "B02.tif", "r+", ignore_cog_layout_break="YES") as raster:
        raster.transform = rasterio.Affine(10, 0, LEFT + 300_000, 0, -10, TOP)
    area = Grid("EPSG:32631").around((LEFT, TOP - 960, LEFT + 960, TOP))
    may = Timestep(date(2024, 5, 1), date(2024, 6, 1))
    arguments: dict[str, Any] = {"modality": "sentinel2_l2a", "bands": ["B02"], "composite": "median"}
    with AssetReader() as reader:
        cube = compose(open_scenes(tmp_path / "catalog.json"), area, [may], reader=reader, **arguments)
        (failure,) = reader.failures
    assert (failure.scene, failure.asset) == ("liar", "B02")
    assert "one of them is wrong" in failure.reason
    assert (cube.observations == 1).all()
