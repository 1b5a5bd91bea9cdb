"""Some windows as the model sees them: of its training set, and of the area that it mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.errors import MappingError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.inference.plan import Plan, Tile
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

SCENES = "scenes.json"
MOST_VALUES = 200_000
"""Pixels of a band that are compared."""
AT_ONCE = 8


@dataclass(frozen=True)
class View:
    """One window: modality -> (T, C, H, W) physical values and (T, H, W) bool; dates (T,) datetime64[D]."""

    inputs: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    dates: np.ndarray

    @property
    def seen(self) -> bool:
        """Whether any pixel of it is valid."""
        return any(mask.any() for mask in self.valid.values())


def training_views(dataset: Dataset, count: int, seed: int = 0) -> list[View]:
    """So many training windows, drawn by `seed`; all where there are fewer."""
    rows = np.array(dataset.indices("train"))
    drawn = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    views = []
    for first in range(0, len(drawn), dataset.at_once):
        samples = dataset.read(drawn[first : first + dataset.at_once].tolist())
        views += [View(dict(s.inputs), dict(s.valid), s.dates) for s in samples]
    return [view for view in views if view.seen]


def map_views(
    project: Project, tiles: Path, plan: Plan, bands: dict[str, tuple[str, ...]], count: int, progress: Progress
) -> list[View]:
    """So many windows of a map's area, composed from the scenes that it was made of.

    Raises:
        ImageryError, TransientError: the scenes cannot be read any more.
    """
    scenes, config = read_scenes(tiles / SCENES, project.root), project.config.imagery
    steps = [Timestep(start, end) for start, end in plan.timesteps]
    dates = np.array([step.date for step in steps], "datetime64[D]")
    views = []
    boxes = map_windows(tiles, plan, count)
    with (
        AssetReader(access=access_of(project)) as reader,
        progress.bar("looking at the map's imagery", len(boxes)) as told,
    ):
        for box in boxes:
            inputs, valid = {}, {}
            for modality, names in bands.items():
                cube = compose(
                    scenes, box, steps, modality=modality, bands=names, composite=config.composite,
                    cloud_mask=config.cloud_mask, reader=reader,
                )  # fmt: skip
                inputs[modality], valid[modality] = cube.data, cube.valid
            views.append(View(inputs, valid, dates))
            told(1)
    return [view for view in views if view.seen]


def map_windows(tiles: Path, plan: Plan, count: int, seed: int = 0) -> list[PixelBox]:
    """Boxes of so many windows, in tiles drawn by how many windows they have; each holds mapped pixels.

    Drawn by `seed` alone; fewer where the map holds next to nothing.

    Raises:
        MappingError: a tile cannot be read.
    """
    from rasterio.windows import Window

    random, size = np.random.default_rng(seed), plan.layout.window_size
    weights = np.array([tile.windows for tile in plan.tiles], float)
    found: list[PixelBox] = []
    for pick in random.choice(len(plan.tiles), 4 * count, p=weights / weights.sum()):
        tile, box = plan.tiles[pick], plan.box(plan.tiles[pick])
        left = int(random.integers(max(1, box.width - size + 1)))
        top = int(random.integers(max(1, box.height - size + 1)))
        with open_tile(tiles, tile) as file:
            width, height = min(size, box.width - left), min(size, box.height - top)
            mapped = file.read(1, window=Window(left, top, width, height)) != file.nodata
        if mapped.mean() >= 0.5:
            found.append(PixelBox(box.grid, box.column + left, box.row + top, size, size))
        if len(found) == count:
            break
    return found


@contextmanager
def open_tile(tiles: Path, tile: Tile) -> Iterator[DatasetReader]:
    """A tile's file in the folder of the stage infer, open.

    Raises:
        MappingError: it is gone or damaged.
    """
    import rasterio
    from rasterio.errors import RasterioError

    path = tiles / f"{tile.name}.tif"
    try:
        with rasterio.open(path) as file:
            yield file
    except RasterioError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise MappingError(
            f"{path}: this tile of the map cannot be read ({why}). `olmoearth run` makes it anew."
        ) from error


def band_values(views: Sequence[View], modality: str, band: int, seed: int = 0) -> np.ndarray:
    """(N,) float32: valid pixels of a band over all timesteps, at most MOST_VALUES, as many of each window."""
    random = np.random.default_rng(seed)
    most = max(1, MOST_VALUES // max(1, len(views)))
    parts = []
    for view in views:
        values = view.inputs[modality][:, band][view.valid[modality]]
        parts.append(values if len(values) <= most else random.choice(values, most, replace=False))
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def embeddings(model: Any, views: Sequence[View], resolution: float) -> np.ndarray:
    """(N, D) float32: the mean of each window's embeddings, by the encoder of a `Predictor`."""
    return np.concatenate([_embed(model, part, resolution) for part in _parts(views)])


def _parts(views: Sequence[View]) -> Iterator[Sequence[View]]:
    for first in range(0, len(views), AT_ONCE):
        yield views[first : first + AT_ONCE]


def _embed(model: Any, views: Sequence[View], resolution: float) -> np.ndarray:
    import torch

    names = list(views[0].inputs)
    inputs = {m: np.stack([view.inputs[m] for view in views]) for m in names}
    valid = {m: np.stack([view.valid[m] for view in views]) for m in names}
    dates = np.stack([view.dates for view in views])
    with torch.inference_mode():
        seen = model.encoder.encode(
            inputs, dates, valid, patch_size=model.patch_size, resolution=resolution, bands=model.bands
        ).map()
        here = (seen != 0).any(dim=1, keepdim=True)
        mean = (seen * here).sum(dim=(2, 3)) / here.sum(dim=(2, 3)).clamp(min=1)
    return np.asarray(mean.float().cpu().numpy(), np.float32)
