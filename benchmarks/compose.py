"""Composing against plain rasterio reads of the same files: Mpx x timesteps (all 12 bands) per CPU-second.

    OMP_NUM_THREADS=1 python benchmarks/compose.py ../shared/data/reservoir/catalog.json

Plain reads take the same windows of the same bands at native resolution, and do nothing else: no mask, no resampling to
10 m. They come in two kinds: files opened for each read (as a script does), and all files kept open.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import rasterio
import shapely
from rasterio.windows import Window

from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList, available_bands
from olmoearth_core.imagery.search import Query, search
from olmoearth_core.progress import Silent


def main(catalogue: Path) -> None:
    """Print one line for each window size."""
    world = shapely.box(-180, -90, 180, 90)
    spans = ((date(2000, 1, 1), date(2100, 1, 1)),)
    query = Query(catalogue.name, (), ("sentinel2_l2a",), world, spans, 100.0)
    scenes = search(query, catalogue.parent, Silent())
    bands = available_bands(scenes, "sentinel2_l2a")
    steps = [Timestep(s.date, s.date + timedelta(days=1)) for s in scenes.scenes]
    with rasterio.open(scenes.address(scenes.scenes[0], scenes.scenes[0].assets[bands[0]])) as first:
        area = Grid(f"EPSG:{first.crs.to_epsg()}", first.transform.a).around(tuple(first.bounds))

    for size, count in ((32, 24), (64, 24), (256, 8)):
        boxes = [_box(area, size, i) for i in range(count)]
        amount = count * size * size * len(steps) / 1e6
        ways: dict[str, Callable[[], None]] = {
            "compose": partial(_compose, scenes, steps, bands, boxes),
            "plain, kept open": partial(_kept_open, scenes, bands, boxes),
            "plain, opened each time": partial(_opened_each_time, scenes, bands, boxes),
        }
        speed = {name: amount / min(_cpu_seconds(way) for _ in range(3)) for name, way in ways.items()}
        ratios = [speed["compose"] / value for value in speed.values()][1:]
        told = ", ".join(f"{name} {value:.2f}" for name, value in speed.items())
        print(f"{size:4d} px: {told}; ratios {ratios[0]:.2f} and {ratios[1]:.2f}")


def _box(area: PixelBox, size: int, index: int) -> PixelBox:
    """One of many windows, anywhere in `area`."""
    left, top = index * 37 % (area.width - size), index * 53 % (area.height - size)
    return PixelBox(area.grid, area.column + left, area.row + top, size, size)


def _compose(scenes: SceneList, steps: list[Timestep], bands: tuple[str, ...], boxes: list[PixelBox]) -> None:
    with AssetReader() as reader:
        for box in boxes:
            compose(
                scenes, box, steps, modality="sentinel2_l2a", bands=bands, composite="least_cloudy", reader=reader
            )  # fmt: skip


def _kept_open(scenes: SceneList, bands: tuple[str, ...], boxes: list[PixelBox]) -> None:
    files: dict[str, rasterio.DatasetReader] = {}
    for address, box in _reads(scenes, bands, boxes):
        if address not in files:
            files[address] = rasterio.open(address)
        _read(files[address], box)
    for file in files.values():
        file.close()


def _opened_each_time(scenes: SceneList, bands: tuple[str, ...], boxes: list[PixelBox]) -> None:
    for address, box in _reads(scenes, bands, boxes):
        with rasterio.open(address) as file:
            _read(file, box)


def _reads(scenes: SceneList, bands: tuple[str, ...], boxes: list[PixelBox]) -> Iterator[tuple[str, PixelBox]]:
    for box in boxes:
        for scene in scenes.scenes:
            for band in bands:
                yield scenes.address(scene, scene.assets[band]), box


def _read(file: rasterio.DatasetReader, box: PixelBox) -> None:
    left, bottom, right, top = box.bounds
    size, column, row = file.transform.a, file.transform.c, file.transform.f
    first, last = int((left - column) // size), int(-((column - right) // size))
    upper, lower = int((row - top) // size), int(-((bottom - row) // size))
    file.read(1, window=Window(first, upper, last - first, lower - upper))


def _cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
