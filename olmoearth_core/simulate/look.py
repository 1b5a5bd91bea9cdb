"""Reading the world's scenes as a classifier on pixels does: one date, all bands at 10 m."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import rasterio

from olmoearth_core.simulate.scene import COLLECTION, OFFSET
from olmoearth_core.simulate.season import BANDS
from olmoearth_core.simulate.sky import BARE, VEGETATION
from olmoearth_core.simulate.world import World


def scene_dates(world: World) -> list[date]:
    """The dates there is a scene of, oldest first."""
    folders = (world.folder / COLLECTION).glob("S2_simulated_*")
    return sorted(datetime.strptime(folder.name[-8:], "%Y%m%d").date() for folder in folders)


def look(world: World, day: date, bands: tuple[str, ...] = tuple(BANDS)) -> np.ndarray:
    """The scene of `day`, (bands, H, W) float32 reflectance at 10 m."""
    return np.stack([(_read(world, day, band).astype(np.float32) - OFFSET) / 10000 for band in bands])


def clear_pixels(world: World, day: date) -> np.ndarray:
    """Where the scene of `day` shows the ground according to its scene classes, (H, W) bool."""
    return np.isin(_read(world, day, "SCL"), (VEGETATION, BARE))


def _read(world: World, day: date, asset: str) -> np.ndarray:
    with rasterio.open(world.folder / COLLECTION / f"S2_simulated_{day:%Y%m%d}" / f"{asset}.tif") as file:
        image = file.read(1)
    step = world.box.width // image.shape[1]
    wide: np.ndarray = image.repeat(step, axis=0).repeat(step, axis=1)
    return wide
