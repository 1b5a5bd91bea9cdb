"""Patches with a class each: folders named by the class, or a table of files and classes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.bands import band_in_name
from olmoearth_core.importing.source import Found, Options, SourceScene, unique_id
from olmoearth_core.importing.tiffs import check_band_counts, layers_of, no_date, offset_told, read_header
from olmoearth_core.importing.times import moment_in_name, moment_of, parse_moment, read_dates, table_rows

TABLE = "labels.csv"


def looks_like_patches(folder: Path, files: Sequence[Path]) -> bool:
    """Whether a folder holds patches: a labels.csv, or files in folders named neither by bands nor by dates."""
    if (folder / TABLE).is_file():
        return True
    homes = {path.parent for path in files}
    return (
        len(homes) > 1
        and all(home.parent == folder and moment_in_name(home.name) is None for home in homes)
        and all(band_in_name(path.stem)[0] is None and moment_in_name(path.stem) is None for path in files)
    )


def read_patches(folder: Path, files: Sequence[Path], options: Options) -> Found:
    """A scene for each patch, with its class.

    The classes stand in `folder`/labels.csv (columns file, class, and date if there is one) or are the names of the
    folders that hold the files.

    Args:
        files: the GeoTIFFs below `folder`, each with all bands.

    Raises:
        SourceError: a class or a date that cannot be told, a file that is not there or not a whole patch.
    """
    table = read_dates(options.dates) if options.dates else {}
    classes, dates, warnings = _classes(folder, files)
    scenes: list[SourceScene] = []
    headers = [read_header(path, options) for path in classes]
    check_band_counts(headers)
    taken: set[str] = set()
    undated: list[Path] = []
    stems = [path.stem for path in classes]
    for header, label in zip(headers, classes.values(), strict=True):
        path = header.path
        layers, _ = layers_of(header, options)
        moment = dates.get(path) or moment_of(path, folder, header.tags, table) or options.date
        if moment is None:
            undated.append(path)
            continue
        name = path.stem if stems.count(path.stem) == 1 else path.relative_to(folder).with_suffix("").as_posix()
        scenes.append(SourceScene(unique_id(name, taken), moment, dict(sorted(layers.items())), label))
    if undated:
        raise SourceError(no_date(undated))
    extra = [folder / TABLE] if (folder / TABLE).is_file() else []
    return Found("patches", scenes, [*extra, *classes], [*warnings, *offset_told(headers, options)])


def _classes(folder: Path, files: Sequence[Path]) -> tuple[dict[Path, str], dict[Path, datetime], list[str]]:
    """File -> class, file -> date where the table has one, and what to warn of."""
    table = folder / TABLE
    if not table.is_file():
        if loose := [path for path in files if path.parent == folder]:
            raise SourceError(
                f"{loose[0]}: has no class: it lies in no folder named by one, and there is no {TABLE} "
                "(columns file, class)"
            )
        return {path: path.relative_to(folder).parts[0] for path in files}, {}, []
    classes: dict[Path, str] = {}
    dates: dict[Path, datetime] = {}
    for line, row in table_rows(table, ("file", "class")):
        path, where = folder / row["file"], f"{table}: line {line}"
        if not row["file"] or not path.is_file():
            raise SourceError(f"{where} names '{row['file']}', which is not there; paths start at the table's folder")
        if not row["class"]:
            raise SourceError(f"{where}: {row['file']} has no class")
        if classes.setdefault(path, row["class"]) != row["class"]:
            raise SourceError(f"{where}: {row['file']} is {row['class']} here and {classes[path]} further up")
        if row.get("date"):
            moment = parse_moment(row["date"])
            if moment is None:
                raise SourceError(f"{where} has the date '{row['date']}'; expected one like 2024-05-01")
            dates[path] = moment
    if not classes:
        raise SourceError(f"{table}: names no file")
    unnamed = [path for path in files if path not in classes]
    warning = f"{len(unnamed)} GeoTIFFs are not in {TABLE} and are left out"
    return classes, dates, [f"{warning} ({unnamed[0].name}, ...)"] if unnamed else []
