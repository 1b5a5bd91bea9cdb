"""A simulated region as it lies on disk: where its files are, and its truth, labels and area as pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.features import rasterize
from shapely.geometry import shape

from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.simulate.land import CLASSES

GRID = Grid("EPSG:32631")
CORNER = (39744, -482112)
"""Column and row of the upper left pixel: farmland near Toulouse, a multiple of 960 m (32 px windows, 60 m bands)."""


@dataclass(frozen=True)
class World:
    """A simulated region on disk."""

    folder: Path

    @property
    def catalogue(self) -> Path:
        """The static STAC catalogue."""
        return self.folder / "catalog.json"

    @property
    def labels(self) -> Path:
        """The survey: polygons of some fields with `class`, `start_datetime` and `end_datetime`."""
        return self.folder / "labels" / "fields.geojson"

    @property
    def area(self) -> Path:
        """The area to map."""
        return self.folder / "area.geojson"

    @property
    def truth(self) -> Path:
        """GeoTIFF, uint8, the class of every 10 m pixel of the region as its place in `classes`."""
        return self.folder / "truth.tif"

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the world was made from: version, size, seed, year, step in days, share of the fields surveyed."""
        about: dict[str, Any] = json.loads((self.folder / "world.json").read_text())
        return about

    @property
    def date(self) -> date:
        """1 January of the year: the date of the labels and of the map."""
        return date(self.about["year"], 1, 1)

    @property
    def classes(self) -> dict[str, str]:
        """Class name -> colour, in the order of the truth's values."""
        return {c.name: c.color for c in CLASSES}

    @property
    def box(self) -> PixelBox:
        """The pixels of the region."""
        return region(self.about["size"])

    def read_truth(self) -> np.ndarray:
        """(H, W) uint8."""
        with rasterio.open(self.truth) as file:
            truth: np.ndarray = file.read(1)
        return truth

    def read_labels(self) -> np.ndarray:
        """The survey on the pixels: (H, W) uint8 class where a pixel's centre lies in a label, 255 elsewhere."""
        return self._burn(self.labels, lambda properties: list(self.classes).index(properties["class"]))

    def scored(self) -> np.ndarray:
        """(H, W) bool: pixels of the area that no label touches, where a map can be held against the truth."""
        area = self._burn(self.area, lambda _properties: 1)
        labelled = self._burn(self.labels, lambda _properties: 1, all_touched=True)
        outside: np.ndarray = (area == 1) & (labelled != 1)
        return outside

    def _burn(self, path: Path, value: Any, *, all_touched: bool = False) -> np.ndarray:
        features = json.loads(path.read_text())["features"]
        burnt: np.ndarray = rasterize(
            [(self.box.grid.project(shape(f["geometry"])), value(f["properties"])) for f in features],
            out_shape=self.box.shape,
            transform=self.box.transform,
            fill=255,
            dtype="uint8",
            all_touched=all_touched,
        )
        return burnt


def region(size: int) -> PixelBox:
    """The pixels of a world whose edge is `size` pixels."""
    return GRID.box(*CORNER, size, size)
