"""Many tiles to one Cloud Optimized GeoTIFF, streamed: GDAL reads the tiles block by block through a virtual raster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from pyproj import CRS
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError, RasterioIOError

from olmoearth_core.errors import StoreError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.store import whole_file, write_text

NODATA = 255
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16"}
BLOCK = 512
CACHE = 64 * 2**20
"""Bytes of blocks that GDAL may keep; left alone it takes a share of the machine's memory."""


@dataclass(frozen=True)
class Band:
    """One band of a mosaic.

    Attributes:
        name: its description.
        source: the band of the tiles it is made of, from 1.
        scale: what a stored value is multiplied by.
        offset: what is then added.
        dtype: of the stored values, "uint8" or "uint16"; the largest number of it is nodata.
        colours: "#rrggbb" of the values 0, 1, ...; empty for a band of measured values.
    """

    name: str
    source: int
    scale: float = 1.0
    colours: Sequence[str] = field(default=())
    offset: float = 0.0
    dtype: str = "uint8"

    @property
    def nodata(self) -> int:
        """The number that means that nothing is known."""
        return int(np.iinfo(self.dtype).max)


def write_mosaic(
    path: Path, tiles: Mapping[Path, PixelBox], bands: Sequence[Band], *, tags: Mapping[str, str], scratch: Path
) -> None:
    """Write a Cloud Optimized GeoTIFF (deflate, overviews), whole or not at all.

    Overviews of a band with colours take the most frequent value, of others the mean. Memory does not grow with the
    extent. Equal tiles give equal bytes.

    Args:
        path: what to write.
        tiles: GeoTIFF -> what it covers; all on one grid, without overlap.
        bands: of the mosaic.
        tags: metadata of the file.
        scratch: folder for the virtual raster.

    Raises:
        StoreError: the disk is full, the place cannot be written, or a tile cannot be read.
    """
    virtual = scratch / f"{path.stem}.vrt"
    write_text(virtual, virtual_raster(tiles, bands, tags))
    options = {
        "COMPRESS": "DEFLATE",
        "BLOCKSIZE": BLOCK,
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": "MODE" if bands[0].colours else "AVERAGE",
        "STATISTICS": "NO",
    }
    with whole_file(path) as partial, gdal_errors(path), rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=CACHE):
        rasterio.shutil.copy(virtual, partial, driver="COG", strict=True, **options)
        _read_back(partial)
    virtual.unlink()


def virtual_raster(tiles: Mapping[Path, PixelBox], bands: Sequence[Band], tags: Mapping[str, str]) -> str:
    """The mosaic as GDAL's XML (VRT); what no tile covers is nodata."""
    whole = next(iter(tiles.values()))
    for box in tiles.values():
        whole = whole.union(box)
    crs = CRS.from_user_input(whole.grid.crs).to_wkt("WKT1_GDAL")
    metadata = "".join(f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>" for key, value in tags.items())
    return (
        f'<VRTDataset rasterXSize="{whole.width}" rasterYSize="{whole.height}"><SRS>{escape(crs)}</SRS>'
        f"<GeoTransform>{', '.join(map(repr, whole.transform.to_gdal()))}</GeoTransform><Metadata>{metadata}</Metadata>"
        + "".join(_virtual_band(number, band, tiles, whole) for number, band in enumerate(bands, 1))
        + "</VRTDataset>\n"
    )


def _virtual_band(number: int, band: Band, tiles: Mapping[Path, PixelBox], whole: PixelBox) -> str:
    return (
        f'<VRTRasterBand dataType="{_GDAL_TYPES[band.dtype]}" band="{number}">'
        f"<Description>{escape(band.name)}</Description><NoDataValue>{band.nodata}</NoDataValue>"
        + (f"<Offset>{band.offset!r}</Offset>" if band.offset else "")
        + (_colour_table(band.colours) if band.colours else f"<Scale>{band.scale!r}</Scale>")
        + "".join(_source(path, band.source, box, whole) for path, box in tiles.items())
        + "</VRTRasterBand>"
    )


def _colour_table(colours: Sequence[str]) -> str:
    entries = "".join(
        '<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*bytes.fromhex(colour[1:])) for colour in colours
    )
    return f"<ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>"


def _source(path: Path, band: int, box: PixelBox, whole: PixelBox) -> str:
    size = f'xSize="{box.width}" ySize="{box.height}"'
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(str(path.absolute()))}</SourceFilename>'
        f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{box.column - whole.column}" yOff="{box.row - whole.row}" {size}/></SimpleSource>'
    )


def box_of(source: rasterio.DatasetReader) -> PixelBox:
    """The pixels of its grid that an open raster covers."""
    grid = Grid(source.crs.to_string(), float(source.transform.a))
    column, row = round(source.transform.c / grid.resolution), round(-source.transform.f / grid.resolution)
    return grid.box(column, row, source.width, source.height)


def write_style(path: Path, names: Sequence[str], colours: Sequence[str]) -> None:
    """Write a QGIS style: beside the map and named like it, QGIS shows the classes by name.

    (GDAL's own place for class names, <map>.aux.xml, is where every GIS leaves its statistics: it would not stay as
    published.)
    """
    entries = "".join(
        f'<paletteEntry value="{value}" label={quoteattr(name)} color="{colour}" alpha="255"/>'
        for value, (name, colour) in enumerate(zip(names, colours, strict=True))
    )
    write_text(
        path,
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.28"><pipe><rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">'
        f"<colorPalette>{entries}</colorPalette></rasterrenderer></pipe></qgis>\n",
    )


def _read_back(path: Path) -> None:
    """Read every block of a mosaic and its overviews: GDAL keeps it to itself when the last writes to a file fail.

    Raises:
        RasterioError: a block or an overview is missing or broken.
    """
    with rasterio.open(path) as source:
        factors, longest = source.overviews(1), max(source.shape)
    if longest > BLOCK * max(factors, default=1):
        raise RasterioIOError("overviews are missing")
    for level in (None, *range(len(factors))):
        options = {} if level is None else {"overview_level": level}
        with rasterio.open(path, **options) as source:
            for _, window in source.block_windows(1):
                source.read(window=window)


@contextmanager
def gdal_errors(path: Path) -> Iterator[None]:
    """Turn what GDAL says while it writes `path` into one clear StoreError.

    Raises:
        StoreError: with GDAL's reason.
    """
    try:
        yield
    except (RasterioError, CPLE_BaseError, SystemError) as error:  # rasterio raises the last where GDAL gives no reason
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: BaseException) -> StoreError:
    """The error to raise where GDAL could not write `path`: its reason, and how much room there is."""
    room = shutil.disk_usage(path.parent).free / 2**20
    return StoreError(
        f"{path}: cannot be written ({_cause(error)}); {room:.0f} MB are free there. Make room if that is too little, "
        "then run the same command again: what is finished is kept."
    )


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def blocks(path: Path) -> Iterator[tuple[np.ndarray, tuple[float, float]]]:
    """((h, w) of the first band, (x, y) of its middle in the CRS of the map), block by block.

    Raises:
        StoreError: a block cannot be read back.
    """
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), rasterio.open(path) as source:
            for _, window in source.block_windows(1):
                x, y = source.transform @ (window.col_off + window.width / 2, window.row_off + window.height / 2)
                yield source.read(1, window=window), (x, y)
    except RasterioError as error:
        raise StoreError(f"{path}: cannot be read back ({_cause(error)}). Run the same command again.") from error
