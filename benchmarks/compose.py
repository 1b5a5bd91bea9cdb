"""Composing against plain rasterio reads of the same local files: Mpx x timesteps (12 bands) per CPU-second.

    OMP_NUM_THREADS=1 python benchmarks/compose.py [../shared/data/reservoir/catalog.json]

Two kinds of files, one scene a timestep: twelve bands that lie on the grid (what compose has to do is a copy), and real
Sentinel-2 of 10, 20 and 60 m (compose resamples, plain reads do not). Three kinds of plain reads, each of the same
windows and bands: files opened for each read (as peers.md measured rslearn: 0.75 and 0.9), files kept open, and files
kept open with rasterio resampling to the grid (the same output as compose).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.windows import Window

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.modality import SENTINEL2_L2A
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList, available_bands
from olmoearth_core.imagery.search import Query, search
from olmoearth_core.progress import Silent

EDGE, DATES = 1024, 6
"""Of the files on the grid."""


def main(catalogue: Path | None) -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        sources = {"on the grid": _files_on_the_grid(Path(folder))}
        if catalogue:
            sources["reservoir, 10/20/60 m"] = catalogue
        rows = [row for name, path in sources.items() for row in _measure(name, path)]
    harness.write("compose", rows)
    head = ["files", "window", "compose", "opened each time", "kept open", "kept open, resampled", "ratios"]
    table = harness.markdown(
        head,
        [
            [
                row["files"],
                f"{row['size']} px",
                *(f"{row['speed'][way]:.2f}" for way in ("compose", *_PLAIN)),
                " ".join(f"{row['ratio'][way]:.2f}" for way in _PLAIN),
            ]
            for row in rows
        ],
    )
    text = (
        "Mpx x timesteps (12 bands) per CPU-second, one scene a timestep, least_cloudy, windows anywhere; ratios "
        "are of compose over the three kinds of plain reads; medians of interleaved repeats. The goal: 0.9 (rslearn "
        f"against files opened each time: 0.75 at 256 px, 0.9 at 32 px).\n\n{table}"
    )
    harness.put_section("compose", "Composing", text)
    print(text)


_PLAIN = ("opened", "kept", "resampled")


def _files_on_the_grid(folder: Path) -> Path:
    """Twelve bands of 10 m on six dates: smooth ground with noise, which deflate takes as it takes real imagery."""
    from rasters import LEFT, TOP, Layer, StacScene, write_catalogue

    random = np.random.default_rng(0)
    y, x = np.mgrid[0:EDGE, 0:EDGE] / 100
    ground = 1500 + 800 * np.sin(x) * np.cos(y)

    def band() -> np.ndarray:
        return (ground + random.normal(0, 60, ground.shape)).clip(1).astype(np.uint16)

    scenes = [
        StacScene(f"S{k}", f"2024-05-{k + 1:02d}", {b: Layer(band(), 10.0, LEFT, TOP) for b in SENTINEL2_L2A.bands})
        for k in range(DATES)
    ]
    return write_catalogue(folder, scenes, blocksize=256)


def _measure(name: str, catalogue: Path) -> Iterator[dict[str, Any]]:
    world = shapely.box(-180, -90, 180, 90)
    query = Query(catalogue.name, (), ("sentinel2_l2a",), world, ((date(2000, 1, 1), date(2100, 1, 1)),), 100.0)
    scenes = search(query, catalogue.parent, Silent())
    bands = available_bands(scenes, "sentinel2_l2a")
    steps = [Timestep(s.date, s.date + timedelta(days=1)) for s in scenes.scenes]
    with rasterio.open(scenes.address(scenes.scenes[0], scenes.scenes[0].assets[bands[0]])) as first:
        area = Grid(f"EPSG:{first.crs.to_epsg()}", first.transform.a).around(tuple(first.bounds))
    for size, count in ((32, 32), (256, 6)):
        boxes = [_box(area, size, i) for i in range(count)]
        ways: dict[str, Callable[[], None]] = {
            "compose": partial(_compose, scenes, steps, bands, boxes),
            "opened": partial(_opened_each_time, scenes, bands, boxes),
            "kept": partial(_kept_open, scenes, bands, boxes, resampled=False),
            "resampled": partial(_kept_open, scenes, bands, boxes, resampled=True),
        }
        _, cpu = harness.interleave(ways, repeats=5)
        amount = count * size * size * len(steps) / 1e6
        yield {
            "files": name,
            "size": size,
            "speed": {way: amount / float(np.median(times)) for way, times in cpu.items()},
            "ratio": {way: harness.ratio(cpu, way, "compose") for way in _PLAIN},
        }


def _box(area: PixelBox, size: int, index: int) -> PixelBox:
    """One of many windows, anywhere in `area` but at its rim."""
    left, top = 7 + index * 197 % (area.width - size - 14), 7 + index * 311 % (area.height - size - 14)
    return PixelBox(area.grid, area.column + left, area.row + top, size, size)


def _compose(scenes: SceneList, steps: list[Timestep], bands: tuple[str, ...], boxes: list[PixelBox]) -> None:
    with AssetReader() as reader:
        for box in boxes:
            compose(scenes, box, steps, modality="sentinel2_l2a", bands=bands, reader=reader)


def _kept_open(scenes: SceneList, bands: tuple[str, ...], boxes: list[PixelBox], *, resampled: bool) -> None:
    files: dict[str, rasterio.DatasetReader] = {}
    for address, box in _reads(scenes, bands, boxes):
        if address not in files:
            files[address] = rasterio.open(address)
        _read(files[address], box, resampled)
    for file in files.values():
        file.close()


def _opened_each_time(scenes: SceneList, bands: tuple[str, ...], boxes: list[PixelBox]) -> None:
    for address, box in _reads(scenes, bands, boxes):
        with rasterio.open(address) as file:
            _read(file, box, resampled=False)


def _reads(scenes: SceneList, bands: tuple[str, ...], boxes: list[PixelBox]) -> Iterator[tuple[str, PixelBox]]:
    for box in boxes:
        for scene in scenes.scenes:
            for band in bands:
                yield str(scenes.address(scene, scene.assets[band])), box


def _read(file: rasterio.DatasetReader, box: PixelBox, resampled: bool) -> None:
    left, bottom, right, top = box.bounds
    size, column, row = file.transform.a, file.transform.c, file.transform.f
    first, last = int((left - column) // size), int(-((column - right) // size))
    upper, lower = int((row - top) // size), int(-((bottom - row) // size))
    window = Window(first, upper, last - first, lower - upper)
    if resampled and size != box.grid.resolution:
        file.read(1, window=window, out_shape=box.shape, resampling=Resampling.bilinear)
    else:
        file.read(1, window=window)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
