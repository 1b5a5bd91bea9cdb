"""A partner's own files to a local STAC catalogue with labels, whole or not at all.

target/catalog.json            -> <collection>/collection.json -> <scene>/<scene>.json with <band>.tif beside it
target/labels/, area.geojson   what the classes are true for, and what the scenes cover
target/import.json             what it was made from
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from olmoearth_core.digest import sha256_file, sha256_json
from olmoearth_core.errors import SourceError
from olmoearth_core.importing.bands import CIRRUS, MASK
from olmoearth_core.importing.cubes import is_cube, read_cubes
from olmoearth_core.importing.frame import Frame
from olmoearth_core.importing.labelling import (
    ClassValues,
    LabelSet,
    Measured,
    measured_labels,
    partners_labels,
    patch_labels,
    write_labels,
)
from olmoearth_core.importing.outlines import Outlines, read_outlines
from olmoearth_core.importing.patches import looks_like_patches, read_patches
from olmoearth_core.importing.source import Found, Level, Options
from olmoearth_core.importing.starter import frame_for, starter
from olmoearth_core.importing.tiffs import SUFFIXES, find_tiffs, read_scenes
from olmoearth_core.importing.write import footprint, write_catalogue, write_outlines
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.project import PROJECT_FILE, parse_project
from olmoearth_core.settings_edit import quoted, set_keys
from olmoearth_core.store import disk_errors, publish_folder, write_json, write_text

ABOUT = "import.json"
AREA = "area.geojson"
OUTLINES = (".geojson", ".json")
_VERSION = 1
"""Raised when the same files make another import."""


@dataclass(frozen=True)
class Labelling:
    """What a partner says about labels.

    Attributes:
        files: vector files or rasters of labels.
        classes: class -> the values that mean it; empty to take the classes from the files.
        class_property: property of vector files, column of CSV tables, with the class.
        day: what labels that say no date are true for; the day of the imagery when not given.
        crs: of CSV tables with x and y.
        measured: labels are values of this, not classes.
    """

    files: Sequence[Path] = ()
    classes: Mapping[str, ClassValues] | None = None
    class_property: str = "class"
    day: date | None = None
    crs: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        folder: the import.
        kind: scenes, patches, cubes, or outlines (which have no imagery).
        level: processing level of the imagery.
        scenes: how many.
        days: the first and the last of the scenes, or of the outlines' times.
        bands: official name -> metres or degrees of a pixel, the finest there is.
        missing: band -> scenes that lack it.
        crs: of the scenes.
        classes: class -> features with it (0 for those of rasters).
        linked: assets left where they were.
        warnings: sentences a partner should read.
        project: the project folder that was written, if one was asked for.
        text: the project.yaml that fits; empty where no labels are known.
        frame: the framing that fits outlines.
    """

    folder: Path
    kind: str
    level: Level | None
    scenes: int
    days: tuple[date, date]
    bands: Mapping[str, float]
    missing: Mapping[str, int]
    crs: Sequence[str]
    classes: Mapping[str, int]
    linked: int
    warnings: Sequence[str]
    project: Path | None
    text: str
    frame: Frame | None = None


def import_data(
    sources: Sequence[Path],
    target: Path,
    options: Options | None = None,
    *,
    labelling: Labelling | None = None,
    project: Path | None = None,
    progress: Progress | None = None,
    again: bool = False,
) -> Imported:
    """Import `sources` into the folder `target`. The same files and options give the same bytes.

    Args:
        sources: a folder, or files of one kind: GeoTIFFs, NetCDF files, Zarr stores, or GeoJSON of the older form.
        target: a new folder, an empty one, or a former import of the same files, which is replaced once the new one
            is whole.
        options: what the files do not say themselves.
        labelling: labels that are no patches' classes.
        project: a project folder to make, with a project.yaml that names the import.
        progress: listener.
        again: replace a former import of other files, too.

    Raises:
        SourceError: the files cannot be imported as they are; nothing is written then.
        LabelError: a label file that is none.
        ProjectError: a name that cannot be a project's.
        StoreError: the disk is full, or the place cannot be written.
    """
    options, labelling = options or Options(), labelling or Labelling()
    target = target.expanduser().absolute().parent.resolve() / target.name
    _refuse_target(target, [*sources, *labelling.files], project)
    work = target.with_name(f".{target.name}.importing")
    was_there = target.parent.is_dir()
    shutil.rmtree(work, ignore_errors=True)  # of an import that was killed
    try:
        with ExitStack() as stack, disk_errors(target):
            if all(path.suffix.lower() in OUTLINES for path in sources):
                _refuse_other(target, sources, again)
                imported = _import_outlines(sources, target, work, labelling, project)
            else:
                found = find(sources, options, stack)
                _refuse_other(target, found.files, again)
                title = sources[0].stem if len(sources) == 1 else found.scenes[0].id
                imported = _import_scenes(found, title, target, work, options, labelling, project, progress or Silent())
            publish_folder(work, target, target.with_name(f".{target.name}.old"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not was_there:
            with suppress(OSError):  # not empty: the import is in it
                target.parent.rmdir()
    if project is not None:
        if target.is_relative_to(project.resolve()) and not (project / ".gitignore").exists():
            write_text(project / ".gitignore", f"/{target.relative_to(project.resolve()).as_posix()}\n")
        write_text(project / PROJECT_FILE, imported.text)
    return imported


def find(sources: Sequence[Path], options: Options, stack: ExitStack) -> Found:
    """Tell of what kind the sources are, and read their headers.

    Raises:
        SourceError: nothing there that can be imported, or not of one kind.
    """
    for path in sources:
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder")
    folders = [path for path in sources if path.is_dir() and not is_cube(path)]
    if folders and len(sources) > 1:
        raise SourceError(f"{folders[0]}: is a folder; name one folder, or files of one kind")
    if folders:
        return _find_in(folders[0], options, stack)
    cubes = [path for path in sources if is_cube(path)]
    tiffs = [path for path in sources if path.suffix.lower() in SUFFIXES]
    if len(cubes) == len(sources):
        return read_cubes(sources, options, stack)
    if len(tiffs) == len(sources):
        root = Path(os.path.commonpath([path.absolute().parent for path in tiffs]))
        return read_scenes([path.absolute() for path in tiffs], root, options)
    strange = next((path for path in sources if path not in cubes and path not in tiffs), sources[0])
    raise SourceError(
        f"{strange}: cannot be imported with the others. Name a folder, or files of one kind: GeoTIFF (.tif), "
        "NetCDF (.nc), Zarr stores, or GeoJSON."
    )


def _find_in(folder: Path, options: Options, stack: ExitStack) -> Found:
    cubes = sorted(path for path in folder.iterdir() if is_cube(path))
    stores = [path for path in cubes if path.is_dir()]
    files = [path for path in find_tiffs(folder, options.ignore) if not any(map(path.is_relative_to, stores))]
    kind = options.kind or ("cubes" if cubes else "patches" if looks_like_patches(folder, files) else "scenes")
    if not (cubes if kind == "cubes" else files):
        wanted = "NetCDF file or Zarr store" if kind == "cubes" else "GeoTIFF (.tif), NetCDF file or Zarr store"
        raise SourceError(f"{folder}: holds no {wanted}; name the folder that holds the imagery")
    if kind == "cubes":
        found = read_cubes(cubes, options, stack)
        told = f"{len(files)} GeoTIFFs beside the cubes are not imported; a raster of labels is given by --labels"
        return replace(found, warnings=[*found.warnings, told]) if files else found
    return read_patches(folder, files, options) if kind == "patches" else read_scenes(files, folder, options)


def _import_scenes(
    found: Found, title: str, target: Path, work: Path, options: Options, labelling: Labelling,
    project: Path | None, progress: Progress,
) -> Imported:  # fmt: skip
    bands = sorted({band for scene in found.scenes for band in scene.layers})
    missing = {band: sum(band not in scene.layers for scene in found.scenes) for band in bands}
    level: Level = options.level or ("L1C" if CIRRUS in bands else "L2A")
    days = sorted(scene.moment.date() for scene in found.scenes)
    labels = _labels(found, labelling)
    area = footprint(found.scenes)
    yaml = "" if labels is None else starter("imported", _seen_from(project, target), found, labels, area)
    yaml = _named(yaml, project, target)
    tally = write_catalogue(work, found.scenes, title, level, options.link, progress)
    if labels is not None:
        write_labels(work, labels, found.scenes)
    write_outlines(work / AREA, [({"name": "imagery"}, area)])
    warnings = [*found.warnings, *_warnings(level, missing, len(found.scenes)), *tally.warnings()]
    if labels is not None and labels.undated and labelling.day is None:
        warnings.append(
            f"{', '.join(labels.undated)} say no date: labels.date is set to that of the imagery, "
            f"{frame_for(found, labels).anchor}. If they are true for another day, give it with --label-date"
        )
    _write_about(work, found, level, options, labelling, warnings)
    return Imported(
        folder=target, kind=found.kind, level=level, scenes=len(found.scenes), days=(days[0], days[-1]),
        bands={b: min(s.layers[b].grid.resolution for s in found.scenes if b in s.layers) for b in bands},
        missing={band: count for band, count in missing.items() if count},
        crs=sorted({scene.finest.crs for scene in found.scenes}),
        classes={} if labels is None else {name: labels.counts.get(name, 0) for name in labels.classes},
        linked=tally.linked, warnings=warnings, project=project, text=yaml,
    )  # fmt: skip


def _import_outlines(
    paths: Sequence[Path], target: Path, work: Path, labelling: Labelling, project: Path | None
) -> Imported:
    outlines = read_outlines(paths, labelling.class_property)
    for name, features in outlines.labels.items():
        write_outlines(work / "labels" / f"{Path(name).stem}.geojson", features)
    write_outlines(work / AREA, [({"name": paths[0].stem}, outlines.area)])
    starts, ends = [start for start, _ in outlines.times], [end for _, end in outlines.times]
    warnings = []
    if len(set(outlines.requests)) > 1:
        warnings.append(
            f"the areas have {len(set(outlines.requests))} different spans of time, a map has one date (map.date); "
            "import them one by one if each needs its own"
        )
    write_json(work / ABOUT, {"version": _VERSION, "kind": "outlines", "sources": [_named_digest(p) for p in paths]})
    return Imported(
        folder=target, kind="outlines", level=None, scenes=0, days=(min(starts).date(), max(ends).date()), bands={},
        missing={}, crs=[], classes=outlines.counts, linked=0, warnings=warnings, project=project,
        text=_outlines_text(outlines, target, work, project), frame=outlines.frame,
    )  # fmt: skip


def _outlines_text(outlines: Outlines, target: Path, work: Path, project: Path | None) -> str:
    """The blank template, filled in from outlines; empty where no project is asked for."""
    from olmoearth_core.templates import Answers, find_template
    from olmoearth_core.templates.fill import fill
    from olmoearth_core.templates.template import PLACEHOLDER

    if project is None:
        return ""
    if not outlines.counts:
        raise SourceError("--project needs labels: name the file of the annotations beside the request.")
    text = find_template("blank").texts[PROJECT_FILE].replace(PLACEHOLDER, quoted(project.resolve().name))
    files = sorted((work / "labels").iterdir())
    text = fill(text, Answers(files, class_property="class", day=outlines.frame.anchor), project).text
    seen = _seen_from(project, target)
    text = set_keys(text, "labels", {"files": [f"{seen}/labels/{path.name}" for path in files]})
    text = set_keys(text, "imagery", {"framing": yaml.safe_load(outlines.frame.text)})
    text = set_keys(text, "map", {"area": f"{seen}/{AREA}"})
    parse_project(text, str(project / PROJECT_FILE))
    return text


def _labels(found: Found, labelling: Labelling) -> LabelSet | None:
    if labelling.files:
        if labelling.measured is not None:
            labels = measured_labels(labelling.files, labelling.measured, labelling.day, labelling.crs)
        else:
            labels = partners_labels(
                labelling.files, labelling.class_property, labelling.classes or {}, labelling.day, labelling.crs
            )
        if labelling.day is not None and not labels.undated:
            raise SourceError("--label-date: every label file says its dates itself (start_datetime). Leave it out.")
        return labels
    if labelling.measured is not None:
        raise SourceError(f"--value {labelling.measured.name}: name the files that hold it with --labels.")
    return patch_labels(found.scenes) if found.kind == "patches" else None


def _seen_from(project: Path | None, target: Path) -> str:
    """The import as project.yaml names it; without a project, as one beside it would."""
    root = target.parent if project is None else project.expanduser().resolve()
    return Path(os.path.relpath(target, root)).as_posix()


def _named(yaml: str, project: Path | None, target: Path) -> str:
    """The starter with the project's name, checked as project.yaml will be."""
    if project is None:
        return yaml
    if not yaml:
        raise SourceError(
            "--project needs labels: give a vector file with a class property, or a raster of classes, with --labels; "
            "or what was measured, with --labels and --value"
        )
    name = project.resolve().name
    text = yaml.replace('name: "imported"', f'name: "{name}"', 1)
    parse_project(text, f"{project / PROJECT_FILE}")
    return text


def _warnings(level: Level, missing: Mapping[str, int], scenes: int) -> list[str]:
    told = []
    if level == "L1C":
        told.append(
            "the imagery is of level 1C (top of atmosphere), as every item says; encoders were trained on level 2A "
            "(ground) and do worse on it"
        )
    for band, count in missing.items():
        if count and band != MASK:
            told.append(f"{count} of {scenes} scenes lack {band}; a run leaves those scenes out")
        elif count:
            told.append(f"{count} of {scenes} scenes have no {MASK}; clouds in them are not masked")
    return told


def _write_about(
    work: Path, found: Found, level: Level, options: Options, labelling: Labelling, warnings: Sequence[str]
) -> None:
    said = {key: value for key, value in vars(options).items() if value != getattr(Options(), key)}
    values: dict[type, Callable[[Any], Any]] = {
        Path: lambda value: value.name, datetime: datetime.isoformat, frozenset: sorted, tuple: list,
    }  # fmt: skip
    plain = {
        key: next((to(value) for kind, to in values.items() if isinstance(value, kind)), value)
        for key, value in said.items()
    }
    about = {
        "version": _VERSION,
        "kind": found.kind,
        "level": level,
        "sources": [_named_digest(path) for path in found.files],
        "labels": [_named_digest(path) for path in labelling.files],
        "options": plain,
        "warnings": list(warnings),
    }
    write_json(work / ABOUT, about)


def _named_digest(path: Path) -> dict[str, str]:
    if path.is_file():
        return {"file": path.name, "sha256": sha256_file(path)}
    inside = {p.relative_to(path).as_posix(): sha256_file(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return {"file": path.name, "sha256": sha256_json(inside)}


def _refuse_target(target: Path, sources: Sequence[Path], project: Path | None) -> None:
    for source in sources:
        place = source.expanduser().resolve()
        if target.is_relative_to(place) or place.is_relative_to(target):
            raise SourceError(f"{target}: lies in {source}, or that in it; import into another folder")
    if target.is_symlink() or target.is_file():
        raise SourceError(f"{target}: is a {'link' if target.is_symlink() else 'file'}; name a new folder")
    if target.is_dir() and not (target / ABOUT).is_file() and (held := sorted(path.name for path in target.iterdir())):
        raise SourceError(
            f"{target}: holds something that is no import ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}). "
            "Name a new folder, or empty this one."
        )
    if project is not None and (project / PROJECT_FILE).exists():
        raise SourceError(
            f"{project / PROJECT_FILE}: exists already. Leave out --project to renew the import alone, "
            "or name a new folder."
        )


def _refuse_other(target: Path, files: Sequence[Path], again: bool) -> None:
    """Refuse to replace an import of other files than these, by name or content."""
    if again or not (target / ABOUT).is_file():
        return
    try:
        former = json.loads((target / ABOUT).read_text(encoding="utf-8"))["sources"]
    except (ValueError, KeyError, TypeError):
        former = []
    if [_named_digest(path) for path in files] != former:
        names = [str(source.get("file")) for source in former]
        raise SourceError(
            f"{target}: holds an import of other files ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}). "
            "Name another folder, or say --replace to put this one in its place."
        )
