"""The stage export: from the catalogue to sparse copies of the scenes, in which only what the windows need is filled.

    export/<scene>/<asset>.tif    same CRS, transform, size and blocks as the source; untouched blocks take no space
    export/scenes.json            the same scene list, with addresses inside the export
    export/windows.geojson        the windows, for a person's eyes

Preprocessing calls the same `compose` on the export as mapping does on the catalogue, and gets the same pixels.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rasterio
from pyproj.exceptions import ProjError
from rasterio.io import MemoryFile

from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import ImageryError
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery import clouds
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.blocks import blocks_of
from olmoearth_core.imagery.footprint import check_place, lonlat_outline, near
from olmoearth_core.imagery.mask import without_mask
from olmoearth_core.imagery.read import AssetReader, Failure, Header
from olmoearth_core.imagery.sampling import Method, Points, SourceGrid, SourceWindow, plan
from olmoearth_core.imagery.scene import Scene, SceneList, read_scenes
from olmoearth_core.labels.tasks import all_windows, read_all
from olmoearth_core.labels.windows import TrainingWindow
from olmoearth_core.stage import StageRun
from olmoearth_core.store import whole_file, write_json

SCENES = "scenes.json"
WINDOWS = "windows.geojson"
MASK = "mask"
"""Name of the classification's file and of its asset in a failure."""
THREADS = 8
"""Assets copied at once: enough to hide a network's delays."""
BLOCK = 256
"""Edge of a copy's blocks where the source has none that a tiled TIFF allows (multiples of 16)."""


@dataclass(frozen=True)
class _Asset:
    """One asset to copy."""

    scene: Scene
    name: str
    """The band, or MASK."""
    href: str
    boxes: tuple[PixelBox, ...]
    """The windows that the scene is for."""

    @property
    def method(self) -> Method:
        return "classes" if self.name == MASK else "values"

    @property
    def file(self) -> str:
        """Path below the export."""
        return f"{_folder(self.scene.modality, self.scene.id)}/{self.name}.tif"


def export(run: StageRun) -> dict[str, Any]:
    """Copy what the training windows need of the scenes in `run.files["scenes"]` into `run.out`.

    Files that are there already are whole, from an earlier run that was killed; only missing ones are made.

    Returns:
        The summary: windows, scenes, assets, dates and failed_assets [{scene, asset, reason}].

    Raises:
        ImageryError: nothing at all can be read, or no scene touches a window.
        LabelError: the labels cannot be read.
        StoreError: the disk is full.
        TransientError: the network is down; what was copied is kept for the next run.
    """
    scenes = read_scenes(run.files["scenes"], run.project.root)
    if run.project.config.imagery.cloud_mask == "none":
        scenes = replace(scenes, scenes=tuple(replace(scene, mask=None) for scene in scenes.scenes))
    for sentence in without_mask(scenes.scenes, run.project.config.imagery.cloud_mask):
        run.progress.note(f"Warning: {sentence}")
    windows = all_windows(run.project, read_all(run.project))
    assets = _assets_to_copy(run, scenes, windows)
    copied, failures = _copy_all(run, scenes, assets)
    kept = _kept_scenes(scenes, copied)
    if not kept:
        raise ImageryError(_nothing_left(scenes, assets, failures))
    exported = SceneList(SCENES, scenes.query, kept, run.out)
    _remove_strangers(run.out, exported)
    exported.write(run.out / SCENES)
    write_json(run.out / WINDOWS, _windows_geojson(windows))
    for failure in failures:
        run.progress.note(f"left out: {failure.scene} {failure.asset}: {failure.reason}")
    return {
        "windows": len(windows),
        "dates": len({window.date for window in windows}),
        "scenes": len(kept),
        "assets": sum(len(scene.assets) + (scene.mask is not None) for scene in kept),
        "failed_assets": [vars(failure) for failure in failures],
    }


def _assets_to_copy(run: StageRun, scenes: SceneList, windows: Sequence[TrainingWindow]) -> list[_Asset]:
    """Every asset of every scene that is near a window in one of its timesteps."""
    imagery = run.project.config.imagery
    framing = imagery.framing
    steps = {day: framing.spans(day) for day in {window.date for window in windows}}
    assets = []
    for scene in scenes.scenes:
        days = {day for day, spans in steps.items() if any(scene.in_step(step) for step in spans)}
        boxes = {window.box: None for window in windows if window.date in days and near(scene.bbox, window.box)}
        if not boxes:
            continue
        # s2cloudless looks around a window before it judges it
        wide = {clouds.around(box): None for box in boxes} if imagery.cloud_mask == "s2cloudless" else boxes
        assets += [_Asset(scene, name, href, tuple(wide)) for name, href in scene.assets.items()]
        if scene.mask is not None:
            assets.append(_Asset(scene, MASK, scene.mask, tuple(boxes)))
    return assets


def _copy_all(run: StageRun, scenes: SceneList, assets: Sequence[_Asset]) -> tuple[set[str], list[Failure]]:
    """Copy `assets`, many at once -> files of those that are in the export, and what failed."""
    copied: set[str] = set()
    needs = _Needs()
    with (
        AssetReader(run.meter, keep_open=THREADS, access=access_of(run.project)) as reader,
        ThreadPoolExecutor(THREADS, thread_name_prefix="export") as pool,
        run.progress.bar("copy assets", len(assets)) as advance,
    ):
        futures = {pool.submit(_copy, scenes, run.out / asset.file, asset, reader, needs): asset for asset in assets}
        try:
            for future in as_completed(futures):
                asset = futures[future]
                try:
                    if future.result():
                        copied.add(asset.file)
                except ImageryError as error:
                    reader.lost(asset.scene.id, asset.name, error)
                except (ValueError, ProjError) as error:  # an address that is none; a CRS that leads nowhere
                    told = ImageryError(f"cannot be used ({type(error).__name__}: {error})")
                    reader.lost(asset.scene.id, asset.name, told)
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return copied, reader.failures


def _copy(scenes: SceneList, target: Path, asset: _Asset, reader: AssetReader, needs: _Needs) -> bool:
    """Copy the needed blocks of one asset; False where no window needs any."""
    if target.exists():
        return True
    address = scenes.address(asset.scene, asset.href)
    header = reader.header(address)
    check_place(asset.scene.bbox, header.grid)
    blocks = needs.blocks(header, asset.boxes, asset.method)
    if not blocks:
        return False
    height, width = _block_shape(header)
    source = header.grid
    options = {
        "driver": "GTiff", "tiled": True, "blockysize": height, "blockxsize": width, "compress": "deflate", "zlevel": 6,
        "predictor": 2 if header.dtype in ("uint8", "uint16", "int16") else 1, "sparse_ok": True, "bigtiff": "if_safer",
    }  # fmt: skip
    with MemoryFile() as memory:  # GDAL does not tell when writing to a full disk fails: the file is written in one go
        with memory.open(
            count=1, dtype=header.dtype, width=source.width, height=source.height, crs=source.crs,
            transform=rasterio.Affine(*source.transform), nodata=0, **options,
        ) as copy:  # fmt: skip
            for row, column in blocks:  # in order: the same blocks give the same bytes
                window = SourceWindow(row * height, (row + 1) * height, column * width, (column + 1) * width)
                inside = window.inside(source)
                copy.write(reader.read(address, inside), 1, window=inside.to_rasterio())
        with whole_file(target) as partial:
            partial.write_bytes(memory.getbuffer())
    return True


class _Needs:
    """Which blocks of a source the windows need. Scenes of one tile share their grid, so each is worked out once."""

    def __init__(self) -> None:
        self._windows: dict[tuple[SourceGrid, PixelBox, Method], SourceWindow | None] = {}
        self._lock = threading.Lock()

    def blocks(self, header: Header, boxes: Sequence[PixelBox], method: Method) -> list[tuple[int, int]]:
        """(row, column) of the blocks, in order; exactly those that `compose` would touch for any of `boxes`."""
        shape = _block_shape(header)
        with self._lock:
            windows = [self._window(header.grid, box, method) for box in boxes]
        return sorted({block for window in windows if window for block in blocks_of(window, shape)})

    def _window(self, source: SourceGrid, box: PixelBox, method: Method) -> SourceWindow | None:
        key = source, box, method
        if key not in self._windows:
            how = plan(source, box, Points(box), method)
            self._windows[key] = None if how is None else how.window.inside(source)
        return self._windows[key]


def _block_shape(header: Header) -> tuple[int, int]:
    height, width = header.block
    return header.block if height % 16 == 0 and width % 16 == 0 else (BLOCK, BLOCK)


def _folder(modality: str, scene: str) -> str:
    """The folder of a scene's copies: its own name where that is a plain one, and never that of another scene."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", scene)[:80].lstrip(".")
    if plain == scene and modality == "sentinel2_l2a":
        return plain
    return f"{plain}-{sha256_json([modality, scene])[:12]}"


def _kept_scenes(scenes: SceneList, copied: set[str]) -> tuple[Scene, ...]:
    """The scenes with what was copied of them. One that lost its classification is left out: its clouds would show."""
    kept = []
    for scene in scenes.scenes:
        files = {name: _Asset(scene, name, "", ()).file for name in (*scene.assets, MASK)}
        assets = {band: files[band] for band in scene.assets if files[band] in copied}
        mask = files[MASK] if files[MASK] in copied else None
        if assets and (scene.mask is None) == (mask is None):
            kept.append(replace(scene, assets=assets, mask=mask, version=""))  # the copies' checksums tell theirs
    return tuple(kept)


def _nothing_left(scenes: SceneList, assets: Sequence[_Asset], failures: Sequence[Failure]) -> str:
    if failures:
        return (
            f"{scenes.names}: nothing can be read of {len(scenes.scenes)} scenes. The first of "
            f"{len(failures)} assets that failed: {failures[0].scene} {failures[0].asset}: {failures[0].reason}"
        )
    dated = len({asset.scene.id for asset in assets})
    return (
        f"{scenes.names}: the windows around the labels lie outside all {len(scenes.scenes)} scenes "
        f"({dated} of them near a window in its time). Check labels and imagery.framing in project.yaml."
    )


def _remove_strangers(folder: Path, exported: SceneList) -> None:
    """Remove copies that belong to no scene of the list: of a scene that has since lost its classification."""
    wanted = {folder / href for scene in exported.scenes for href in (*scene.assets.values(), scene.mask) if href}
    for path in folder.glob("*/*.tif"):
        if path not in wanted:
            path.unlink()
            with suppress(OSError):  # not empty
                path.parent.rmdir()


def _windows_geojson(windows: Sequence[TrainingWindow]) -> dict[str, Any]:
    features = [
        {
            "type": "Feature",
            "properties": {"name": window.name, "date": window.date.isoformat()},
            "geometry": {"type": "Polygon", "coordinates": [lonlat_outline(window.box)]},
        }
        for window in windows
    ]
    return {"type": "FeatureCollection", "features": features}
