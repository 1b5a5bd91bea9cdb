"""The composing function: values by hand, and the same pixel whichever box is asked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasters import LEFT, TOP, Layer, StacScene, open_scenes, sentinel2_layers, write_catalogue

from olmoearth_core.errors import ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.compose import PIECE, Composite, compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList, available_bands
from olmoearth_core.stage import Meter

UTM31 = "EPSG:32631"
MAY = Timestep(date(2024, 5, 1), date(2024, 6, 1))
JUNE = Timestep(date(2024, 6, 1), date(2024, 7, 1))
BOX = Grid(UTM31).around((LEFT, TOP - 40, LEFT + 40, TOP))  # 4 x 4 pixels at the corner of the rasters


def flat(value: int, *, size: int = 4) -> Layer:
    return Layer(np.full((size, size), value, np.uint16))


def classes(rows: list[list[int]]) -> Layer:
    return Layer(np.array(rows, np.uint8), 20.0)


def compose_b02(
    folder: Path, scenes: list[StacScene], steps: list[Timestep], composite: Composite = "least_cloudy"
) -> Cube:
    listed = open_scenes(write_catalogue(folder, scenes))
    return compose(listed, BOX, steps, modality="sentinel2_l2a", bands=["B02"], composite=composite)


def test_the_least_cloudy_scene_wins_and_others_fill_its_clouds(tmp_path: Path) -> None:
    cube = compose_b02(
        tmp_path,
        [
            StacScene("hazy", "2024-05-01", {"B02": flat(500), "SCL": classes([[4, 4], [4, 4]])}, cloud_cover=60),
            StacScene("most clear", "2024-05-20", {"B02": flat(300), "SCL": classes([[4, 9], [3, 11]])}, cloud_cover=5),
            StacScene("late", "2024-06-02", {"B02": flat(900), "SCL": classes([[9, 8], [10, 1]])}, cloud_cover=0),
        ],
        [MAY, JUNE],
    )
    may = [[300, 300, 500, 500], [300, 300, 500, 500], [500, 500, 300, 300], [500, 500, 300, 300]]
    assert cube.data[0, 0].tolist() == may  # cloud (9) and shadow (3) filled, snow (11) kept
    assert cube.valid[0].all()
    assert not cube.valid[1].any()  # all cloud: missing, not zero that looks like data
    assert not cube.data[1].any()
    assert cube.dates.tolist() == [date(2024, 5, 16), date(2024, 6, 16)]
    assert cube.data.dtype == np.uint16


def test_equal_cloud_cover_is_decided_by_date_then_name_and_unknown_comes_last(tmp_path: Path) -> None:
    scenes = [
        StacScene("b", "2024-05-03", {"B02": flat(3)}, cloud_cover=10),
        StacScene("d", "2024-05-02", {"B02": flat(2)}, cloud_cover=10),
        StacScene("c", "2024-05-02", {"B02": flat(1)}, cloud_cover=10),
        StacScene("a", "2024-05-01", {"B02": flat(9)}, cloud_cover=None),
    ]
    for expected in (1, 2, 3, 9):
        cube = compose_b02(tmp_path / str(expected), scenes, [MAY])
        assert (cube.data == expected).all()
        scenes = [scene for scene in scenes if scene.layers["B02"].pixels[0, 0] != expected]


def test_median_of_valid_observations_halves_rounded_up(tmp_path: Path) -> None:
    def scene(name: str, value: int, scl: list[list[int]]) -> StacScene:
        return StacScene(name, "2024-05-05", {"B02": flat(value), "SCL": classes(scl)})

    cube = compose_b02(
        tmp_path,
        [
            scene("a", 100, [[4, 4], [4, 9]]),
            scene("b", 201, [[4, 4], [9, 9]]),
            scene("c", 65_000, [[4, 9], [9, 9]]),
        ],
        [MAY],
        "median",
    )
    assert cube.data[0, 0, ::2, ::2].tolist() == [[201, 151], [100, 0]]
    assert cube.observations[0, ::2, ::2].tolist() == [[3, 2], [1, 0]]
    assert cube.valid[0, ::2, ::2].tolist() == [[True, True], [True, False]]


def test_one_band_without_data_makes_the_pixel_invalid(tmp_path: Path) -> None:
    hole = flat(50)
    hole.pixels[0, 1] = 0
    listed = open_scenes(write_catalogue(tmp_path, [StacScene("a", "2024-05-05", {"B02": flat(100), "B03": hole})]))
    cube = compose(
        listed, BOX, [MAY], modality="sentinel2_l2a", bands=["B03", "B02"], composite="least_cloudy"
    )  # fmt: skip
    assert cube.bands == ("B03", "B02")
    assert cube.data[0, :, 0, 0].tolist() == [50, 100]
    assert cube.data[0, :, 0, 1].tolist() == [0, 0]
    assert np.argwhere(~cube.valid[0]).tolist() == [[0, 1]]


def test_the_offset_is_subtracted_once_and_never_makes_nodata(tmp_path: Path) -> None:
    stored = Layer(np.array([[1500, 1001], [1000, 0]], np.uint16).repeat(2, 0).repeat(2, 1))
    scene = StacScene("new", "2024-05-05", {"B02": stored}, properties={"s2:processing_baseline": "05.10"})
    cube = compose_b02(tmp_path, [scene], [MAY])
    assert cube.data[0, 0, ::2, ::2].tolist() == [[500, 1], [1, 0]]
    assert cube.valid[0, ::2, ::2].tolist() == [[True, True], [True, False]]


def test_a_scene_that_lacks_a_band_is_an_observation_lost(tmp_path: Path) -> None:
    catalogue = write_catalogue(
        tmp_path,
        [
            StacScene("poor", "2024-05-05", {"B02": flat(1)}, cloud_cover=0),
            StacScene("rich", "2024-05-06", {"B08": flat(3), "B02": flat(2)}, cloud_cover=50),
        ],
    )
    listed = open_scenes(catalogue)
    bands = available_bands(listed, "sentinel2_l2a")
    assert bands == ("B02", "B08")
    cube = compose(listed, BOX, [MAY], modality="sentinel2_l2a", bands=bands, composite="least_cloudy")
    assert cube.data[0, :, 0, 0].tolist() == [2, 3]


def test_an_unreadable_asset_costs_its_observation_and_is_told(tmp_path: Path) -> None:
    catalogue = write_catalogue(
        tmp_path,
        [
            StacScene("broken", "2024-05-05", {"B02": flat(1)}, cloud_cover=0),
            StacScene("gone", "2024-05-05", {"B02": flat(1)}, cloud_cover=0),
            StacScene("whole", "2024-05-06", {"B02": flat(2)}, cloud_cover=50),
        ],
    )
    broken = tmp_path / "broken" / "B02.tif"
    broken.write_bytes(broken.read_bytes()[:-20])
    (tmp_path / "gone" / "B02.tif").unlink()
    with AssetReader() as reader:
        cube = compose(
            open_scenes(catalogue), BOX, [MAY], modality="sentinel2_l2a", bands=["B02"], composite="median",
            reader=reader,
        )  # fmt: skip
        failures = reader.failures
    assert (cube.data == 2).all()
    assert (cube.observations == 1).all()
    assert [(failure.scene, failure.asset) for failure in failures] == [("broken", "B02"), ("gone", "B02")]
    assert all("B02.tif" in failure.reason and str(tmp_path) not in failure.reason for failure in failures)


def test_an_unreadable_classification_costs_the_observation_too(tmp_path: Path) -> None:
    layers = {"B02": flat(1), "SCL": classes([[4, 4], [4, 4]])}
    catalogue = write_catalogue(tmp_path, [StacScene("a", "2024-05-05", layers)])
    (tmp_path / "a" / "SCL.tif").write_bytes(b"not a raster")
    with AssetReader() as reader:
        cube = compose(
            open_scenes(catalogue), BOX, [MAY], modality="sentinel2_l2a", bands=["B02"], composite="median",
            reader=reader,
        )  # fmt: skip
        assert [failure.asset for failure in reader.failures] == ["mask"]
    assert not cube.valid.any()


def test_values_that_are_no_numbers_of_the_sensor_are_refused(tmp_path: Path) -> None:
    layer = Layer(np.full((4, 4), 0.25, np.float32))
    catalogue = write_catalogue(tmp_path, [StacScene("a", "2024-05-05", {"B02": layer})])
    with AssetReader() as reader:
        compose(
            open_scenes(catalogue), BOX, [MAY], modality="sentinel2_l2a", bands=["B02"], composite="median",
            reader=reader,
        )  # fmt: skip
        assert "float32" in reader.failures[0].reason


def test_no_scene_in_a_timestep_leaves_it_empty(tmp_path: Path) -> None:
    cube = compose_b02(tmp_path, [StacScene("a", "2024-05-05", {"B02": flat(7)})], [JUNE, MAY])
    assert cube.valid.any(axis=(1, 2)).tolist() == [False, True]
    assert not cube.data[0].any()


def test_a_box_beside_the_imagery_is_empty(tmp_path: Path) -> None:
    listed = open_scenes(write_catalogue(tmp_path, [StacScene("a", "2024-05-05", {"B02": flat(7)})]))
    for shift in (4, 500_000):  # next to it, and where its projection is out of sight
        beside = PixelBox(BOX.grid, BOX.column + shift, BOX.row, 3, 3)
        cube = compose(listed, beside, [MAY], modality="sentinel2_l2a", bands=["B02"], composite="median")
        assert cube.data.shape == (1, 1, 3, 3)
        assert not cube.valid.any()


@pytest.mark.parametrize(("modality", "bands"), [("sentinel2_l2a", ["B10"]), ("sentinel9", ["B02"])])
def test_unknown_names_are_refused(tmp_path: Path, modality: str, bands: list[str]) -> None:
    with pytest.raises(ImageryError, match="allowed are"):
        compose(
            SceneList("catalog.json", {}, (), tmp_path), BOX, [MAY], modality=modality, bands=bands, composite="median"
        )


def test_bytes_are_counted_once_for_each_block(tmp_path: Path) -> None:
    listed = open_scenes(write_catalogue(tmp_path, [StacScene("a", "2024-05-05", {"B02": flat(7)})]))
    meter = Meter()
    with AssetReader(meter) as reader:
        for _ in range(3):
            compose(listed, BOX, [MAY], modality="sentinel2_l2a", bands=["B02"], composite="median", reader=reader)
    assert 0 < meter.bytes_read < (tmp_path / "a" / "B02.tif").stat().st_size


# ------------------------------------------------------------------ compose(A)[B] == compose(B)

BORDER = (747_060.0, 4_690_020.0)
"""A place at 6 degrees east, where the UTM zones 31 and 32 meet, in zone 31."""


@pytest.fixture(scope="module")
def two_zones(tmp_path_factory: pytest.TempPathFactory) -> SceneList:
    """Scenes of two zones with clouds, nodata, an overlap, bands of 10, 20 and 60 m, and one without classification."""
    left, top = BORDER
    x, y = Transformer.from_crs(UTM31, "EPSG:32632", always_xy=True).transform(left + 300, top)
    west = {"left": left, "top": top, "size": 600.0}
    east = {"left": round(x / 60) * 60.0, "top": round(y / 60) * 60.0, "size": 600.0, "crs": "EPSG:32632"}
    bands = ("B02", "B05", "B01", "SCL")

    def scene(name: str, cloud_cover: float, place: dict[str, float | str], seed: int, **more: object) -> StacScene:
        layers = sentinel2_layers(seed, **{"bands": bands, "nodata": 0.03, "cloud": 0.3, **place, **more})
        return StacScene(name, "2024-05-05", layers, cloud_cover=cloud_cover)

    scenes = [
        scene("west1", 30, west, 1),
        scene("west2", 20, {**west, "left": left + 5, "top": top - 15}, 2),  # half a pixel beside the grid
        scene("east1", 25, east, 3, nodata=0.3),
        scene("east2", 10, east, 4, bands=bands[:3], nodata=0.5),
    ]
    return open_scenes(write_catalogue(tmp_path_factory.mktemp("zones"), scenes))


boxes = st.tuples(st.integers(-10, 80), st.integers(-10, 60), st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    resolution=st.sampled_from([10.0, 20.0, 25.0]),
    crs=st.sampled_from([UTM31, "EPSG:32632", "EPSG:3035"]),
    outer=boxes,
    inner=st.tuples(*[st.floats(0, 1)] * 4),
    composite=st.sampled_from(["least_cloudy", "first_valid", "median", "medoid"]),
)
def test_a_pixel_never_depends_on_the_box(
    two_zones: SceneList,
    resolution: float,
    crs: str,
    outer: tuple[int, int, int, int],
    inner: tuple[float, float, float, float],
    composite: Composite,
) -> None:
    grid = Grid(crs, resolution)
    x, y = Transformer.from_crs(UTM31, crs, always_xy=True).transform(*BORDER)
    column, row, width, height = outer
    a = grid.box(int(x // resolution) + column, int(-y // resolution) + row, width, height)
    b = _inside(a, inner)
    whole, part = (
        compose(two_zones, box, [MAY], modality="sentinel2_l2a", bands=["B02", "B05", "B01"], composite=composite)
        for box in (a, b)
    )
    cut = whole.crop(b)
    assert np.array_equal(cut.data, part.data)
    assert np.array_equal(cut.valid, part.valid)
    assert np.array_equal(cut.observations, part.observations)
    assert np.array_equal(cut.observed_on, part.observed_on)


@settings(max_examples=25, deadline=None)
@given(outer=boxes, inner=st.tuples(*[st.floats(0, 1)] * 4), composite=st.sampled_from(["median", "medoid"]))
def test_a_radar_pixel_never_depends_on_the_box(
    radar: SceneList,
    outer: tuple[int, int, int, int],
    inner: tuple[float, float, float, float],
    composite: Composite,
) -> None:
    column, row, width, height = outer
    a = Grid(UTM31).box(round(BORDER[0] / 10) + column, round(-BORDER[1] / 10) + row, width, height)
    b = _inside(a, inner)
    with AssetReader() as reader:
        whole, part = (
            compose(radar, box, [MAY], modality="sentinel1", bands=["vv", "vh"], composite=composite, reader=reader)
            for box in (a, b)
        )
        assert not reader.failures
    cut = whole.crop(b)
    assert np.array_equal(cut.data, part.data)
    assert np.array_equal(cut.observations, part.observations)


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> SceneList:
    """Three scenes, half a pixel beside each other; over water most power is negative, as when noise is subtracted."""
    random = np.random.default_rng(5)
    scenes = []
    for k in range(3):
        power = random.exponential(0.05, (60, 60))
        power[:, 20:] -= 0.1
        layers = {b: Layer(power.astype(np.float32), 10.0, BORDER[0] + 5 * k, BORDER[1]) for b in ("vv", "vh")}
        scenes.append(StacScene(f"radar{k}", f"2024-05-0{k + 1}", layers, None, {"platform": "sentinel-1a"}))
    return open_scenes(write_catalogue(tmp_path_factory.mktemp("radar"), scenes), ["sentinel1"])


def _inside(box: PixelBox, share: tuple[float, float, float, float]) -> PixelBox:
    left, top = int(share[0] * (box.width - 1)), int(share[1] * (box.height - 1))
    width = 1 + int(share[2] * (box.width - left - 1))
    height = 1 + int(share[3] * (box.height - top - 1))
    return PixelBox(box.grid, box.column + left, box.row + top, width, height)


@pytest.mark.parametrize("composite", ["least_cloudy", "median"])
def test_the_property_sees_both_zones(two_zones: SceneList, composite: Composite) -> None:
    """Or it would hold for nothing."""
    box = Grid(UTM31).around((BORDER[0], BORDER[1] - 600, BORDER[0] + 900, BORDER[1]))
    cube = compose(two_zones, box, [MAY], modality="sentinel2_l2a", bands=["B02"], composite=composite)
    assert cube.valid[0, :, :30].mean() > 0.5
    assert cube.valid[0, :, 62:].mean() > 0.4  # only zone 32 reaches here
    assert 0.6 < cube.valid.mean() < 1


def test_a_box_larger_than_a_piece_is_the_same(two_zones: SceneList, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Grid(UTM31).around((BORDER[0], BORDER[1] - 600, BORDER[0] + 900, BORDER[1]))
    assert max(box.shape) < PIECE
    whole = compose(two_zones, box, [MAY], modality="sentinel2_l2a", bands=["B02", "B01"], composite="median")
    monkeypatch.setattr("olmoearth_core.imagery.compose.PIECE", 13)
    pieces = compose(two_zones, box, [MAY], modality="sentinel2_l2a", bands=["B02", "B01"], composite="median")
    assert np.array_equal(whole.data, pieces.data)
    assert np.array_equal(whole.observations, pieces.observations)


def test_many_threads_read_what_one_reads(two_zones: SceneList) -> None:
    from concurrent.futures import ThreadPoolExecutor

    box = Grid(UTM31).around((BORDER[0], BORDER[1] - 600, BORDER[0] + 900, BORDER[1]))
    parts = [PixelBox(box.grid, box.column + i, box.row + j, 20, 20) for i in (0, 20, 40, 60) for j in (0, 20, 40)]

    def one(part: PixelBox, reader: AssetReader | None = None) -> Cube:
        return compose(
            two_zones, part, [MAY], modality="sentinel2_l2a", bands=["B02", "B05"], composite="median", reader=reader
        )

    with AssetReader(workers=4, keep_open=3) as reader, ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda part: one(part, reader), parts))
        assert not reader.failures
    for part, cube in zip(parts, threaded, strict=True):
        assert np.array_equal(cube.data, one(part).data)
