"""The one composing function: scenes and a box in, a cube out. Preprocessing and mapping both call it.

    for each timestep:  rank the scenes -> mask clouds and nodata -> least cloudy, or median -> (C, H, W)

A composed pixel depends on the scenes, the timestep and its position, never on the box asked for: compose(A) cropped to
B equals compose(B), bit for bit, for any B inside A. Scenes are ranked as whole items, sampling is by pixel
(sampling.py), and what is skipped to save reading could not have changed a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from olmoearth_core.errors import ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.footprint import check_place, near
from olmoearth_core.imagery.mask import clear_pixels, has_data
from olmoearth_core.imagery.modality import Modality, get_modality
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import Method, Plan, Points, SourceGrid, plan
from olmoearth_core.imagery.scene import Scene, SceneList
from olmoearth_core.stage import Meter

Composite = Literal["least_cloudy", "median"]
Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

PIECE = 512
"""Edge in pixels of the parts that a larger box is composed in, so that memory does not grow with it."""


def compose(
    scenes: SceneList,
    box: PixelBox,
    timesteps: Sequence[Timestep],
    *,
    modality: str,
    bands: Sequence[str],
    composite: Composite,
    reader: AssetReader | None = None,
    meter: Meter | None = None,
) -> Cube:
    """Compose `scenes` over `box`, one composite a timestep.

    A pixel of a scene is an observation where its classification (if it has one) tells no cloud and every band has
    data. `least_cloudy` takes the observation of the scene with the least cloud cover; `median` takes the median of
    all, band by band, rounded to whole numbers. An asset that is gone or broken costs the observations of its scene in
    this box, and is listed in `reader.failures`.

    Args:
        bands: which, and in which order (`available_bands` tells what there is). A scene that lacks one is not used.
        reader: shared between calls, it keeps files open and may read with several threads; one of its own when not
            given.
        meter: counts bytes, for the reader that is made when none is given.

    Returns:
        The cube: data (T, C, H, W), 0 where not valid; a timestep without observation is not valid anywhere.

    Raises:
        ImageryError: unknown modality or band.
        TransientError: the network is down: an outage must not pass for missing imagery.
    """
    kind = get_modality(modality)
    if unknown := [band for band in bands if band not in kind.bands]:
        raise ImageryError(f"{modality} has no band {', '.join(unknown)}; allowed are {', '.join(kind.bands)}")
    data = np.zeros((len(timesteps), len(bands), *box.shape), kind.dtype)
    observations = np.zeros((len(timesteps), *box.shape), np.uint8)
    usable = sorted(
        (s for s in scenes.scenes if s.modality == modality and set(bands) <= s.assets.keys() and near(s.bbox, box)),
        key=lambda scene: scene.rank,
    )
    combine = _least_cloudy if composite == "least_cloudy" else _median
    own: AbstractContextManager[AssetReader] = nullcontext(reader) if reader else AssetReader(meter)
    with own as shared:
        for piece in _pieces(box):
            rows, columns = piece.slices_in(box)
            observer = _Observer(scenes, piece, kind, tuple(bands), shared)
            for t, step in enumerate(timesteps):
                candidates = [scene for scene in usable if scene.in_step(step)]
                combine(candidates, observer, data[t, :, rows, columns], observations[t, rows, columns])
    dates = np.array([step.date for step in timesteps], "datetime64[D]")
    return Cube(modality, tuple(bands), data, observations > 0, observations, dates, box)


class _Observer:
    """What single scenes show of one box."""

    def __init__(
        self, scenes: SceneList, box: PixelBox, modality: Modality, bands: tuple[str, ...], reader: AssetReader
    ):
        self.scenes, self.box, self.modality, self.bands, self.reader = scenes, box, modality, bands, reader
        self._points = Points(box)
        self._plans: dict[tuple[SourceGrid, Method], Plan | None] = {}

    def observe(self, scene: Scene, wanted: Mask) -> tuple[Pixels, Mask] | None:
        """The observations of one scene; None where it adds nothing to `wanted` (H, W), or cannot be read.

        Returns:
            pixels (C, H, W) and where they are observations (H, W).
        """
        try:
            clear = self._clear(scene)
            if clear is None or not (clear & wanted).any():
                return None
            pixels = self._pixels(scene)
            return None if pixels is None else (pixels, clear & has_data(pixels))
        except _LostError:
            return None

    def _clear(self, scene: Scene) -> Mask | None:
        """(H, W) where the classification tells ground; everywhere for a scene without one."""
        if scene.mask is None:
            return np.ones(self.box.shape, np.bool_)
        classes = self._sample(scene, "mask", scene.mask, "classes")
        return None if classes is None else clear_pixels(classes, self.modality)

    def _pixels(self, scene: Scene) -> Pixels | None:
        """(C, H, W) of a scene with its offset removed, 0 where there is no data."""
        pixels = np.empty((len(self.bands), *self.box.shape), self.modality.dtype)

        def read(c: int) -> bool:
            band = self._sample(scene, self.bands[c], scene.assets[self.bands[c]], "values")
            if band is not None:
                pixels[c] = band
            return band is not None

        # the first band alone tells whether the scene touches the box, before the others are opened
        if read(0) and all(self.reader.map(read, range(1, len(self.bands)))):
            return pixels
        return None

    def _sample(self, scene: Scene, asset: str, href: str, method: Method) -> Pixels | None:
        """One asset on the box (H, W); None where it does not touch it."""
        address = self.scenes.address(scene, href)
        try:
            header = self.reader.header(address)
            check_place(scene.bbox, header.grid)
            how = self._plan(header.grid, method)
            if how is None:
                return None
            source = self.reader.read(address, how.window)
            if method == "values":
                source = _stored_values(source, scene.offset, np.dtype(self.modality.dtype))
            return how.apply(source)
        except ImageryError as error:
            self.reader.lost(scene.id, asset, error)
            raise _LostError from error

    def _plan(self, source: SourceGrid, method: Method) -> Plan | None:
        key = source, method
        if key not in self._plans:
            self._plans[key] = plan(source, self.box, self._points, method)
        return self._plans[key]


class _LostError(Exception):
    """An asset of a scene could not be read; it is recorded."""


def _stored_values(pixels: Pixels, offset: int, dtype: np.dtype[Any]) -> Pixels:
    """Pixels as the modality's dtype with the offset removed; 0 stays 0, and nothing else becomes 0."""
    if pixels.dtype != dtype:
        if pixels.dtype.kind not in "ui":
            raise ImageryError(f"holds {pixels.dtype} values; whole numbers (reflectance x 10000) are expected")
        limits = np.iinfo(dtype)
        pixels = np.clip(pixels, limits.min, limits.max).astype(dtype)
    if offset:
        # reflectance at or below zero is dark ground, not nodata: it becomes 1
        pixels = np.where(pixels == 0, 0, np.maximum(pixels, offset + 1) - offset).astype(dtype)
    return pixels


def _least_cloudy(scenes: Sequence[Scene], observer: _Observer, data: Pixels, observations: NDArray[np.uint8]) -> None:
    """Fill data (C, H, W) from the first of `scenes` (ranked) that observes a pixel."""
    for scene in scenes:
        missing = observations == 0
        if not missing.any():
            return
        if (seen := observer.observe(scene, missing)) is not None:
            pixels, valid = seen
            if (taken := missing & valid).all():
                data[...] = pixels
            else:
                np.copyto(data, pixels, where=taken)
            observations[taken] = 1


def _median(scenes: Sequence[Scene], observer: _Observer, data: Pixels, observations: NDArray[np.uint8]) -> None:
    """Fill data (C, H, W) with the median of all observations of a pixel, halves rounded up."""
    everywhere = np.ones(observations.shape, np.bool_)
    seen = [found for scene in scenes if (found := observer.observe(scene, everywhere)) is not None]
    if not seen:
        return
    valid = np.stack([mask for _, mask in seen])
    count = valid.sum(axis=0)
    for c in range(len(data)):
        # what is not valid sorts to the end, behind the `count` values that matter
        values = np.where(valid, np.stack([pixels[c] for pixels, _ in seen]), np.iinfo(data.dtype).max)
        values.sort(axis=0)
        low, high = (
            np.take_along_axis(values, np.maximum(middle, 0)[None], axis=0)[0].astype(np.uint32)
            for middle in ((count - 1) // 2, np.minimum(count // 2, len(seen) - 1))
        )
        data[c] = np.where(count > 0, (low + high + 1) // 2, 0)
    observations[...] = np.minimum(count, 255)


def _pieces(box: PixelBox) -> Iterator[PixelBox]:
    for top in range(0, box.height, PIECE):
        for left in range(0, box.width, PIECE):
            height, width = min(PIECE, box.height - top), min(PIECE, box.width - left)
            yield PixelBox(box.grid, box.column + left, box.row + top, width, height)
