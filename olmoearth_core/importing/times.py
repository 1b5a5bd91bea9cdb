"""When a scene was taken: from a table, a file's name, its tags, or the partner's word."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from olmoearth_core.errors import SourceError
from olmoearth_core.section import FIRST_YEAR, LAST_YEAR

_IN_NAME = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<gap>[-_.]?)(?P<month>0[1-9]|1[0-2])(?P=gap)(?P<day>0[1-9]|[12]\d|3[01])"
    r"(?:T(?P<hour>[01]\d|2[0-3])[-:_]?(?P<minute>[0-5]\d)[-:_]?(?P<second>[0-5]\d))?(?!\d)"
)
_TAGS = ("datetime", "date", "acquisitiondatetime", "acquisition_date", "acquisition_datetime", "sensing_time")
"""Tags that tell the acquisition, in lower case. TIFFTAG_DATETIME is none: programs write the time of writing there."""


def parse_moment(text: str) -> datetime | None:
    """ISO 8601, or as TIFF writes it (2024:05:01 10:40:21); UTC where no zone is given. None for anything else."""
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip())
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=0) if FIRST_YEAR <= moment.year <= LAST_YEAR else None


def moment_in_name(name: str) -> datetime | None:
    """The first date (and time after a T) in a name: 20240501, 2024-05-01, 20240501T104021."""
    for found in _IN_NAME.finditer(name):
        parts = [int(found[key] or 0) for key in ("year", "month", "day", "hour", "minute", "second")]
        try:
            year, month, day, hour, minute, second = parts
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            continue  # 31 June
    return None


def moment_of(path: Path, root: Path, tags: Mapping[str, str], table: Mapping[str, datetime]) -> datetime | None:
    """When the scene in a file was taken; None when nothing tells.

    Looked for in this order: its row in `table`, its name, the names of its folders below `root`, its tags.
    """
    below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    for key in (below.as_posix(), path.name, path.stem):
        if key in table:
            return table[key]
    for name in (path.stem, *(folder.name for folder in below.parents)):
        if (moment := moment_in_name(name)) is not None:
            return moment
    lower = {key.lower(): value for key, value in tags.items()}
    return next((m for tag in _TAGS if tag in lower and (m := parse_moment(lower[tag])) is not None), None)


def read_dates(path: Path) -> dict[str, datetime]:
    """The table of --dates: file (as a path below the folder, or its name) -> UTC.

    Raises:
        SourceError: no such file, no such columns, or a row without a date.
    """
    dates = {}
    for line, row in table_rows(path, ("file", "date")):
        if (moment := parse_moment(row["date"])) is None:
            raise SourceError(f"{path}: line {line} has the date '{row['date']}'; expected one like 2024-05-01")
        dates[row["file"]] = moment
    return dates


def table_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, {column: text}) of a CSV table with a header, UTF-8, comma or semicolon; empty rows are skipped.

    Raises:
        SourceError: no such file, no text, or a needed column is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is no text file (UTF-8); save it as CSV in UTF-8") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    lines = text.splitlines()
    separator = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=separator)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if missing := [name for name in needed if name not in reader.fieldnames]:
        found = ", ".join(reader.fieldnames) or "none"
        raise SourceError(f"{path}: has no column {', '.join(missing)}; its columns are: {found}")
    for row in reader:
        values = {key: (value or "").strip() for key, value in row.items() if key}
        if any(values.values()):
            yield reader.line_num, values
