"""Labels in a CSV table: a place, a class and a date in each row, as spreadsheets and field apps write them.

The place is a pair of columns (longitude and latitude, or x and y) or one of WKT. Columns are parted by commas,
semicolons, tabs or bars, whichever the head uses; decimals may have a comma.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from olmoearth_core.errors import LabelError
from olmoearth_core.labels.vector import Problem, VectorFile, broken, impossible

SUFFIXES = (".csv", ".tsv", ".txt")
_DEGREES = (("longitude", "latitude"), ("lon", "lat"), ("long", "lat"), ("lng", "lat"))
_METRES = (("x", "y"), ("easting", "northing"))
_WKT = ("wkt", "geometry", "geom", "the_geom")
_DELIMITERS = ",;\t|"


def read_table(path: Path, source: str, crs: str | None) -> VectorFile:
    """Read a CSV table with a geometry in each row.

    Args:
        path: the file, UTF-8.
        source: its name in messages (as project.yaml writes it).
        crs: labels.crs. Columns of longitude and latitude are in degrees whatever it says.

    Raises:
        LabelError: missing, no table, without rows, or without columns that say where a label is.
    """
    if not path.exists():
        raise LabelError(f"{source}: no such file (looked for {path}). Put it there, or correct its name.")
    columns, problems = _read_columns(path, source)
    names = {name.strip().lower(): name for name in reversed(list(columns))}
    pair = next((pair for pair in (*_DEGREES, *_METRES) if names.keys() >= set(pair)), None)
    wkt = next((name for name in _WKT if name in names), None)
    if pair is None and wkt is None:
        raise LabelError(
            f"{source}: no column says where a label is; its columns are: {', '.join(columns)}. Name a pair "
            "longitude and latitude, or x and y (with labels.crs), or one column wkt."
        )
    file_crs = _crs(source, crs, in_degrees=pair in _DEGREES)
    if pair is not None:
        geometries, reasons = _points(columns, names[pair[0]], names[pair[1]])
    else:
        texts = columns[names[str(wkt)]]
        geometries = shapely.from_wkt(texts, on_invalid="ignore")
        unread = np.flatnonzero([g is None for g in geometries])
        reasons = {int(k): f"has the {wkt} '{texts[k][:40]}', which is no geometry" for k in unread}
        reasons |= {k: why for k, why in broken(geometries).items() if k not in reasons}
    if why := impossible(file_crs, geometries):
        raise LabelError(f"{source}: {why}")
    file = VectorFile(file_crs, geometries, columns, (), rows=True)
    problems += [Problem(source, f"{file.which(k)} {reason}") for k, reason in sorted(reasons.items())]
    geometries[list(reasons)] = None
    return VectorFile(file_crs, geometries, columns, tuple(problems), rows=True)


def _read_columns(path: Path, source: str) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """(column -> (N,) text, rows that have too many or too few fields)."""
    import pyarrow as pa
    from pyarrow import csv

    problems: list[Problem] = []

    def odd(row: Any) -> str:
        fields = f"{row.actual_columns} fields where the head has {row.expected_columns}"
        problems.append(Problem(source, f"row {row.number} has {fields}: '{str(row.text)[:60]}'"))
        return "skip"

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
        delimiter = max(_DELIMITERS, key=head.count)
        names = [name.strip().strip('"') for name in head.rstrip("\r\n").split(delimiter)]
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),  # only then are rows counted
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=odd),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except (UnicodeDecodeError, pa.ArrowInvalid, OSError) as error:
        raise LabelError(
            f"{source}: not a table that can be read ({' '.join(str(error).split())[:120]}). "
            "Save it as CSV in UTF-8, with the names of the columns in the first row."
        ) from error
    if doubled := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise LabelError(f"{source}: the column {', '.join(doubled)} is there more than once. Name each once.")
    if table.num_rows == 0 and problems:
        more = f" ({len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise LabelError(f"{source}: {problems[0].message}{more}. Give every row the columns of the head.")
    if table.num_rows == 0:
        raise LabelError(f"{source}: holds no rows. Write some into it, or leave the file out.")
    text = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    return {name.strip(): text[name].to_numpy() for name in text.column_names}, problems


def _points(columns: dict[str, np.ndarray], x: str, y: str) -> tuple[np.ndarray, dict[int, str]]:
    """(points (N,), row -> what is wrong with it)."""
    numbers = {name: _numbers(columns[name]) for name in (x, y)}
    reasons: dict[int, str] = {}
    for name, values in numbers.items():
        for k in np.flatnonzero(~np.isfinite(values)).tolist():
            text = str(columns[name][k]).strip()
            found = f"has the {name} '{text[:40]}'; expected a number" if text else f"has no {name}"
            reasons[k] = f"{reasons[k]} and {found}" if k in reasons else found
    good = np.isfinite(numbers[x]) & np.isfinite(numbers[y])
    points = np.full(len(good), None, dtype=object)
    points[good] = shapely.points(numbers[x][good], numbers[y][good])
    return points, reasons


def _numbers(texts: np.ndarray) -> np.ndarray:
    """(N,) float64; NaN where a text is no number. One comma is a decimal point."""
    import pandas as pd

    series = pd.Series(texts, dtype="string").str.strip().str.replace(",", ".", n=1, regex=False)
    return np.asarray(pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def _crs(source: str, crs: str | None, *, in_degrees: bool) -> CRS:
    if crs is None and not in_degrees:
        raise LabelError(
            f"{source}: states no CRS. Set labels.crs in project.yaml (`olmoearth init` and `import`: --crs) to that "
            "of its coordinates, such as EPSG:32631."
        )
    try:
        stated = CRS.from_user_input(crs or "EPSG:4326")
    except CRSError as error:
        raise LabelError(f"{source}: labels.crs '{crs}' is no CRS; allowed is a code like EPSG:32631.") from error
    return CRS.from_epsg(4326) if in_degrees and not stated.is_geographic else stated
