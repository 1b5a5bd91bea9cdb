"""The air between ground and sensor on one date: clouds and their shadows, haze, and the edge of the orbit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from olmoearth_core.simulate.noise import smooth_field

# Sen2Cor's scene classes
NODATA, SHADOW, VEGETATION, BARE, CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS = 0, 3, 4, 5, 8, 9, 10

_CLOUD = np.array([0.62, 0.62, 0.60, 0.60, 0.61, 0.62, 0.62, 0.62, 0.61, 0.35, 0.42, 0.33], np.float32)
"""Reflectance of a thick cloud in the order of season.BANDS: white, darker in the short-wave infrared."""
_PATH = np.array([0.060, 0.050, 0.034, 0.024, 0.020, 0.017, 0.014, 0.012, 0.011, 0.008, 0.004, 0.002], np.float32)
"""What haze of optical thickness 1 adds, in the order of season.BANDS: most in the blue."""


@dataclass(frozen=True)
class Sky:
    """The air of one date; every array is (H, W) float32 unless said otherwise."""

    cloud: np.ndarray
    """Opacity, 0 to 1."""
    shadow: np.ndarray
    """Share of the direct light that clouds take, 0 to 1."""
    haze: np.ndarray
    """Left after the atmospheric correction; may be negative where that went too far."""
    light: float
    """Gain of the illumination, about 1."""
    outside: np.ndarray
    """(H, W) bool, beyond the edge of the orbit."""


def draw_sky(shape: tuple[int, int], day: int, rng: np.random.Generator) -> Sky:
    """The sky of a day of the year: more overcast in winter, with an orbit edge on about one date in seven."""
    winter = 0.5 + 0.5 * np.cos(2 * np.pi * (day - 10) / 365)
    noise = smooth_field(rng, shape, scale=180, roughness=2.6)
    if rng.random() < 0.10 + 0.22 * winter:
        cloud = np.clip(0.9 + 0.1 * noise, 0.6, 1.0)
        shadow = np.zeros_like(cloud)
    else:
        share = rng.beta(0.45, 1.3)  # of the sky; most often little or much
        cloud = np.clip((noise - np.quantile(noise, 1 - share)) / 0.35, 0.0, 1.0)
        shadow = 0.55 * _cast(cloud, day, height=rng.uniform(600, 1800))
    haze = rng.normal(0.0, 0.15) + abs(rng.normal(0.0, 0.12)) * smooth_field(rng, shape, scale=200, roughness=3.0)
    return Sky(
        cloud=cloud.astype(np.float32),
        shadow=shadow.astype(np.float32),
        haze=haze.astype(np.float32),
        light=float(rng.normal(1.0, 0.035)),
        outside=_orbit_edge(shape, rng) if rng.random() < 1 / 7 else np.zeros(shape, bool),
    )


def _cast(cloud: np.ndarray, day: int, height: float) -> np.ndarray:
    """The clouds' shadow on the ground, for the sun at 11 h local time at 43.5 degrees north."""
    elevation = np.radians(44.0 - 21.0 * np.cos(2 * np.pi * (day + 10) / 365))
    pixels = height / np.tan(elevation) / 10.0
    azimuth = np.radians(158.0)
    move = (round(pixels * np.cos(azimuth)), round(-pixels * np.sin(azimuth)))  # rows grow south, away from the sun
    return np.roll(cloud, move, axis=(0, 1))


def _orbit_edge(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height, width = shape
    column, row = np.arange(width)[None, :], np.arange(height)[:, None]
    edge = rng.uniform(0.2, 0.8) * width - (row - height / 2) * np.tan(np.radians(12.0))
    beyond: np.ndarray = column > edge if rng.random() < 0.5 else column < edge
    return beyond


def through(ground: np.ndarray, sky: Sky) -> np.ndarray:
    """The ground as seen through the sky, (12, H, W) float32 reflectance."""
    lit = ground * (sky.light * (1 - sky.shadow)) + _PATH[:, None, None] * sky.haze
    seen: np.ndarray = lit + (_CLOUD[:, None, None] - lit) * sky.cloud
    return seen


def scene_classes(ground: np.ndarray, sky: Sky) -> np.ndarray:
    """What a scene classification makes of it at 10 m, (H, W) uint8: thin cloud edges escape it, as they do Sen2Cor."""
    red, infrared = ground[3], ground[7]
    classes = np.where((infrared - red) / (infrared + red) > 0.4, VEGETATION, BARE).astype(np.uint8)
    classes[sky.shadow > 0.15] = SHADOW
    classes[sky.cloud > 0.06] = CIRRUS
    classes[sky.cloud > 0.25] = CLOUD_MEDIUM
    classes[sky.cloud > 0.60] = CLOUD_HIGH
    classes[sky.outside] = NODATA
    return classes
