"""Area of each class, counted from the map's pixels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmoearth_core.postprocess.mosaic import block_values
from olmoearth_core.store import write_text


@dataclass(frozen=True)
class ClassArea:
    """How much of the map is of one class.

    Attributes:
        value: in the map.
        name: of the class.
        pixels: how many.
        hectares: pixels times the area of a pixel on the grid. (UTM: up to 0.1 % off the ground's.)
        share: of all mapped pixels, 0..1; 0 where none is mapped.
    """

    value: int
    name: str
    pixels: int
    hectares: float
    share: float


def class_areas(path: Path, names: Sequence[str], resolution: float) -> list[ClassArea]:
    """Count the map at `path`, block by block; `resolution` is the edge of a pixel in metres."""
    counts = np.zeros(256, np.int64)
    for block in block_values(path):
        counts += np.bincount(block.ravel(), minlength=256)
    pixels = counts[: len(names)].tolist()
    total = max(1, sum(pixels))
    return [
        ClassArea(value, name, pixels[value], round(pixels[value] * resolution**2 / 1e4, 4), pixels[value] / total)
        for value, name in enumerate(names)
    ]


def write_areas(path: Path, areas: Sequence[ClassArea]) -> None:
    """Write areas.csv: class, value, pixels, hectares, share."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "value", "pixels", "hectares", "share"])
    for area in areas:
        table.writerow([area.name, area.value, area.pixels, f"{area.hectares:.4f}", f"{area.share:.6f}"])
    write_text(path, text.getvalue())
