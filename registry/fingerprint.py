"""What a raster shows, apart from how it is stored: finds a map again whose tags were stripped."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

from olmoearth_core.digest import canonical_json
from registry.errors import AuditError

BLOCK_ROWS = 512


def pixels_sha256(path: Path) -> str:
    """sha256 over size, CRS, transform, types, nodata, colours and all pixels of a raster; tags do not count.

    Raises:
        AuditError: the file is not a raster.
    """
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    digest = hashlib.sha256()
    try:
        with _open(path) as raster:
            header = {
                "size": [raster.count, raster.height, raster.width],
                "crs": raster.crs.to_wkt() if raster.crs else None,
                "transform": list(raster.transform)[:6],
                "types": list(raster.dtypes),
                "nodata": [None if value is None else repr(value) for value in raster.nodatavals],
                "colours": [_colours(raster, band) for band in raster.indexes],
            }
            digest.update(canonical_json(header).encode())
            for row in range(0, raster.height, BLOCK_ROWS):
                window = Window(0, row, raster.width, min(BLOCK_ROWS, raster.height - row))
                digest.update(raster.read(window=window).tobytes())
    except RasterioError as error:
        raise AuditError(f"{path}: not a raster that GDAL can read whole ({_first(error)}).") from error
    return digest.hexdigest()


def tags_of(path: Path) -> dict[str, str]:
    """The platform's tags (OLMOEARTH_*) of a raster.

    Raises:
        AuditError: the file is not a raster.
    """
    from rasterio.errors import RasterioError

    try:
        with _open(path) as raster:
            return {name: value for name, value in raster.tags().items() if name.startswith("OLMOEARTH_")}
    except RasterioError as error:
        raise AuditError(f"{path}: not a raster that GDAL can read ({_first(error)}).") from error


def _open(path: Path) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # any file may be asked about
        return rasterio.open(path)


def _colours(raster: Any, band: int) -> dict[str, list[int]] | None:
    try:
        table = raster.colormap(band)
    except ValueError:  # the band has none
        return None
    return {str(value): list(colour) for value, colour in table.items()}


def _first(error: Exception) -> str:
    return (" ".join(str(error).split()) or error.__class__.__name__)[:200]
