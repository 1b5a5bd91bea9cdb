"""Compositors: values by hand, and the same pixel whichever box is asked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from rasters import LEFT, TOP, Layer, StacScene, open_scenes, write_catalogue

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.compose import Composite, compose
from olmoearth_core.imagery.cube import NEVER, Cube

MAY = Timestep(date(2024, 5, 1), date(2024, 6, 1))
BOX = Grid("EPSG:32631").around((LEFT, TOP - 20, LEFT + 40, TOP))  # 2 x 4 pixels
DAYS = {"a": "2024-05-03", "b": "2024-05-09", "c": "2024-05-20"}


def scene(name: str, blue: list[int], green: list[int], cloud: float = 0.0) -> StacScene:
    """Two bands, the same in both rows; 0 is nodata."""
    layers = {"B02": blue, "B03": green}
    stored = {band: Layer(np.array([row, row], np.uint16)) for band, row in layers.items()}
    return StacScene(name, DAYS[name], stored, cloud_cover=cloud)


def composed(folder: Path, scenes: list[StacScene], composite: Composite) -> Cube:
    listed = open_scenes(write_catalogue(folder, scenes))
    return compose(listed, BOX, [MAY], modality="sentinel2_l2a", bands=["B02", "B03"], composite=composite)


def on(*names: str) -> list[int]:
    return [NEVER if name == "-" else int(np.datetime64(DAYS[name], "D").astype(int)) for name in names]


SCENES = [
    scene("a", [100, 0, 100, 0], [100, 100, 100, 0], cloud=50),
    scene("b", [210, 210, 900, 0], [200, 200, 900, 0], cloud=20),
    scene("c", [310, 310, 0, 0], [250, 250, 950, 0], cloud=10),
]


@pytest.mark.parametrize(
    ("composite", "blue", "green", "count", "days"),
    [
        ("least_cloudy", [310, 310, 900, 0], [250, 250, 900, 0], [1, 1, 1, 0], on("c", "c", "b", "-")),
        ("first_valid", [100, 210, 100, 0], [100, 200, 100, 0], [1, 1, 1, 0], on("a", "b", "a", "-")),
        # two middles: the mean, halves up; the day is that of the earlier of them
        ("median", [210, 260, 500, 0], [200, 225, 500, 0], [3, 2, 2, 0], on("b", "b", "a", "-")),
        # b lies between a and c; of two equally near, the better ranked is taken
        ("medoid", [210, 310, 900, 0], [200, 250, 900, 0], [3, 2, 2, 0], on("b", "c", "b", "-")),
    ],
)
def test_values_counts_and_days_by_hand(
    tmp_path: Path, composite: Composite, blue: list[int], green: list[int], count: list[int], days: list[int]
) -> None:
    cube = composed(tmp_path, SCENES, composite)
    for row in (0, 1):
        assert cube.data[0, 0, row].tolist() == blue
        assert cube.data[0, 1, row].tolist() == green
        assert cube.observations[0, row].tolist() == count
        assert cube.observed_on[0, row].tolist() == days


def test_the_medoid_keeps_the_bands_of_one_observation_together(tmp_path: Path) -> None:
    scenes = [scene("a", [100] * 4, [900] * 4), scene("b", [500] * 4, [500] * 4), scene("c", [900] * 4, [100] * 4)]
    scenes.append(StacScene("d", "2024-05-21", {b: Layer(np.full((2, 4), 5000, np.uint16)) for b in ("B02", "B03")}))
    for composite, expected in (("medoid", [500, 500]), ("median", [700, 700])):
        cube = composed(tmp_path / composite, scenes, composite)  # type: ignore[arg-type]
        assert cube.data[0, :, 0, 0].tolist() == expected


def test_radar_has_its_median_in_decibels(tmp_path: Path) -> None:
    powers = {"a": 0.1, "b": 0.01, "c": 0.001, "d": 1.0}
    scenes = [
        StacScene(
            name,
            f"2024-05-0{k + 1}",
            {band: Layer(np.full((2, 4), power, np.float32)) for band in ("vv", "vh")},
            cloud_cover=None,
            properties={"platform": "sentinel-1a"},
        )
        for k, (name, power) in enumerate(powers.items())
    ]
    listed = open_scenes(write_catalogue(tmp_path, scenes), ["sentinel1"])
    cube = compose(listed, BOX, [MAY], modality="sentinel1", bands=["vh", "vv"], composite="median")
    assert np.allclose(cube.data, -15)  # between -10 and -20 dB; 1.0 is 0 dB and an observation like the others
    assert (cube.observations == 4).all()


def test_two_tiles_of_one_overpass_are_one_look_at_the_ground(tmp_path: Path) -> None:
    """Where they overlap, a pixel was observed once: it must not weigh twice in a median."""
    overpass = {"s2:datatake_id": "GS2A_20240503T104021_046000_N05.10", "platform": "sentinel-2a"}

    def tile(name: str, grid_code: str, value: int, day: str = "2024-05-03T10:40:21Z", **more: str) -> StacScene:
        layers = {band: Layer(np.full((2, 4), value, np.uint16)) for band in ("B02", "B03")}
        about = {**overpass, "grid:code": grid_code, "s2:mgrs_tile": grid_code.removeprefix("MGRS-"), **more}
        return StacScene(name, day, layers, properties=about)

    other = {"s2:datatake_id": "GS2B_20240508T104021_037000_N05.10", "platform": "sentinel-2b"}
    scenes = [
        tile("S2A_31TDG_20240503_0_L2A", "MGRS-31TDG", 100),
        tile("S2A_31TDH_20240503_0_L2A", "MGRS-31TDH", 104),
        tile("S2B_31TDG_20240508_0_L2A", "MGRS-31TDG", 300, "2024-05-08T10:40:21Z", **other),
    ]
    cube = composed(tmp_path, scenes, "median")
    assert (cube.observations == 2).all()
    assert (cube.data == 200).all()
