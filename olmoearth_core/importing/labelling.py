"""The labels of an import: outlines of patches, or a file that the partner has, vector or raster."""

from __future__ import annotations

import glob
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.frame import Span
from olmoearth_core.importing.source import SourceScene, outline
from olmoearth_core.importing.write import write_outlines
from olmoearth_core.labels import table
from olmoearth_core.labels.vector import VectorFile, read_vector
from olmoearth_core.project import MAX_CLASSES
from olmoearth_core.project_labels import possible_range

FOLDER = "labels"
PATCHES = f"{FOLDER}/patches.geojson"
DATE_PROPERTY = "start_datetime"
_RASTERS = (".tif", ".tiff")
_LABELS = (*_RASTERS, ".csv", ".tsv", ".geojson", ".gpkg", ".fgb", ".shp")
"""What a folder of labels is searched for; notes beside them (.txt, .json) stay out."""
_MANY = 20
"""A raster with more values than this is a measurement: which values make a class has to be said."""

Values = str | int | float
ClassValues = list[Values]


@dataclass(frozen=True)
class Measured:
    """What was measured: labels of a regression.

    Attributes:
        name: property of vector files, column of CSV tables; rasters hold it in band 1.
        limits: the least and the largest value that is possible.
        unit: "%", "t/ha".
    """

    name: str
    limits: tuple[float, float]
    unit: str = ""


@dataclass(frozen=True)
class LabelSet:
    """The labels of an import.

    Attributes:
        files: path below the import -> the partner's file it is a copy of; None for the outlines of patches.
        classes: class -> the values that mean it; none where the class's own name does.
        counts: class -> how many features have it; empty for rasters.
        class_property: of vector files.
        undated: names of the partner's files whose labels say no date.
        day: what those are true for, where the partner says so.
        crs: of the coordinates in CSV tables, where the partner says so.
        measured: of values instead of classes.
        spans: the different (first, last) days that labels are true for; those that say no last day are true for one.
        of_windows: each label is a class of the window around it, not of its pixels.
        date_property: of vector files and tables, with the day a label is true for.
    """

    files: Mapping[str, Path | None]
    classes: Mapping[str, ClassValues]
    counts: Mapping[str, int]
    class_property: str = "class"
    undated: Sequence[str] = ()
    day: date | None = None
    crs: str | None = None
    measured: Measured | None = None
    of_windows: bool = False
    spans: frozenset[Span] = frozenset()
    date_property: str = DATE_PROPERTY


def patch_labels(scenes: Sequence[SourceScene]) -> LabelSet:
    """One label a patch.

    Raises:
        SourceError: too many classes, or only one.
    """
    counts = Counter(scene.label for scene in scenes if scene.label is not None)
    classes: dict[str, ClassValues] = {name: [] for name in sorted(counts)}
    _check_number(classes, "the patches")
    spans = frozenset((scene.moment.date(),) * 2 for scene in scenes if scene.label is not None)
    return LabelSet({PATCHES: None}, classes, dict(sorted(counts.items())), of_windows=True, spans=spans)


def label_files(given: Sequence[Path]) -> list[Path]:
    """The files of labels in what is given, with those of folders, by name, in a folder's place.

    Raises:
        SourceError: a folder holds none.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir() and path.suffix.lower() != ".gdb":  # which GDAL reads as a file
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _LABELS)
            if not inside:
                raise SourceError(f"{path}: a folder without a file of labels ({', '.join(sorted(_LABELS))}).")
            found += inside
        else:
            found.append(path)
    return found


def partners_labels(
    files: Sequence[Path],
    class_property: str,
    classes: Mapping[str, ClassValues],
    day: date | None = None,
    crs: str | None = None,
    date_property: str = DATE_PROPERTY,
) -> LabelSet:
    """The labels in a partner's own files.

    Args:
        class_property: property of vector files, column of CSV tables, with the class.
        classes: class -> values of the raster or property that mean it; empty to take them from the files.
        day: what labels without a date are true for.
        crs: of the coordinates in CSV tables that are not longitude and latitude.
        date_property: with the day a label is true for.

    Raises:
        SourceError: a file or its classes cannot be read, or there are too many or too few.
        LabelError: a vector file that is none.
    """
    names: dict[str, ClassValues] = {}
    counts: Counter[str] = Counter()
    copies: dict[str, Path | None] = {}
    undated: list[str] = []
    spans: set[Span] = set()
    for path in files:
        if (place := f"{FOLDER}/{path.name}") in copies:
            raise SourceError(f"{path}: a second file named {path.name} for --labels; rename one")
        copies[place] = path
        if path.suffix.lower() in _RASTERS:
            undated.append(path.name)
            if not classes:
                names |= {str(value): [value] for value in _raster_values(path)}
            else:
                _raster_values(path, up_to=None)
            continue
        found, own = _vector_classes(path, class_property, crs, date_property)
        if own is None:
            undated.append(path.name)
        spans |= own or set()
        counts.update(found)
        if not classes:
            names |= {name: [] for name in sorted(found)}
    tables = any(path.suffix.lower() in table.SUFFIXES for path in files)
    chosen = dict(classes or names)
    _check_number(chosen, ", ".join(path.name for path in files))
    return LabelSet(
        copies, chosen, dict(sorted(counts.items())), class_property, undated, day, crs if tables else None,
        spans=_all_spans(spans, undated, day), date_property=date_property,
    )  # fmt: skip


def measured_labels(
    files: Sequence[Path],
    measured: Measured,
    day: date | None = None,
    crs: str | None = None,
    date_property: str = DATE_PROPERTY,
) -> LabelSet:
    """The measured values in a partner's own files; arguments and errors as for `partners_labels`."""
    copies: dict[str, Path | None] = {}
    undated: list[str] = []
    spans: set[Span] = set()
    for path in files:
        if (place := f"{FOLDER}/{path.name}") in copies:
            raise SourceError(f"{path}: a second file named {path.name} for --labels; rename one")
        copies[place] = path
        if path.suffix.lower() in _RASTERS:
            _raster_values(path, up_to=None, bands=None)
            undated.append(path.name)
            continue
        file, kind = read_label_file(path, crs)
        if measured.name not in file.columns:
            found = ", ".join(file.columns) or "none"
            raise SourceError(f"{path}: has no {kind} '{measured.name}'; it has: {found}. Give it with --value.")
        own = _spans(file, date_property)
        if own is None:
            undated.append(path.name)
        spans |= own or set()
    tables = any(path.suffix.lower() in table.SUFFIXES for path in files)
    return LabelSet(
        copies, {}, {}, undated=undated, day=day, crs=crs if tables else None, measured=measured,
        spans=_all_spans(spans, undated, day), date_property=date_property,
    )  # fmt: skip


def write_labels(folder: Path, labels: LabelSet, scenes: Sequence[SourceScene]) -> None:
    """Write or copy the label files below `folder`."""
    for place, source in labels.files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if source is not None:
            copy_label_file(source, path.parent)
            continue
        write_outlines(
            path,
            (
                (
                    {
                        "class": scene.label,
                        "patch": scene.id,
                        "start_datetime": f"{scene.moment:%Y-%m-%dT00:00:00Z}",
                        "end_datetime": f"{scene.moment:%Y-%m-%dT23:59:59Z}",
                    },
                    outline(scene.finest),
                )
                for scene in scenes
            ),
        )


def copy_label_file(source: Path, folder: Path) -> None:
    """Copy a file into a folder; with a shapefile what lies beside it."""
    beside = source.parent.glob(f"{glob.escape(source.stem)}.*") if source.suffix.lower() == ".shp" else [source]
    for file in sorted(beside):
        shutil.copyfile(file, folder / file.name)


def parse_classes(texts: Sequence[str]) -> dict[str, ClassValues]:
    """--class forest=30-100 --class open=0-29 -> {"forest": ["30-100"], "open": ["0-29"]}; commas part values.

    Raises:
        SourceError: a text without name or values, or a name that stands twice.
    """
    classes: dict[str, ClassValues] = {}
    for text in texts:
        name, _, values = text.partition("=")
        parts: ClassValues = [_number(value.strip()) for value in values.split(",") if value.strip()]
        if not name.strip() or not parts:
            raise SourceError(f"--class {text}: expected NAME=VALUES, for example --class forest=30-100")
        if name.strip() in classes:
            raise SourceError(f"--class {name.strip()} stands twice; give its values in one, parted by commas")
        classes[name.strip()] = parts
    return classes


def parse_measured(name: str | None, limits: str | None, unit: str | None, *, classes: bool) -> Measured | None:
    """--value height --range 0,50 --unit m; None where none of them is given.

    Raises:
        SourceError: one lacks, classes are given as well, or the range is none.
    """
    if name is None:
        if limits is not None or unit is not None:
            raise SourceError("--range and --unit are about measured values: name them with --value.")
        return None
    if classes:
        raise SourceError(f"--value {name}: labels are values or classes; leave out --class, or --value.")
    if limits is None:
        raise SourceError(f"--value {name}: say which values are possible, for example --range 0,100.")
    ends = [_number(part.strip()) for part in limits.split(",")]
    if len(ends) == 2 and all(isinstance(end, int | float) for end in ends):
        low, high = (float(end) for end in ends)
        if np.isfinite([low, high]).all() and low < high:
            try:
                return Measured(name, possible_range(low, high), unit or "")
            except ValueError as error:
                raise SourceError(f"--range {limits}: {error}.") from None
    raise SourceError(f"--range {limits}: expected the least and the largest value that is possible, like 0,100")


def _number(text: str) -> Values:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_number(classes: Mapping[str, Any], where: str) -> None:
    if len(classes) > MAX_CLASSES:
        raise SourceError(f"{where}: {len(classes)} classes; at most {MAX_CLASSES} are allowed. Join some of them.")
    if len(classes) < 2:
        raise SourceError(
            f"{where}: only {'the class ' + next(iter(classes)) if classes else 'no class'} found; "
            "a map needs two classes at least"
        )


def _all_spans(found: set[Span], undated: Sequence[str], day: date | None) -> frozenset[Span]:
    """With the day that the partner gave for those that say none."""
    return frozenset(found | ({(day, day)} if undated and day is not None else set()))


def _spans(file: VectorFile, date_property: str) -> set[Span] | None:
    """The different (first, last) days that features are true for; None where they say no dates."""
    starts = file.columns.get(date_property)
    if starts is None:
        return None
    ends = file.columns.get("end_datetime", starts)
    known = ((_day(start), _day(end)) for start, end in zip(starts, ends, strict=True))
    return {(start, end if end is not None and end > start else start) for start, end in known if start is not None}


def _day(text: Any) -> date | None:
    try:
        return date.fromisoformat(str(text)[:10])
    except ValueError:
        return None  # reading the labels will say so


def _vector_classes(path: Path, key: str, crs: str | None, date_property: str) -> tuple[Counter[str], set[Span] | None]:
    """(features of each class, days they are true for or None) of a vector file or CSV table."""
    file, kind = read_label_file(path, crs)
    if key not in file.columns:
        found = ", ".join(file.columns) or "none"
        raise SourceError(f"{path}: has no {kind} '{key}'; it has: {found}. Give --class-property.")
    values = file.columns[key]
    missing = [i for i, value in enumerate(values) if value is None or value != value or not str(value).strip()]
    if missing:
        raise SourceError(f"{path}: {len(missing)} features have no {key} (the first is feature {missing[0]})")
    names = (int(v) if isinstance(v, float | np.floating) and float(v).is_integer() else v for v in values)
    return Counter(str(name).strip() for name in names), _spans(file, date_property)


def read_label_file(path: Path, crs: str | None) -> tuple[VectorFile, str]:
    """(vector file or CSV table, what its properties are called).

    Raises:
        LabelError: it is none.
    """
    if path.suffix.lower() in table.SUFFIXES:
        return table.read_table(path, str(path), crs), "column"
    return read_vector(path, str(path)), "property"


def _raster_values(path: Path, up_to: int | None = _MANY, bands: int | None = 1) -> list[int]:
    """The values of a label raster that are not nodata, at most `up_to` different ones; none when `up_to` is None."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            if file.crs is None or bands not in (None, file.count):
                raise SourceError(
                    f"{path}: " + ("states no CRS" if file.crs is None else f"has {file.count} bands; labels have one")
                )
            if up_to is None:
                return []
            pixels, nodata = file.read(1), file.nodata
    except RasterioError as error:
        raise SourceError(
            f"{path}: is no raster of labels that can be read ({' '.join(str(error).split())})"
        ) from error
    values = np.unique(pixels[np.isfinite(pixels)])
    values = values[values != nodata] if nodata is not None else values
    if len(values) > up_to or (values != np.rint(values)).any():
        raise SourceError(
            f"{path}: holds {len(values)} different values ({values[0]:g} to {values[-1]:g}), which are no classes. "
            "Say which values make one, for example --class forest=30-100 --class open=0-29."
        )
    return [int(value) for value in values]
