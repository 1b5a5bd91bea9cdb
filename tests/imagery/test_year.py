"""A year of three modalities over one tile, with every kind of gap, against values worked out by hand.

The tile is 6 x 6 pixels of 10 m. Sentinel-2 has B02 (10 m) and B05 (20 m), Sentinel-1 vv and vh (10 m), Landsat B4
(30 m).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pytest
from rasters import LEFT, TOP, Layer, StacScene, open_scenes, write_catalogue

from olmoearth_core.framing import Period
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.cube import NEVER, Cube
from olmoearth_core.imagery.read import AssetReader

TILE = Grid("EPSG:32631").around((LEFT, TOP - 60, LEFT + 60, TOP))
STEPS = Period(kind="period", timesteps=12, days=30).spans(date(2023, 1, 1))
DAYS = ["2023-01-05", "2023-02-05", "2023-03-05", "2023-04-05", "2023-05-05", "2023-06-05",
        "2023-07-05", "2023-08-05", "2023-09-05", "2023-10-05", "2023-11-05", "2023-12-05"]  # fmt: skip
"""A day in each timestep (30 days each from 1 January: the twelfth begins on 27 November)."""
RAMP = np.arange(36, dtype=np.uint16).reshape(6, 6)


def s2(
    month: int,
    name: str,
    blue: np.ndarray | int,
    scl: np.ndarray | int = 4,
    *,
    edge: np.ndarray | int = 700,
    cloud: float = 0.0,
    day: str = "",
    properties: Mapping[str, object] | None = None,
) -> StacScene:
    """B02 `blue` (6, 6), B05 `edge` (3, 3) and SCL (3, 3)."""
    layers = {
        "B02": Layer(np.broadcast_to(np.asarray(blue, np.uint16), (6, 6)).copy()),
        "B05": Layer(np.broadcast_to(np.asarray(edge, np.uint16), (3, 3)).copy(), 20.0),
        "SCL": Layer(np.broadcast_to(np.asarray(scl, np.uint8), (3, 3)).copy(), 20.0),
    }
    about = {"platform": "sentinel-2a", "s2:processing_baseline": "03.00", **(properties or {})}
    return StacScene(name, day or DAYS[month], layers, cloud_cover=cloud, properties=about)


def s1(month: int, name: str, vv: np.ndarray | float, vh: np.ndarray | float = 0.01, unit: str = "") -> StacScene:
    """vv and vh (6, 6): power, or what `unit` says."""
    layers = {
        band: Layer(np.broadcast_to(np.asarray(value, np.float32), (6, 6)).copy())
        for band, value in (("vv", vv), ("vh", vh))
    }
    fields = {"raster:bands": [{"unit": unit}]} if unit else {}
    about = {"platform": "sentinel-1a", "sar:product_type": "GRD"}
    # as the Planetary Computer has it: the product is the one that the RTC was made of, the id ends in _rtc
    return StacScene(f"{name}_rtc", DAYS[month], layers, cloud_cover=None, properties=about, asset_fields=fields)


def landsat(month: int, name: str, red: int, qa: np.ndarray | int = 1 << 6) -> StacScene:
    """B4 and QA_PIXEL (2, 2) at 30 m; bit 6 is clear."""
    layers = {
        "red": Layer(np.full((2, 2), red, np.uint16), 30.0),
        "qa_pixel": Layer(np.broadcast_to(np.asarray(qa, np.uint16), (2, 2)).copy(), 30.0),
    }
    return StacScene(name, DAYS[month], layers, properties={"platform": "landsat-8", "landsat:correction": "L1TP"})


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Cube], list[tuple[str, str]]]:
    """The three cubes, and the assets that could not be read."""
    left_cloud = np.array([[9, 4, 4]] * 3)
    top_cloud = np.array([[9, 9, 9], [4, 4, 4], [4, 4, 4]])
    hole = RAMP + 1
    hole[5, 5] = 0
    half = np.full((6, 6), 900, np.uint16)
    half[:, 3:] = 0
    nodata = np.full((6, 6), 0.1)
    nodata[0, :] = -32768
    nodata[1, :] = np.nan
    nodata[2, :] = 0
    scenes = [
        s2(0, "s2 clear", RAMP + 1000),
        # 1: no scene of anything
        s2(2, "s2 overcast", 5000, 9, cloud=100),
        s2(3, "s2 hazy", 400, top_cloud, cloud=60),
        s2(3, "s2 better", 300, left_cloud, cloud=30),
        s2(4, "s2 hole", hole),
        s2(
            5,
            "s2 new baseline",
            [1500, 1001, 1000, 900, 0, 2000],
            edge=1700,
            properties={"s2:processing_baseline": "05.09"},
        ),
        s2(6, "s2 last day", 600, day="2023-07-29T23:59:59Z"),  # timestep 6: 30 June to 29 July
        s2(7, "s2 first day", 800, day="2023-07-30T00:00:00Z"),
        s2(8, "s2 lost", 1),
        s2(
            9,
            "s2 offset applied",
            1200,
            properties={"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True},
        ),
        s2(10, "s2 orbit edge", half),
        s2(11, "s2 equal b", 22, day="2023-12-06", cloud=10),
        s2(11, "s2 equal a", 11, day="2023-12-05", cloud=10),
        *(s1(month, f"s1 {month}", 0.1) for month in (0, 2, 3)),
        s1(4, "s1 gaps", nodata),
        s1(5, "s1 in dB", -12.5, -20.0, unit="dB"),
        landsat(0, "l8 clear", 9000),
        landsat(3, "l8 cloud, shadow, fill", 7000, np.array([[1 << 3, 1 << 4], [1, 1 << 6]])),
        landsat(4, "l8 dilated, cirrus, snow, water", 7500, np.array([[1 << 1, 1 << 2], [1 << 5, 1 << 7]])),
    ]
    folder = tmp_path_factory.mktemp("year")
    catalogue = write_catalogue(folder, scenes)
    for band in ("vv", "vh"):  # no nodata value is declared for radar: what is no power says so itself
        assert (folder / "s1 gaps_rtc" / f"{band}.tif").exists()
    (folder / "s2 lost" / "B05.tif").unlink()
    bands = {"sentinel2_l2a": ["B02", "B05"], "sentinel1": ["vv", "vh"], "landsat": ["B4"]}
    listed = open_scenes(catalogue, list(bands))
    with AssetReader() as reader:
        cubes = {m: compose(listed, TILE, STEPS, modality=m, bands=names, reader=reader) for m, names in bands.items()}
        return cubes, [(failure.scene, failure.asset) for failure in reader.failures]


def days(text: str) -> int:
    return int(np.datetime64(text, "D").astype(int))


Year = tuple[dict[str, Cube], list[tuple[str, str]]]


def test_every_cube_has_the_middle_of_each_timestep_as_its_date(year: Year) -> None:
    expected = ["2023-01-16", "2023-02-15", "2023-03-17", "2023-04-16", "2023-05-16", "2023-06-15",
                "2023-07-15", "2023-08-14", "2023-09-13", "2023-10-13", "2023-11-12", "2023-12-12"]  # fmt: skip
    for cube in year[0].values():
        assert [str(day) for day in cube.dates] == expected


def test_sentinel2_pixel_by_pixel(year: Year) -> None:
    cube, lost = year[0]["sentinel2_l2a"], year[1]
    blue = np.zeros((12, 6, 6), np.uint16)
    red_edge = np.zeros((12, 6, 6), np.uint16)
    seen = np.zeros((12, 6, 6), np.int32)

    def show(month: int, where: tuple[slice, slice], value: np.ndarray | int, edge: int, day: str = "") -> None:
        blue[month][where], red_edge[month][where], seen[month][where] = value, edge, days(day or DAYS[month])

    every = np.s_[:, :]
    show(0, every, RAMP + 1000, 700)
    show(3, np.s_[:, 2:], 300, 700)  # the less cloudy one, right of its cloud
    show(3, np.s_[2:, :2], 400, 700)  # the other below its own; what both hide stays empty
    show(4, every, RAMP + 1, 700)
    blue[4, 5, 5] = red_edge[4, 5, 5] = seen[4, 5, 5] = 0  # one band without data is no observation
    show(5, every, np.array([500, 1, 1, 1, 0, 1000]), 700)  # -1000; dark ground becomes 1, nodata stays 0
    red_edge[5, :, 4] = seen[5, :, 4] = 0
    show(6, every, 600, 700, "2023-07-29")
    show(7, every, 800, 700, "2023-07-30")
    show(9, every, 1200, 700)
    show(10, np.s_[:, :3], 900, 700)
    show(11, every, 11, 700)  # equally cloudy: the earlier one
    assert np.array_equal(cube.data[:, 0], blue)
    assert np.array_equal(cube.data[:, 1], red_edge)
    assert np.array_equal(cube.observed_on, seen)
    assert np.array_equal(cube.valid, seen != NEVER)
    assert np.array_equal(cube.observations, (seen != NEVER).astype(np.uint8))
    assert lost == [("s2 lost", "B05")]


def test_sentinel1_pixel_by_pixel(year: Year) -> None:
    cube = year[0]["sentinel1"]
    assert cube.data.dtype == np.float32
    expected = np.zeros((12, 2, 6, 6))
    for month in (0, 2, 3):
        expected[month] = np.array([-10, -20])[:, None, None]  # 10 log10 of 0.1 and of 0.01
    expected[4, :, 3:] = np.array([-10, -20])[:, None, None]  # rows of -32768, NaN and 0 are no power
    expected[5] = np.array([-12.5, -20])[:, None, None]
    valid = np.zeros((12, 6, 6), bool)
    valid[[0, 2, 3, 5]] = True
    valid[4, 3:] = True
    assert np.array_equal(cube.valid, valid)
    assert np.allclose(cube.data, expected, atol=1e-4)
    assert (cube.data[~np.broadcast_to(valid[:, None], cube.data.shape)] == 0).all()


def test_landsat_pixel_by_pixel(year: Year) -> None:
    cube = year[0]["landsat"]
    expected = np.zeros((12, 6, 6), np.uint16)
    expected[0] = 9000
    expected[3, 3:, 3:] = 7000  # cloud, shadow and fill hide three quarters
    expected[4, 3:] = 7500  # dilated cloud and cirrus hide the upper half; snow and water are ground
    assert np.array_equal(cube.data[:, 0], expected)
    assert np.array_equal(cube.valid, expected > 0)
