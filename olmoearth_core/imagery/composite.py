"""Compositors: what becomes of several observations of one timestep.

    least_cloudy   the observation of the scene with the least cloud cover (a property of the whole scene)
    first_valid    the earliest one
    median         the middle of each band; the mean of two middles, whole numbers rounded up at .5
    medoid         the one observation that is nearest to all others: bands stay together, no value is made up

Each works pixel by pixel, so that a value depends on nothing but the observations of its pixel.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.imagery.observe import Mask, Observer, Pixels
from olmoearth_core.imagery.scene import Scene

Composite = Literal["least_cloudy", "first_valid", "median", "medoid"]
Compositor = Callable[[Sequence[Scene], Observer, "Layer"], None]


class Layer:
    """What is composed of one timestep; views of a cube.

    Attributes:
        data: (C, H, W), 0 where nothing is observed.
        observations: (H, W) uint8.
        observed_on: (H, W) int32.
    """

    def __init__(self, data: Pixels, observations: NDArray[np.uint8], observed_on: NDArray[np.int32]):
        self.data, self.observations, self.observed_on = data, observations, observed_on


def day_number(day: dt.date) -> int:
    """Days since 1970-01-01."""
    return (day - dt.date(1970, 1, 1)).days


def least_cloudy(scenes: Sequence[Scene], observer: Observer, layer: Layer) -> None:
    """Fill `layer` from the first of `scenes`, by cloud cover, that observes a pixel."""
    _fill_in_order(sorted(scenes, key=lambda scene: scene.rank), observer, layer)


def first_valid(scenes: Sequence[Scene], observer: Observer, layer: Layer) -> None:
    """Fill `layer` from the earliest of `scenes` that observes a pixel."""
    _fill_in_order(sorted(scenes, key=lambda scene: (scene.datetime, scene.id)), observer, layer)


def median(scenes: Sequence[Scene], observer: Observer, layer: Layer) -> None:
    """Fill `layer` with the median of all observations of a pixel, band by band."""
    pixels, valid, days = _looks(scenes, observer, layer)
    if not len(pixels):
        return
    count = valid.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(pixels) - 1)
    whole = pixels.dtype.kind in "ui"
    last = np.iinfo(pixels.dtype).max if whole else np.inf
    for c in range(pixels.shape[1]):
        # what is not valid sorts to the end, behind the `count` values that matter
        values = np.where(valid, pixels[:, c], last)
        values.sort(axis=0)
        middles = (np.take_along_axis(values, middle[None], axis=0)[0] for middle in (low, high))
        if whole:
            a, b = (middle.astype(np.uint32) for middle in middles)
            middle = (a + b + 1) // 2
        else:
            a, b = middles
            middle = (a + b) / 2
        layer.data[c] = np.where(count > 0, middle, 0)
    ordered = np.sort(np.where(valid, days[:, None, None], np.iinfo(np.int32).max), axis=0)
    layer.observed_on[...] = np.where(count > 0, np.take_along_axis(ordered, low[None], axis=0)[0], 0)
    layer.observations[...] = np.minimum(count, 255)


def medoid(scenes: Sequence[Scene], observer: Observer, layer: Layer) -> None:
    """Fill `layer` with the observation whose distances to all others of its pixel have the least sum.

    Distances are Euclidean over the bands; of equals the one of the better ranked scene is taken. As in Flood 2013
    (Remote Sensing 5, 6481), with the plain sum.
    """
    pixels, valid, days = _looks(scenes, observer, layer)
    if not len(pixels):
        return
    total = np.zeros(valid.shape, np.float64)
    for i, j in combinations(range(len(pixels)), 2):
        squares = np.zeros(valid.shape[1:], np.float64)
        for c in range(pixels.shape[1]):
            difference = pixels[i, c].astype(np.float64) - pixels[j, c]
            squares += difference * difference
        distance = np.where(valid[i] & valid[j], np.sqrt(squares), 0)
        total[i] += distance
        total[j] += distance
    total[~valid] = np.inf
    chosen = np.argmin(total, axis=0)
    count = valid.sum(axis=0)
    for k in range(len(pixels)):
        taken = (chosen == k) & (count > 0)
        np.copyto(layer.data, pixels[k], where=taken)
        layer.observed_on[taken] = days[k]
    layer.observations[...] = np.minimum(count, 255)


COMPOSITORS: Mapping[Composite, Compositor] = {
    "least_cloudy": least_cloudy,
    "first_valid": first_valid,
    "median": median,
    "medoid": medoid,
}


def _fill_in_order(scenes: Sequence[Scene], observer: Observer, layer: Layer) -> None:
    scratch: Pixels | None = None
    for scene in scenes:
        missing = layer.observations == 0
        if not missing.any():
            return
        nothing_yet = bool(missing.all())
        if not nothing_yet and scratch is None:
            scratch = np.empty_like(layer.data)
        target = layer.data if nothing_yet or scratch is None else scratch
        valid = observer.observe(scene, missing, target)
        taken = missing if valid is None else missing & valid
        if nothing_yet and (valid is None or not taken.all()):
            np.copyto(layer.data, 0, where=True if valid is None else ~taken)
        if valid is None:
            continue
        if not nothing_yet:
            np.copyto(layer.data, target, where=taken)
        layer.observations[taken] = 1
        layer.observed_on[taken] = day_number(scene.date)


def _looks(scenes: Sequence[Scene], observer: Observer, layer: Layer) -> tuple[Pixels, Mask, NDArray[np.int32]]:
    """All observations, best rank first: pixels (N, C, H, W), where valid (N, H, W), and their days (N,).

    Scenes of one acquisition (neighbouring tiles that overlap) are one look at the ground: a pixel counts once.
    """
    ranked = sorted(scenes, key=lambda scene: scene.rank)
    order = {key: k for k, key in reversed(list(enumerate(_look_of(scene) for scene in ranked)))}
    ranked.sort(key=lambda scene: order[_look_of(scene)])
    pixels: list[Any] = []
    valid: list[Mask] = []
    days: list[int] = []
    for _, parts in groupby(ranked, key=_look_of):
        look = list(parts)
        part = Layer(np.zeros_like(layer.data), np.zeros_like(layer.observations), np.zeros_like(layer.observed_on))
        _fill_in_order(look, observer, part)
        if part.observations.any():
            pixels.append(part.data)
            valid.append(part.observations > 0)
            days.append(day_number(look[0].date))
    if not pixels:
        return np.empty((0, *layer.data.shape), layer.data.dtype), np.empty((0, 0, 0), np.bool_), np.empty(0, np.int32)
    return np.stack(pixels), np.stack(valid), np.array(days, np.int32)


def _look_of(scene: Scene) -> str:
    return scene.acquisition or f"{scene.id}"
