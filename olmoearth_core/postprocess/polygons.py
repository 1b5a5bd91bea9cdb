"""The map as polygons: sieved to the minimum mapping unit, then outlined."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
from rasterio.features import shapes, sieve
from shapely.geometry import shape

from olmoearth_core.grid import areal_scale
from olmoearth_core.inference.zones import Strip
from olmoearth_core.postprocess.mosaic import CACHE, NODATA, box_of, cannot_write
from olmoearth_core.postprocess.zone_edges import carry_over
from olmoearth_core.store import disk_errors, whole_file

LAYER = "map"
_END = "</GDALMultiDomainMetadata>"
_GDAL_ERRORS = (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError)


@dataclass(frozen=True)
class Layer:
    """One layer of a GeoPackage.

    Attributes:
        name: of the layer.
        features: its rows.
        geometry_type: of all of them, in GDAL's words.
        metadata: of the layer.
        documents: XML that is metadata of the layer, by its domain in GDAL's words.
    """

    name: str
    features: gpd.GeoDataFrame
    geometry_type: str = "Polygon"
    metadata: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)


def outline(
    path: Path, names: Sequence[str], *, min_area: float, scratch: Path, strip: Strip | None = None, beyond: int = 0
) -> gpd.GeoDataFrame:
    """The patches of equal class of the map at `path`, as polygons along pixel edges.

    Patches smaller than the minimum mapping unit first join their largest neighbour; nodata takes no part, and a small
    patch whose neighbours are nodata or as small as itself stays. Pixels lie in files that the system may page out, so
    that memory grows with the number of polygons, not of pixels.

    Args:
        path: the map, classes in band 1.
        names: of the classes.
        min_area: minimum mapping unit in square units of the CRS.
        scratch: folder for pixels.
        strip: where the map goes on in a neighbouring zone, the longitudes that are this map's.
        beyond: pixels by which patches are carried on over the edges of the strip, to be cut there (zone_edges.py).

    Returns:
        columns class, value, area_m2 (on the ground), geometry in the CRS of the map; neighbours share their edges
        exactly.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE), rasterio.open(path) as source:
        pixels = math.ceil(min_area / abs(source.transform.a * source.transform.e))
        box = box_of(source).pad(beyond)
        classes = _on_disk(scratch / "classes.bin", np.uint8, box.shape)
        mapped = _on_disk(scratch / "mapped.bin", np.bool_, box.shape)
        for _, window in source.block_windows(1):
            block = source.read(1, window=window)
            rows, columns = (slice(s.start + beyond, s.stop + beyond) for s in window.toslices())
            classes[rows, columns] = block
            mapped[rows, columns] = block != NODATA
        if pixels > 1:
            sieve(classes, pixels, out=classes, mask=mapped)
        if strip is not None and beyond:
            carry_over(classes, mapped, box, strip, beyond)
        found = [(shape(polygon), int(value)) for polygon, value in shapes(classes, mapped, transform=box.transform)]
        crs = source.crs
    (scratch / "classes.bin").unlink()
    (scratch / "mapped.bin").unlink()
    geometry = gpd.GeoSeries([polygon for polygon, _ in found], crs=crs)
    return gpd.GeoDataFrame(
        {
            "class": np.array([names[value] for _, value in found], dtype=object),
            "value": np.array([value for _, value in found], dtype=np.int32),
            "area_m2": _ground_area(geometry),
        },
        geometry=geometry,
    )


def _ground_area(geometry: gpd.GeoSeries) -> np.ndarray:
    """Square metres on the ground, (N,) float64: areas in the CRS over its areal scale at each polygon's centroid."""
    area: np.ndarray = geometry.area.to_numpy(np.float64)
    if not len(area):
        return area
    middle = geometry.centroid
    ground: np.ndarray = area / areal_scale(geometry.crs, middle.x.to_numpy(), middle.y.to_numpy())
    return ground


def _on_disk(path: Path, dtype: type[np.generic], shape: tuple[int, int]) -> np.ndarray:
    """An array in a file. Its room is taken at once: a mapped page that finds the disk full would end the process."""
    with disk_errors(path), path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shape[0] * shape[1])
    return np.memmap(path, dtype, "r+", shape=shape)


def write_geoparquet(path: Path, polygons: gpd.GeoDataFrame) -> None:
    """Write GeoParquet, whole or not at all."""
    with whole_file(path) as partial:
        polygons.to_parquet(partial, index=False, compression="zstd")


def write_geopackage(path: Path, layers: Sequence[Layer], day: date, scratch: Path) -> None:
    """Write a GeoPackage, whole or not at all. It says that it was changed on `day`: equal layers give equal bytes.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    made = scratch / path.name  # GDAL wants the proper ending while it writes
    made.unlink(missing_ok=True)
    former = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{day.isoformat()}T00:00:00.000Z"})
    try:
        for layer in layers:
            pyogrio.write_dataframe(
                layer.features,
                made,
                layer=layer.name,
                driver="GPKG",
                geometry_type=layer.geometry_type,
                layer_metadata=dict(layer.metadata) or None,
            )
        _add_documents(made, layers)
        _read_back(made, layers)
    except (*_GDAL_ERRORS, sqlite3.Error) as error:
        raise cannot_write(path, error) from error
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": former})
    with whole_file(path) as partial:
        made.replace(partial)


def write_flatgeobuf(path: Path, polygons: gpd.GeoDataFrame, scratch: Path) -> None:
    """Write FlatGeobuf with its spatial index, whole or not at all: browsers read only what they show of it.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    made = scratch / path.name
    made.unlink(missing_ok=True)
    try:
        pyogrio.write_dataframe(polygons, made, layer=LAYER, driver="FlatGeobuf", geometry_type="Polygon")
        # it has the size that its head tells, or GDAL could not write all
        if (there := len(pyogrio.raw.read(made, columns=[])[2])) != len(polygons):
            raise pyogrio.errors.DataSourceError(f"{there} of {len(polygons)} features are in it")
    except (*_GDAL_ERRORS, OSError) as error:
        raise cannot_write(path, error) from error
    with whole_file(path) as partial:
        made.replace(partial)


def _add_documents(path: Path, layers: Sequence[Layer]) -> None:
    """Put the `documents` of layers, which pyogrio cannot write, beside the metadata that it wrote."""
    with closing(sqlite3.connect(path)) as database, database:
        for layer in layers:
            for domain, document in layer.documents.items():
                database.execute(
                    "UPDATE gpkg_metadata SET metadata = replace(metadata, ?, ?) WHERE id IN "
                    "(SELECT md_file_id FROM gpkg_metadata_reference WHERE table_name = ?)",
                    (_END, f'<Metadata domain="{domain}" format="xml">{document}</Metadata>{_END}', layer.name),
                )


def _read_back(path: Path, layers: Sequence[Layer]) -> None:
    """Check a GeoPackage: GDAL builds the spatial index when it closes the file, and keeps it to itself if that fails.

    Raises:
        sqlite3.Error: the file is not whole.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        for layer in layers:
            for table in (layer.name, f"rtree_{layer.name}_geom_rowid"):
                (rows,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
                if rows != len(layer.features):
                    raise sqlite3.DatabaseError(f"{rows} of {len(layer.features)} features are in its table {table}")
        (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
