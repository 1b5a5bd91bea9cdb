"""Prediction sets of a whole map: at each pixel the classes that its probabilities do not rule out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from olmoearth_core.inference.blend import PROBABILITY_STEPS
from olmoearth_core.models.prediction_sets import PredictionSets
from olmoearth_core.postprocess.derived import write_derived
from olmoearth_core.postprocess.mosaic import NODATA, Band, blocks

SETS = "sets.tif"


def write_sets(
    path: Path,
    probabilities: Path,
    sets: PredictionSets,
    coverage: float,
    names: Sequence[str],
    tags: Mapping[str, str],
    scratch: Path,
) -> None:
    """Write a COG: band 1 how many classes are in the set, then a band a class, 1 where it is in; uint8, 255 nodata.

    Args:
        path: what to write.
        probabilities: probabilities.tif of the map; read block by block.
        sets: what each class needs.
        coverage: share of the pixels of each class whose set should hold it.
        names: of the classes.
        tags: metadata of the file.
        scratch: folder for what is in between.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """

    def members(stored: np.ndarray) -> np.ndarray:
        found = sets.members(stored, coverage, PROBABILITY_STEPS)
        return np.concatenate([found.sum(axis=0, keepdims=True), found]).astype(np.uint8)

    bands = [Band("classes in the set", 1), *(Band(f"may be {name}", k + 2) for k, name in enumerate(names))]
    told = dict(tags) | {"OLMOEARTH_COVERAGE": f"{coverage:g}"}
    write_derived(path, probabilities, bands, members, tags=told, scratch=scratch)


def set_sizes(paths: Sequence[Path], classes: int) -> dict[str, int]:
    """How many pixels of a map, one file a zone, have a set of 1, 2, ... classes."""
    counted = np.zeros(NODATA + 1, np.int64)
    for block, _ in chain.from_iterable(map(blocks, paths)):
        counted += np.bincount(block.ravel(), minlength=NODATA + 1)
    return {str(size): int(counted[size]) for size in range(1, classes + 1)}
