"""Smooth random fields and independent random streams, the raw material of a simulated world."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator of its own for each purpose, so that a change in one part of the world leaves the others alone."""
    return np.random.default_rng([seed, *(zlib.crc32(str(word).encode()) for word in purpose)])


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], *, scale: float, roughness: float) -> np.ndarray:
    """A random field with mean 0 and standard deviation 1 whose power falls with frequency.

    Made in the Fourier domain, so it is periodic: rolling it moves it without a seam.

    Args:
        rng: source of randomness.
        shape: (height, width) in pixels.
        scale: size of the largest structures in pixels.
        roughness: exponent of the fall of amplitude with frequency; 1 is ragged, 3 is smooth.

    Returns:
        (height, width) float32.
    """
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]) * scale
    amplitude = (1.0 + frequency**2) ** (-roughness / 2)
    amplitude[0, 0] = 0.0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
    normal: np.ndarray = (field / field.std()).astype(np.float32)
    return normal
