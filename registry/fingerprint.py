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


def is_piece_of(path: Path, whole: Path) -> str | None:
    """Whether every pixel of the raster `path` is that of the raster `whole` at the same place.

    Returns:
        Where it lies, for a person; None where it is of another grid or kind, reaches beyond, or one pixel differs.

    Raises:
        AuditError: one of them is not a raster.
    """
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    try:
        with _open(path) as piece, _open(whole) as raster:
            if (piece.crs, piece.dtypes, piece.nodatavals) != (raster.crs, raster.dtypes, raster.nodatavals):
                return None
            if (offset := _offset(piece.transform, raster.transform)) is None:
                return None
            left, top = offset
            if min(left, top) < 0 or left + piece.width > raster.width or top + piece.height > raster.height:
                return None
            for first in range(0, piece.height, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, piece.height - first)
                own = piece.read(window=Window(0, first, piece.width, rows))
                if own.tobytes() != raster.read(window=Window(left, top + first, piece.width, rows)).tobytes():
                    return None
            return f"columns {left} to {left + piece.width - 1}, rows {top} to {top + piece.height - 1}"
    except RasterioError as error:
        raise AuditError(f"{path}: cannot be compared with {whole} ({_first(error)}).") from error


def _offset(piece: Any, whole: Any) -> tuple[int, int] | None:
    """Columns and rows between the corners of two transforms; None where they are not of one grid."""
    turned_or_scaled = [abs(getattr(piece, name) - getattr(whole, name)) for name in "abde"]
    columns, rows = (piece.c - whole.c) / whole.a, (piece.f - whole.f) / whole.e
    between = max(abs(columns - round(columns)), abs(rows - round(rows)))
    same_grid = max(turned_or_scaled) < 1e-9 * abs(whole.a) and between < 1e-3
    return (round(columns), round(rows)) if same_grid and not whole.b and not whole.d else None


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
