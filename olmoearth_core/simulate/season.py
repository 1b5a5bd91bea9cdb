"""The year on the ground: how green, how dry and how bare each parcel is on a day, and what it reflects.

A pixel is a linear mixture of green canopy, straw and soil (the mixture model of Settle and Drake 1993). Green cover
follows double logistic curves, as is usual for phenology (Beck et al. 2006). Sowing, growth and harvest days, canopy,
soil and management are each parcel's own: on one date the classes overlap, over the year they do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from olmoearth_core.simulate.land import CLASSES, Land
from olmoearth_core.simulate.noise import smooth_field

BANDS = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20,
    "B07": 20, "B08": 10, "B8A": 20, "B09": 60, "B11": 20, "B12": 20,
}  # fmt: skip
"""Sentinel-2 band -> native resolution in metres, in order of wavelength."""

# Reflectance in the order of BANDS; typical values of field spectra.
_GREEN = np.array([0.025, 0.032, 0.062, 0.035, 0.105, 0.31, 0.39, 0.42, 0.44, 0.43, 0.21, 0.105])
_CANOPY = np.array([0.018, 0.024, 0.046, 0.027, 0.075, 0.24, 0.31, 0.33, 0.35, 0.34, 0.16, 0.075])
_STRAW = np.array([0.070, 0.088, 0.130, 0.165, 0.205, 0.24, 0.26, 0.29, 0.31, 0.31, 0.35, 0.26])
_BRIGHT = np.array([0.090, 0.110, 0.150, 0.190, 0.215, 0.235, 0.255, 0.275, 0.295, 0.30, 0.37, 0.32])
_DARK = np.array([0.048, 0.056, 0.076, 0.098, 0.115, 0.13, 0.14, 0.155, 0.165, 0.17, 0.22, 0.185])
_PIGMENT = np.array([1.0, 1.0, 0.8, 1.0, 0.9, 0.4, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0])
"""How much a band of green canopy answers to chlorophyll."""

WINTER, SUMMER, DOUBLE, GRASS, WOOD = range(len(CLASSES))


@dataclass(frozen=True)
class Season:
    """What makes each parcel and pixel its own for the whole year: see `draw_season` for the meaning of the draws."""

    land: Land
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    cover: dict[str, np.ndarray]
    perennial: dict[str, np.ndarray]
    traits: dict[str, np.ndarray]
    texture: np.ndarray
    """(H, W) float32, growth inside the parcels, mean 0, deviation 1."""
    soil: np.ndarray
    """(H, W) float32, 0 (dark, wet) to 1 (bright, dry)."""


def draw_season(land: Land, rng: np.random.Generator) -> Season:
    """Draw the calendar and the traits of every parcel. Days count from 1 January; standard deviations in days."""
    kind, count = land.kind, len(land.kind)

    def around(days: dict[int, float], deviation: float) -> np.ndarray:
        """A day for each parcel, normal around its class's."""
        return np.array([days.get(int(k), 0.0) for k in kind]) + rng.normal(0.0, deviation, count)

    def share(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count)

    # the crop of the first half of the year: a cereal (winter, double), or a cover crop or weeds before the summer crop
    cereal = np.isin(kind, (WINTER, DOUBLE))
    down = around({WINTER: 166, DOUBLE: 152, SUMMER: 106}, 9.0)
    first = {
        "tall": np.where(
            cereal, share(0.7, 0.97), np.where(rng.random(count) < 0.5, share(0.25, 0.85), share(0, 0.15))
        ),
        "winter": share(0.15, 0.55),
        "up": around({WINTER: 78, DOUBLE: 70, SUMMER: 72}, 10.0),
        "down": down,
        "harvest": down + np.where(cereal, 19 + rng.normal(0, 5, count), 5),
        "straw": np.where(cereal, share(0.15, 0.6), share(0.0, 0.2)),
        "plough": down + share(20, 120),
    }
    # the crop of the second half: maize or sunflower, the second crop of the double croppers
    main = np.isin(kind, (SUMMER, DOUBLE))
    down = around({SUMMER: 254, DOUBLE: 279}, 12.0)
    second = {
        "tall": np.where(main, share(0.5, 0.95), 0.0),
        "up": around({SUMMER: 164, DOUBLE: 212}, 11.0),
        "down": down,
        "harvest": down + 18 + rng.normal(0, 6, count),
        "straw": share(0.1, 0.5),
        "plough": down + share(25, 90),
    }
    # what grows on arable land in autumn: a catch crop or volunteers after the cereal, the next cereal after the others
    caught = rng.random(count) < 0.5
    cover = {
        "tall": np.where(kind == WINTER, np.where(caught, share(0.3, 0.85), share(0.0, 0.2)), share(0.0, 0.35)),
        "up": around({WINTER: 240, SUMMER: 318, DOUBLE: 335}, 14.0),
        "down": np.where(kind == WINTER, share(300, 400), 500.0),
    }
    perennial = {
        "tall": np.where(kind == WOOD, share(0.6, 0.97), share(0.6, 0.95)),
        "winter": np.where(kind == WOOD, share(0.05, 0.35), share(0.35, 0.8)),
        "up": around({GRASS: 80, WOOD: 106}, 9.0),
        "down": around({WOOD: 306}, 10.0),
        "drought": share(0.05, 0.7),
        "cut1": np.where(rng.random(count) < 0.75, around({GRASS: 142}, 14.0), 999.0),
        "cut2": np.where(rng.random(count) < 0.55, around({GRASS: 195}, 16.0), 999.0),
        "cut3": np.where(rng.random(count) < 0.35, around({GRASS: 258}, 16.0), 999.0),
    }
    traits = {
        "pigment": rng.normal(0.0, 0.16, count),
        "structure": rng.normal(1.0, 0.09, count),
        "water": rng.normal(1.0, 0.10, count),
    }
    shape = land.box.shape
    soil = 0.5 + 0.18 * smooth_field(rng, shape, scale=120, roughness=2.5) + rng.normal(0, 0.17, count)[land.ids]
    return Season(
        land=land,
        first=first,
        second=second,
        cover=cover,
        perennial=perennial,
        traits=traits,
        texture=smooth_field(rng, shape, scale=12, roughness=2.0),
        soil=np.clip(soil + 0.05 * smooth_field(rng, shape, scale=6, roughness=1.5), 0, 1).astype(np.float32),
    )


def covers(season: Season, day: int) -> tuple[np.ndarray, np.ndarray]:
    """(green, straw) cover of each parcel on a day of the year, (F,) each, shares of the ground."""
    green, straw = np.zeros((2, len(season.land.kind)))
    for crop in (season.first, season.second):
        rest = crop.get("winter", 0.0)
        grown = crop["tall"] * (rest + (1 - rest) * expit((day - crop["up"]) / 9.0))
        ripe = expit((day - crop["down"]) / 6.0)
        standing = day < crop["harvest"]
        green += np.where(standing, grown * (1 - ripe), 0.0)
        stubble = crop["straw"] * (crop["tall"] > 0) * expit((crop["plough"] - day) / 3.0)
        straw += np.where(standing, 0.85 * grown * ripe, stubble)
    cover = season.cover
    green += cover["tall"] * expit((day - cover["up"]) / 10.0) * expit((cover["down"] - day) / 6.0)

    meadow, dry = _meadow(season.perennial, day)
    leaf, litter = _trees(season.perennial, day)
    kind = season.land.kind
    green = np.select([kind == GRASS, kind == WOOD], [meadow, leaf], green)
    straw = np.select([kind == GRASS, kind == WOOD], [dry, litter], straw)
    green = np.clip(green, 0, 0.97)
    return green, np.clip(straw, 0, 1 - green)


def _meadow(grass: dict[str, np.ndarray], day: int) -> tuple[np.ndarray, np.ndarray]:
    rest = grass["winter"]
    lush = grass["tall"] * (rest + (1 - rest) * expit((day - grass["up"]) / 12.0) * expit((320 - day) / 15.0))
    parched = grass["drought"] * np.exp(-(((day - 222) / 38.0) ** 2))
    green = lush * (1 - parched)
    for cut in (grass["cut1"], grass["cut2"], grass["cut3"]):
        green = green * np.where(day >= cut, 1 - 0.65 * np.exp(-np.clip(day - cut, 0, None) / 16.0), 1.0)
    return green, 0.15 + 0.6 * lush * parched


def _trees(wood: dict[str, np.ndarray], day: int) -> tuple[np.ndarray, np.ndarray]:
    leaf = expit((day - wood["up"]) / 6.0) * expit((wood["down"] - day) / 8.0)
    green = wood["tall"] * (wood["winter"] + (1 - wood["winter"]) * leaf)
    return green, 0.55 * (1 - leaf) * wood["tall"]


def ground_reflectance(season: Season, day: int, rng: np.random.Generator) -> np.ndarray:
    """Reflectance of the ground at 10 m on a day of the year, (12, H, W) float32 in the order of BANDS.

    `rng` draws what is of that day only: how wet the soil is, and on which fields rain or irrigation fell.
    """
    land, ids = season.land, season.land.ids
    count = len(land.kind)
    green, straw = covers(season, day)
    wet = rng.uniform(0.0, 0.25) + np.clip(rng.normal(0.0, 0.08, count), -0.1, 0.3)
    leafy = np.where((land.kind == WOOD)[:, None], _CANOPY, _GREEN) * (1 + season.traits["pigment"][:, None] * _PIGMENT)
    leafy[:, 5:10] *= season.traits["structure"][:, None]
    leafy[:, 10:] *= season.traits["water"][:, None]

    growth = 1 + 0.10 * season.texture
    green_here = np.clip(green[ids] * growth, 0, 0.98).astype(np.float32)
    straw_here = np.minimum(straw[ids], 1 - green_here).astype(np.float32)
    bare_here = 1 - green_here - straw_here
    dry_soil = (1 - wet[ids]).astype(np.float32) * bare_here
    bright = season.soil * dry_soil
    ground = np.empty((len(BANDS), *ids.shape), np.float32)
    for index in range(len(BANDS)):
        ground[index] = (
            green_here * leafy[:, index].astype(np.float32)[ids]
            + straw_here * np.float32(_STRAW[index])
            + bright * np.float32(_BRIGHT[index] - _DARK[index])
            + dry_soil * np.float32(_DARK[index])
        )
    return ground
