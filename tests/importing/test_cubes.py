"""NetCDF and Zarr cubes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from foreign import DAY, LEFT, TOP, UTM, make_cube, values, write_netcdf
from numpy.testing import assert_array_equal

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.cubes import is_cube, read_cubes
from olmoearth_core.importing.source import Found, Options

CUBE = (2, 6, 8)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def read(stack: ExitStack, *paths: Path, **options: Any) -> Found:
    return read_cubes(paths, Options(**options), stack)


def test_a_scene_for_each_time(tmp_path: Path, stack: ExitStack) -> None:
    pixels, classes = values(1, *CUBE), np.full(CUBE, 4, np.uint16)
    path = write_netcdf(tmp_path / "place.nc", make_cube({"B2": pixels, "SCL": classes}))
    first, second = read(stack, path).scenes
    assert (first.id, first.moment, second.id) == ("place_20240501", DAY, "place_20240511")
    assert list(first.layers) == ["B02", "SCL"]
    layer = second.layers["B02"]
    assert_array_equal(layer.read(), pixels[1])
    assert layer.encoding.nodata == 0
    assert (layer.grid.crs, layer.grid.width, layer.grid.height) == (UTM, 8, 6)
    assert layer.grid.transform == (10.0, 0.0, LEFT, 0.0, -10.0, TOP)


def test_y_that_ascends_is_turned(tmp_path: Path, stack: ExitStack) -> None:
    pixels = values(1, *CUBE)
    down = write_netcdf(tmp_path / "down.nc", make_cube({"B2": pixels}))
    up = write_netcdf(tmp_path / "up.nc", make_cube({"B2": pixels}, ascending=True))
    assert_array_equal(xarray.open_dataset(up, mask_and_scale=False).B2[0].to_numpy(), pixels[0, ::-1])
    one, other = (read(stack, path).scenes[1].layers["B02"] for path in (down, up))
    assert_array_equal(one.read(), other.read())
    assert one.grid == other.grid


def test_two_resolutions_of_one_place_join(tmp_path: Path, stack: ExitStack) -> None:
    fine, coarse = values(1, 2, 8, 8), values(2, 2, 4, 4)
    a = write_netcdf(tmp_path / "place_10m.nc", make_cube({"B2": fine, "B3": fine}))
    b = write_netcdf(tmp_path / "place_20m.nc", make_cube({"B3": coarse, "B11": coarse}, resolution=20))
    c = write_netcdf(tmp_path / "elsewhere.nc", make_cube({"B2": values(3, 2, 8, 14)}))
    for paths in ((a, b, c), (c, b, a)):
        scenes = {scene.id: scene for scene in read(stack, *paths).scenes}
        assert sorted(scenes) == ["elsewhere_20240501", "elsewhere_20240511", "place_20240501", "place_20240511"]
        layers = scenes["place_20240501"].layers
        assert {band: layer.grid.resolution for band, layer in layers.items()} == {"B02": 10, "B03": 10, "B11": 20}
        assert_array_equal(layers["B03"].read(), fine[0])


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")
def test_zarr_with_a_band_axis(tmp_path: Path, stack: ExitStack) -> None:
    pixels = values(1, 2, 3, 6, 8)
    cube = make_cube({"B2": pixels[:, 0]}).drop_vars("B2")
    cube["reflectance"] = (("time", "band", "y", "x"), pixels, {"grid_mapping": "spatial_ref"})
    named = cube.assign_coords(band=["blue", "nir", "ndvi"])
    for version in (2, 3):
        named.to_zarr(tmp_path / f"{version}.zarr", zarr_format=version, consolidated=False)
        assert is_cube(tmp_path / f"{version}.zarr")
        found = read(stack, tmp_path / f"{version}.zarr", ignore=frozenset({"ndvi"}))
        assert_array_equal(found.scenes[1].layers["B08"].read(), pixels[1, 1])
    cube.to_zarr(tmp_path / "bare.zarr", consolidated=False)
    with pytest.raises(SourceError, match="does not name the 3 bands"):
        read(stack, tmp_path / "bare.zarr")
    found = read(stack, tmp_path / "bare.zarr", bands=("B02", "-", "B04"))
    assert_array_equal(found.scenes[0].layers["B04"].read(), pixels[0, 2])


def test_values_stay_encoded(tmp_path: Path, stack: ExitStack) -> None:
    cube = make_cube({"B2": values(1, *CUBE)}, fill=None)
    cube["B2"].attrs.update(scale_factor=0.0002, add_offset=-0.1)
    (layer, _) = (scene.layers["B02"] for scene in read(stack, write_netcdf(tmp_path / "a.nc", cube)).scenes)
    assert (layer.encoding.scale, layer.encoding.offset, layer.encoding.nodata) == (0.0002, -0.1, None)
    assert layer.read().dtype == np.uint16


def test_degrees_are_told_by_the_axes(tmp_path: Path, stack: ExitStack) -> None:
    cube = make_cube({"B2": values(1, *CUBE)}, crs=None).assign_coords(x=np.arange(8) * 1e-4, y=-np.arange(6) * 1e-4)
    cube = cube.rename(x="lon", y="lat")
    cube.lon.attrs["units"], cube.lat.attrs["units"] = "degrees_east", "degrees_north"
    (scene, _) = read(stack, write_netcdf(tmp_path / "a.nc", cube)).scenes
    assert scene.finest.crs == "EPSG:4326"


def test_a_picture_with_its_time_beside_it(tmp_path: Path, stack: ExitStack) -> None:
    cube = make_cube({"B2": values(1, *CUBE)})
    one = write_netcdf(tmp_path / "one.nc", cube.isel(time=1))
    none = write_netcdf(tmp_path / "none.nc", cube.isel(time=1, drop=True))
    assert read(stack, one).scenes[0].moment.day == 11
    assert read(stack, none, date=datetime(2020, 1, 1, tzinfo=UTC)).scenes[0].moment.year == 2020
    with pytest.raises(SourceError, match="has no time coordinate"):
        read(stack, none)


def _with_times(*times: Any) -> xarray.Dataset:
    return make_cube({"B2": values(1, *CUBE)}).assign_coords(time=list(times))


def _uneven() -> xarray.Dataset:
    return make_cube({"B2": values(1, *CUBE)}).assign_coords(x=[0.0, 10, 20, 30, 40, 50, 60, 80])


def _no_coordinates() -> xarray.Dataset:
    return make_cube({"B2": values(1, *CUBE)}).drop_vars("x")


def _other_axis() -> xarray.Dataset:
    return make_cube({"B2": values(1, *CUBE)}).expand_dims(orbit=2)


@pytest.mark.parametrize(
    ("cube", "words"),
    [
        (make_cube({"B2": values(1, *CUBE)}, ("2024-05-01", "2024-05-01")), "the time 2024-05-01T00:00:00 stands 2"),
        (_with_times(20240501, 20240511), "the times are int64"),
        (_with_times(np.datetime64("NaT", "ns"), np.datetime64("2024-05-01", "ns")), "1 of 2 times are missing"),
        (_uneven(), r"coordinate x is not evenly spaced \(steps of 10 to 20\)"),
        (make_cube({"B2": values(1, 2, 6, 1)}), "coordinate x needs at least two"),
        (_no_coordinates(), "has no coordinate x"),
        (make_cube({"B2": values(1, *CUBE)}, crs=None), "states no CRS"),
        (make_cube({"ndvi": values(1, *CUBE)}), "'ndvi' is no band of Sentinel-2"),
        (make_cube({"B2": values(1, *CUBE), "blue": values(1, *CUBE)}), "has the band B02 twice"),
        (_other_axis(), "B2 has the axes orbit, time, y, x"),
        (xarray.Dataset({"B2": (("time",), [1, 2])}), "no variable over y and x"),
    ],
)
def test_cubes_that_cannot_be_used(tmp_path: Path, stack: ExitStack, cube: xarray.Dataset, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(stack, write_netcdf(tmp_path / "cube.nc", cube))


def test_the_same_band_in_two_files(tmp_path: Path, stack: ExitStack) -> None:
    for name in "ab":
        write_netcdf(tmp_path / f"{name}.nc", make_cube({"B2": values(1, *CUBE)}))
    with pytest.raises(SourceError, match="is there already, as a"):
        read(stack, tmp_path / "a.nc", tmp_path / "b.nc")


def test_what_is_no_netcdf(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "a.nc").write_bytes(b"no cube")
    with pytest.raises(SourceError, match="cannot be opened as NetCDF 4"):
        read(stack, tmp_path / "a.nc")
