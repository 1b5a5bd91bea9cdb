"""Rasters of several zones as one: a GDAL tile index (GTI), which a GIS opens as a raster and projects as it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.warp import transform_bounds

from olmoearth_core.postprocess.polygons import Layer, write_geopackage

INDEX = ".gti.gpkg"
DEGREES, ACROSS = "EPSG:4326", "EPSG:3832"
"""The CRS of an index; the second (a Mercator around 150 E) for one over the antimeridian."""
METRES = 111_320.0
"""In a degree of latitude."""


def index_name(raster: str) -> str:
    """The index over the zones of a raster: map.gti.gpkg of map.tif."""
    return f"{Path(raster).stem}{INDEX}"


def write_index(path: Path, rasters: Sequence[Path], day: date, scratch: Path) -> None:
    """Write an index over `rasters`, which lie beside it and are named by it without a folder.

    Args:
        path: a name that ends in .gti.gpkg tells GDAL (3.9 and later) what it is.
        rasters: of equal bands, each on a grid of its own.
        day: that the GeoPackage says it was changed on.
        scratch: folder for what is in between.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    bounds, metres = [], []
    for raster in rasters:
        with rasterio.open(raster) as source:
            bounds.append(transform_bounds(source.crs, DEGREES, *source.bounds, densify_pts=21))
            metres.append(float(source.transform.a))
    edges, crs, shrink = np.array(bounds), DEGREES, math.cos(math.radians((bounds[0][1] + bounds[0][3]) / 2))
    high = min(metres) / METRES
    wide = high / shrink
    if (edges[:, 0] > edges[:, 2]).any() or edges[:, 2].max() - edges[:, 0].min() > 180:
        crs, edges = ACROSS, np.array([_across(raster) for raster in rasters])
        high = wide = min(metres) / shrink
    features = gpd.GeoDataFrame(
        {"location": [raster.name for raster in rasters]}, geometry=list(shapely.box(*edges.T)), crs=crs
    )
    # with no more than this GDAL takes bands, colours and nodata from the rasters themselves, but no scale
    resolution = {"RESX": f"{wide:.4g}", "RESY": f"{high:.4g}"}
    layer = Layer(path.name.removesuffix(INDEX), features, metadata=resolution, documents=_scaled(rasters[0]))
    write_geopackage(path, [layer], day, scratch)


def _scaled(raster: Path) -> dict[str, str]:
    """What tells GDAL the bands of `raster`, by its domain; nothing where their values are not scaled."""
    with rasterio.open(raster) as source:
        if set(source.scales) == {1.0} and set(source.offsets) == {0.0}:
            return {}
        root = Element("GDALTileIndexDataset")
        for index in source.indexes:
            k = index - 1
            told = {
                "Description": source.descriptions[k],
                "Offset": source.offsets[k],
                "Scale": source.scales[k],
                "NoDataValue": source.nodatavals[k],
                "ColorInterp": source.colorinterp[k].name.capitalize(),
            }
            band = SubElement(root, "Band", band=str(index), dataType=typename_fwd[dtype_rev[source.dtypes[k]]])
            for name, value in told.items():
                if value is not None:
                    SubElement(band, name).text = str(value)
    return {"xml:GTI": tostring(root, encoding="unicode")}


def _across(raster: Path) -> tuple[float, float, float, float]:
    with rasterio.open(raster) as source:
        left, bottom, right, top = transform_bounds(source.crs, ACROSS, *source.bounds, densify_pts=21)
    return left, bottom, right, top
