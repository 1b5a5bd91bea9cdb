"""Area of each class, counted from the map's pixels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from olmoearth_core.grid import areal_scale
from olmoearth_core.postprocess.mosaic import blocks
from olmoearth_core.store import write_text


@dataclass(frozen=True)
class ClassArea:
    """How much of the map is of one class.

    Attributes:
        value: in the map.
        name: of the class.
        pixels: how many.
        hectares: on the ground: each block's pixels over the areal scale of the CRS in the block's middle.
        share: of all mapped pixels, 0..1; 0 where none is mapped.
    """

    value: int
    name: str
    pixels: int
    hectares: float
    share: float


def class_areas(paths: Sequence[Path], names: Sequence[str]) -> list[ClassArea]:
    """Count a map, one file a zone, whose CRS is in metres, block by block."""
    counts, square_metres = np.zeros(256, np.int64), np.zeros(256, np.float64)
    for path in paths:
        with rasterio.open(path) as source:
            crs, pixel = source.crs, abs(source.transform.a * source.transform.e)
        for block, (x, y) in blocks(path):
            here = np.bincount(block.ravel(), minlength=256)
            counts += here
            square_metres += here * pixel / areal_scale(crs, np.array([x]), np.array([y]))
    pixels, hectares = counts[: len(names)].tolist(), (square_metres[: len(names)] / 1e4).tolist()
    total = max(1, sum(pixels))
    return [
        ClassArea(value, name, pixels[value], round(hectares[value], 4), pixels[value] / total)
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
