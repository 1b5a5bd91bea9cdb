"""GeoTIFFs: one file a band, or one file with all bands of a scene."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from olmoearth_core.errors import SourceError
from olmoearth_core.imagery.harmonise import FIRST_BASELINE, OFFSET
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.importing.bands import LEFT_OUT, allowed_names, band_in_name, ignored, official_name
from olmoearth_core.importing.source import (
    Found,
    Layer,
    Options,
    SourceScene,
    corners,
    crs_text,
    moment_text,
    unique_id,
)
from olmoearth_core.importing.times import moment_of, read_dates
from olmoearth_core.importing.values import SCALE, Encoding

SUFFIXES = (".tif", ".tiff")
_BASELINE = re.compile(r"_MSIL[12][AC]_\d{8}T\d{6}_N(\d\d)(\d\d)_")
"""In the name of a product: S2A_MSIL2A_20230815T095031_N0509_R079_..."""


@dataclass(frozen=True)
class TiffFile:
    """What the header of a GeoTIFF says.

    Attributes:
        descriptions: of each band, None where it has none.
        encodings: of each band, without what the partner says.
        has_crs: whether the CRS of `grid` stands in the file.
    """

    path: Path
    grid: SourceGrid
    descriptions: tuple[str | None, ...]
    encodings: tuple[Encoding, ...]
    tags: Mapping[str, str]
    has_crs: bool

    @property
    def has_offset(self) -> bool:
        """Whether the name of its product tells baseline 04.00 or later: 1000 is added to its values."""
        found = _BASELINE.search(self.path.as_posix())
        return found is not None and float(f"{found[1]}.{found[2]}") >= FIRST_BASELINE

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.descriptions)

    def layer(self, number: int, options: Options) -> Layer:
        """Band `number` (from 1)."""
        own = self.encodings[number - 1]
        if self.has_offset and not own.offset:
            own = Encoding(None if own.scale == 1 else own.scale, -OFFSET * SCALE, own.nodata)
        return Layer(
            name=self.path.name if self.count == 1 else f"{self.path.name} band {number}",
            grid=self.grid,
            encoding=options.encoding(own.scale, own.offset, own.nodata),
            read=partial(_read, self.path, number),
            file=self.path if self.count == 1 and self.has_crs else None,
        )


def find_tiffs(folder: Path, ignore: Iterable[str]) -> list[Path]:
    """Every GeoTIFF below a folder whose name does not hold a word of `ignore`, in the order of their paths."""
    words = list(ignore)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith(".") and not ignored(path.stem, words))


def read_scenes(files: Sequence[Path], root: Path, options: Options) -> Found:
    """The scenes in GeoTIFFs.

    Files of one band belong to one scene when they lie in one folder (R10m and the like aside) and their names differ
    in the band and the resolution only. A file of several bands is a scene.

    Args:
        files: the GeoTIFFs; bands, dates and so on as `options` say.
        root: the folder above them that the partner named; folder names below it may tell dates.

    Raises:
        SourceError: a file cannot be read, has no CRS or transform, no date, or bands that are none.
    """
    table = read_dates(options.dates) if options.dates else {}
    headers = [read_header(path, options) for path in files]
    check_band_counts(headers)
    groups: dict[tuple[Path, str], dict[str, Layer]] = {}
    moments: dict[tuple[Path, str], datetime] = {}
    undated: list[Path] = []
    for header in headers:
        layers, rest = layers_of(header, options)
        key = (_scene_folder(header.path), rest)
        together = groups.setdefault(key, {})
        if twice := sorted(layers.keys() & together.keys()):
            raise SourceError(
                f"{header.path}: a second {', '.join(twice)} of one scene, beside {together[twice[0]].name}. "
                "Put each scene into a folder of its own, or leave files out with --ignore."
            )
        together.update(layers)
        moment = moment_of(header.path, root, header.tags, table) or options.date
        if moment is None:
            undated.append(header.path)
        elif moments.setdefault(key, moment) != moment:
            raise SourceError(
                f"{header.path}: tells the date {moment_text(moment)}, other bands of its scene "
                f"{moment_text(moments[key])}. Name one for each file in a table (--dates)."
            )
    if undated:
        raise SourceError(no_date(undated))
    taken: set[str] = set()
    scenes = [
        SourceScene(unique_id(rest or folder.name, taken), moments[folder, rest], dict(sorted(layers.items())))
        for (folder, rest), layers in groups.items()
    ]
    refuse_twice(scenes)
    scenes.sort(key=lambda scene: (scene.moment, scene.id))
    return Found("scenes", scenes, files, offset_told(headers, options))


def read_header(path: Path, options: Options) -> TiffFile:
    """Open a GeoTIFF and read what it says of itself.

    Raises:
        SourceError: it cannot be read, or has no CRS or transform.
    """
    try:
        with _open(path) as file:
            crs, transform = file.crs, file.transform
            encodings = tuple(map(Encoding, file.scales, file.offsets, file.nodatavals))
            grid = (file.width, file.height)
            descriptions, tags = tuple(file.descriptions), dict(file.tags())
    except RasterioError as error:
        raise SourceError(f"{path}: is no GeoTIFF that can be read ({' '.join(str(error).split())})") from error
    if transform.is_identity:
        raise SourceError(
            f"{path}: has no transform, so that nobody knows where its pixels lie. "
            "Save it as a GeoTIFF with one (in QGIS: Raster > Georeferencer)."
        )
    if not crs and options.crs is None:
        raise SourceError(f"{path}: states no CRS. Give the one it is in with --crs EPSG:<code>.")
    text = crs_text(crs.to_wkt() if crs else options.crs, str(path))
    a, b, c, d, e, f = tuple(transform)[:6]
    return TiffFile(path, SourceGrid(text, (a, b, c, d, e, f), *grid), descriptions, encodings, tags, bool(crs))


def check_band_counts(headers: Sequence[TiffFile]) -> None:
    """Refuse files with several bands whose numbers differ.

    Raises:
        SourceError: naming one file of each number.
    """
    counts = {header.count: header for header in headers if header.count > 1}
    if len(counts) > 1:
        told = ", ".join(f"{header.path.name} has {count}" for count, header in sorted(counts.items()))
        raise SourceError(f"the files have different numbers of bands: {told}. Import them one kind at a time.")


def layers_of(header: TiffFile, options: Options) -> tuple[dict[str, Layer], str]:
    """Official name -> layer of a file, and what its name says beside a band.

    Raises:
        SourceError: bands without a name, with one that is none, or not as many as --bands names.
    """
    in_name, rest = band_in_name(header.path.stem)
    if header.count == 1 and in_name is not None and len(options.bands) != 1:
        return {in_name: header.layer(1, options)}, rest
    names: Sequence[str | None] = options.bands or header.descriptions
    rest = rest if in_name is None else header.path.stem
    if len(names) != header.count:
        raise SourceError(f"{header.path}: has {header.count} bands, --bands names {len(names)}")
    if not any(names):
        raise SourceError(
            f"{header.path}: tells no band by its name. Name it like {header.path.stem}_B02.tif, or give --bands B02."
            if header.count == 1
            else f"{header.path}: has {header.count} bands without names. Give them in order, for example "
            "--bands B02,B03,B04,B08 ('-' leaves one out)."
        )
    layers = {}
    for number, spelling in enumerate(names, 1):
        if spelling == LEFT_OUT or (spelling and ignored(spelling, options.ignore)):
            continue
        name = known_band(spelling or "", f"{header.path} band {number}")
        if name in layers:
            raise SourceError(f"{header.path}: has the band {name} twice")
        layers[name] = header.layer(number, options)
    if not layers:
        raise SourceError(f"{header.path}: no band is left to import")
    return layers, rest


def known_band(spelling: str, where: str) -> str:
    """The official name of a band.

    Raises:
        SourceError: it is no band of Sentinel-2.
    """
    name = official_name(spelling)
    if name is None:
        raise SourceError(
            f"{where}: '{spelling}' is no band of Sentinel-2; allowed are {allowed_names()} and their common names "
            "(blue, nir, ...). Give --bands, or leave it out with --ignore."
        )
    return name


def refuse_twice(scenes: Sequence[SourceScene]) -> None:
    """Refuse two scenes of the same ground at the same time.

    Raises:
        SourceError: naming both.
    """
    seen: dict[object, str] = {}
    for scene in scenes:
        grid = scene.finest
        key = (scene.moment, grid.crs, corners(grid).round(3).tobytes())
        if key in seen:
            raise SourceError(
                f"{seen[key]} and {scene.id} show the same place at the same time ({scene.moment:%Y-%m-%d}). "
                "Leave one of them out, or give each its own date in a table (--dates)."
            )
        seen[key] = scene.id


def offset_told(headers: Sequence[TiffFile], options: Options) -> list[str]:
    """What to say where product names decided that an offset is subtracted."""
    count = sum(header.has_offset for header in headers)
    if not count or options.offset is not None:
        return []
    return [
        f"{count} files lie in products of baseline 04.00 or later, by their names: the {OFFSET} that is added to "
        "their values is subtracted; give --offset 0 if that was done before"
    ]


def no_date(files: Sequence[Path]) -> str:
    """What to say of files that tell no date."""
    return (
        f"{files[0]}: tells no date by its name or tags"
        + (f", nor do {len(files) - 1} more" if len(files) > 1 else "")
        + ". Give one for all with --date YYYY-MM-DD, or one each in a table (--dates: columns file, date)."
    )


def _scene_folder(path: Path) -> Path:
    """The folder of a scene: that of the file, without R10m, R20m, R60m."""
    folder = path.parent
    return folder.parent if folder.name.upper() in ("R10M", "R20M", "R60M") else folder


def _open(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # told in our own words
        return rasterio.open(path)


def _read(path: Path, number: int) -> NDArray[Any]:
    try:
        with _open(path) as file:
            pixels: NDArray[Any] = file.read(number)
            return pixels
    except RasterioError as error:
        raise SourceError(f"{path}: cannot be read to the end ({' '.join(str(error).split())})") from error
