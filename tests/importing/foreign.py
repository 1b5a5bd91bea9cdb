"""A partner's own files as they come: GeoTIFFs without STAC, NetCDF and Zarr cubes. Small, real, with known pixels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning

LEFT, TOP, SIZE = 500_040.0, 4_690_020.0, 32
UTM = "EPSG:32631"
DAY = datetime(2024, 5, 1, tzinfo=UTC)


def values(seed: int = 0, *shape: int, dtype: Any = np.uint16) -> NDArray[Any]:
    """Reflectances x 10000 from 1 to 3000."""
    picture: NDArray[Any] = np.random.default_rng(seed).integers(1, 3000, shape or (SIZE, SIZE)).astype(dtype)
    return picture


def write_tiff(
    path: Path,
    pixels: NDArray[Any] | None = None,
    *,
    crs: str | None = UTM,
    place: bool = True,
    left: float = LEFT,
    resolution: float = 10.0,
    nodata: float | None = None,
    names: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> NDArray[Any]:
    """Write (H, W) or (C, H, W) as a plain GeoTIFF; returns the pixels."""
    pixels = values() if pixels is None else pixels
    stack = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    georeference = {"transform": Affine(resolution, 0, left, 0, -resolution, TOP)} if place else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(
        path, "w", driver="GTiff", count=len(stack), height=stack.shape[1], width=stack.shape[2], dtype=stack.dtype,
        nodata=nodata, crs=crs, **georeference,
    )  # fmt: skip
    with file:
        file.write(stack)
        file.update_tags(**(tags or {}))
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
    return pixels


def make_cube(
    variables: Mapping[str, NDArray[Any]],
    days: Sequence[str] = ("2024-05-01", "2024-05-11"),
    *,
    resolution: float = 10.0,
    crs: str | None = UTM,
    ascending: bool = False,
    fill: float | None = 0,
) -> xarray.Dataset:
    """Variables (T, H, W) with pixel centres; `ascending` has y grow from south to north, with the same ground."""
    shape = next(iter(variables.values())).shape
    y = TOP - (np.arange(shape[1]) + 0.5) * resolution
    x = LEFT + (np.arange(shape[2]) + 0.5) * resolution
    attributes = {} if fill is None else {"_FillValue": fill}
    dataset = xarray.Dataset(
        {name: (("time", "y", "x"), pixels, dict(attributes)) for name, pixels in variables.items()},
        coords={"time": np.array(days, "datetime64[ns]"), "y": y, "x": x},
    )
    if crs is not None:
        dataset["spatial_ref"] = ((), 0, {"crs_wkt": CRS.from_user_input(crs).to_wkt()})
        for name in variables:
            dataset[name].attrs["grid_mapping"] = "spatial_ref"
    return dataset.isel(y=slice(None, None, -1)) if ascending else dataset


def write_netcdf(path: Path, cube: xarray.Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cube.to_netcdf(path, engine="h5netcdf")
    return path
