"""The map as polygons: sieved to the minimum mapping unit, then outlined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
from rasterio.features import shapes, sieve
from shapely.geometry import shape

from olmoearth_core.postprocess.mosaic import NODATA, cannot_write
from olmoearth_core.store import whole_file

LAYER = "map"


def outline(path: Path, names: Sequence[str], *, min_area: float, scratch: Path) -> gpd.GeoDataFrame:
    """The patches of equal class of the map at `path`, as polygons along pixel edges.

    Patches smaller than the minimum mapping unit first join their largest neighbour; nodata takes no part, and a small
    patch whose neighbours are nodata or as small as itself stays. Pixels lie in files that the system may page out, so
    that memory grows with the number of polygons, not of pixels.

    Args:
        path: the map, classes in band 1.
        names: of the classes.
        min_area: minimum mapping unit in square units of the CRS.
        scratch: folder for pixels.

    Returns:
        columns class, value, area_m2, geometry, in the CRS of the map; neighbours share their edges exactly.
    """
    with rasterio.open(path) as source:
        pixels = math.ceil(min_area / abs(source.transform.a * source.transform.e))
        classes = np.memmap(scratch / "classes.bin", np.uint8, "w+", shape=source.shape)
        mapped = np.memmap(scratch / "mapped.bin", np.bool_, "w+", shape=source.shape)
        for _, window in source.block_windows(1):
            block = source.read(1, window=window)
            classes[window.toslices()] = block
            mapped[window.toslices()] = block != NODATA
        if pixels > 1:
            sieve(rasterio.band(source, 1), pixels, out=classes, mask=mapped)
        found = [(shape(polygon), int(value)) for polygon, value in shapes(classes, mapped, transform=source.transform)]
        crs = source.crs
    (scratch / "classes.bin").unlink()
    (scratch / "mapped.bin").unlink()
    geometry = gpd.GeoSeries([polygon for polygon, _ in found], crs=crs)
    return gpd.GeoDataFrame(
        {
            "class": np.array([names[value] for _, value in found], dtype=object),
            "value": np.array([value for _, value in found], dtype=np.int32),
            "area_m2": geometry.area.to_numpy(np.float64),
        },
        geometry=geometry,
    )


def write_geoparquet(path: Path, polygons: gpd.GeoDataFrame) -> None:
    """Write GeoParquet, whole or not at all."""
    with whole_file(path) as partial:
        polygons.to_parquet(partial, index=False, compression="zstd")


def write_geopackage(path: Path, polygons: gpd.GeoDataFrame, day: date, scratch: Path) -> None:
    """Write a GeoPackage, whole or not at all. It says that it was changed on `day`: equal polygons give equal bytes.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    made = scratch / path.name  # GDAL wants the proper ending while it writes
    made.unlink(missing_ok=True)
    former = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{day.isoformat()}T00:00:00.000Z"})
    try:
        pyogrio.write_dataframe(polygons, made, layer=LAYER, driver="GPKG", geometry_type="Polygon")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError) as error:
        raise cannot_write(path, error) from error
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": former})
    with whole_file(path) as partial:
        made.replace(partial)
