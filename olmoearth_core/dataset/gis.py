"""A training set for a person's eyes: files that QGIS opens.

windows.gpkg                         one outline a window, with split, date, classes and scenes
<window>/target.tif                  classes in their colours, 255 where nothing is known; their names in target.qml,
                                     the style that QGIS opens it with. Or the values of a regression, else NaN
<window>/target_<task>.tif           the same of an auxiliary task
<window>/<modality>_<date>.tif       one timestep, a band each, nodata where nothing was observed; in true colour, where
                                     there are such bands
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.errors import DatasetError
from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.progress import Progress
from olmoearth_core.store import whole_file, write_text

TRUE_COLOUR = {
    "B04": ColorInterp.red,
    "B03": ColorInterp.green,
    "B02": ColorInterp.blue,
    "B4": ColorInterp.red,
    "B3": ColorInterp.green,
    "B2": ColorInterp.blue,
}
"""Bands of Sentinel-2 and Landsat that are seen as red, green and blue."""


def telling_windows(dataset: Dataset, count: int) -> list[str]:
    """Names of the windows that show most of the labels: of most classes, then with most labelled pixels."""
    pixels = dataset.windows[[f"pixels_{name}" for name in dataset.classes]].to_numpy()
    order = np.lexsort((-pixels.sum(axis=1), -(pixels > 0).sum(axis=1)))
    return [str(name) for name in dataset.windows["name"].iloc[order[:count]]]


def write_for_gis(
    dataset: Dataset, folder: Path, names: Sequence[str], colors: Mapping[str, str], progress: Progress
) -> list[Path]:
    """Write the outlines of all windows and the rasters of those in `names`.

    Args:
        colors: class -> "#rrggbb".

    Returns:
        What was written.

    Raises:
        DatasetError: there is no such window.
    """
    rows = {str(name): row for row, name in enumerate(dataset.windows["name"])}
    if strange := [name for name in names if name not in rows]:
        near = difflib.get_close_matches(strange[0], rows, n=3, cutoff=0) or ["none"]
        raise DatasetError(
            f"the training set has no window '{strange[0]}'; names like it are {', '.join(near)}. "
            "Without --window a file windows.gpkg with the names of all is written."
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write_outlines(dataset, folder / "windows.gpkg")]
    with progress.bar("Writing windows", len(names)) as advance:
        for name in names:
            written += _write_window(dataset, rows[name], folder / name, colors)
            advance(1)
    return written


def _write_outlines(dataset: Dataset, path: Path) -> Path:
    table = dataset.windows.copy()
    table["scenes"] = [", ".join(scenes) for scenes in table["scenes"]]
    table["date"] = table["date"].astype(str)
    with whole_file(path) as partial, TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name  # GDAL wants the name to end in .gpkg
        table.to_file(made, driver="GPKG", layer="windows")
        made.rename(partial)
    return path


def _write_window(dataset: Dataset, row: int, folder: Path, colors: Mapping[str, str]) -> list[Path]:
    (sample,) = dataset.read([row])
    box = dataset.box(row)
    written = []
    for task, truth in sample.truths.items():
        path, layout = folder / f"{dataset.cubes.layout.target_name(task)}.tif", dataset.tasks[task]
        if truth.values is not None:
            name = f"{task} ({layout.unit})" if layout.unit else task
            written.append(_write_raster(path, truth.values[None], box, np.nan, (name,)))
            continue
        table = {k: _rgba(colors[name]) for k, name in enumerate(layout.strata) if name in colors}
        written.append(_write_raster(path, truth.strata[None], box, IGNORE, ("class",), colormap=table))
        written.append(_write_style(path.with_suffix(".qml"), layout.strata, colors))
    for modality, cube in sample.inputs.items():
        nodata = 0 if cube.dtype.kind in "ui" else np.nan
        for t, day in enumerate(sample.dates):
            shown = np.where(sample.valid[modality][t], cube[t], cube.dtype.type(nodata))
            path = folder / f"{modality}_{day}.tif"
            written.append(_write_raster(path, shown, box, nodata, dataset.bands[modality]))
    return written


def _write_raster(
    path: Path,
    pixels: np.ndarray,
    box: PixelBox,
    nodata: float,
    bands: Sequence[str],
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"driver": "GTiff", "compress": "deflate", "nodata": nodata}
    with (
        whole_file(path) as partial,
        rasterio.open(
            partial,
            "w",
            count=len(pixels),
            height=box.height,
            width=box.width,
            dtype=pixels.dtype,
            crs=box.grid.crs,
            transform=box.transform,
            **options,
        ) as file,
    ):
        if not colormap:
            file.colorinterp = [TRUE_COLOUR.get(name, ColorInterp.undefined) for name in bands]
        file.write(pixels)
        for k, name in enumerate(bands, 1):
            file.set_band_description(k, name)
        if colormap:
            file.write_colormap(1, colormap)
    return path


def _write_style(path: Path, classes: Sequence[str], colors: Mapping[str, str]) -> Path:
    """A style of QGIS for classes: what it finds beside a raster, with the same name, it uses."""
    entries = "".join(
        f'<paletteEntry value="{k}" label={quoteattr(name)} color="{colors[name]}" alpha="255"/>'
        for k, name in enumerate(classes)
        if name in colors
    )
    renderer = '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">'
    write_text(
        path,
        f'<qgis version="3.0"><pipe>{renderer}<colorPalette>{entries}</colorPalette></rasterrenderer></pipe></qgis>\n',
    )
    return path


def _rgba(color: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue, 255
