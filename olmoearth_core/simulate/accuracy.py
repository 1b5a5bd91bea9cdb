"""How well the world can be told: by a map, and by a pixel classifier that sees one date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from olmoearth_core.errors import MappingError
from olmoearth_core.simulate.look import clear_pixels, look, scene_dates
from olmoearth_core.simulate.season import BANDS
from olmoearth_core.simulate.world import World

_CLEAR_ENOUGH = 0.7
"""Share of clear pixels from which a date is a candidate for the best single one."""
_TREES, _TRAIN, _TEST = 60, 4000, 10000
"""Trees, and pixels drawn per date: more change the accuracy by less than 0.01 and take longer."""


@dataclass(frozen=True)
class Accuracy:
    """A map held against the truth."""

    overall: float
    """Share of the pixels with the right class; a pixel without a class counts as wrong."""
    iou: dict[str, float]
    """Class -> intersection over union; a class that neither has is left out."""
    n: int
    """Pixels compared."""


def map_accuracy(map_path: Path, world: World) -> Accuracy:
    """Hold a map of the world (band 1 class, in the order of `world.classes`) against the truth.

    Only pixels of the area count that no training label touches.

    Raises:
        MappingError: the map cannot be read.
    """
    predicted = read_on_world(map_path, world)
    here = world.scored()
    truth, predicted = world.read_truth()[here], predicted[here]
    iou = {}
    for value, name in enumerate(world.classes):
        if either := int(((truth == value) | (predicted == value)).sum()):
            iou[name] = float(((truth == value) & (predicted == value)).sum() / either)
    return Accuracy(overall=float((truth == predicted).mean()), iou=iou, n=int(here.sum()))


def read_on_world(map_path: Path, world: World) -> np.ndarray:
    """Band 1 of a map on the world's pixels, (H, W) uint8; 255 where the map is nodata or does not reach.

    Raises:
        MappingError: the map cannot be read.
    """
    found = np.full(world.box.shape, 255, np.uint8)
    try:
        with rasterio.open(map_path) as file:
            reproject(
                rasterio.band(file, 1),
                found,
                dst_transform=world.box.transform,
                dst_crs=world.box.grid.crs,
                dst_nodata=255,
            )
    except RasterioError as error:
        raise MappingError(f"{map_path}: cannot be read as a map ({error}).") from error
    return found


def single_date_baseline(world: World) -> tuple[date, float]:
    """What one date can tell: the best one of a pixel random forest (12 bands, 60 trees) on each clear date.

    Each forest is trained on the same labels as the map and scored on the truth outside them. The comparison is kind to
    it: only the date's own clear pixels count, and the best date is chosen by the score itself.

    Returns:
        (date, accuracy) of the best date.
    """
    from sklearn.ensemble import RandomForestClassifier

    truth, labels, scored = world.read_truth(), world.read_labels(), world.scored()
    best = (world.date, 0.0)
    for day in scene_dates(world):
        clear = clear_pixels(world, day)
        if clear.mean() < _CLEAR_ENOUGH:
            continue
        rng = np.random.default_rng(day.toordinal())
        train = _draw(rng, (labels != 255) & clear, _TRAIN)
        test = _draw(rng, scored & clear, _TEST)
        pixels = look(world, day).reshape(len(BANDS), -1).T
        forest = RandomForestClassifier(_TREES, n_jobs=-1, random_state=0)
        forest.fit(pixels[train], labels.ravel()[train])
        accuracy = float((forest.predict(pixels[test]) == truth.ravel()[test]).mean())
        best = max(best, (day, accuracy), key=lambda found: found[1])
    return best


def _draw(rng: np.random.Generator, where: np.ndarray, count: int) -> np.ndarray:
    """At most `count` flat indices of the true pixels of `where`."""
    candidates = np.flatnonzero(where)
    return rng.choice(candidates, min(count, len(candidates)), replace=False)
