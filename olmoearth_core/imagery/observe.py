"""What single scenes show of one box: read, sampled, masked, in physical values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from olmoearth_core.errors import ImageryError
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery import clouds
from olmoearth_core.imagery.footprint import check_place
from olmoearth_core.imagery.mask import clear_pixels, has_data
from olmoearth_core.imagery.modality import Modality
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import Method, Plan, Points, SourceGrid, plan, sample
from olmoearth_core.imagery.scene import Scene, SceneList
from olmoearth_core.imagery.values import linear, physical

CloudMask = Literal["catalogue", "s2cloudless", "none"]
Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

STACKED = 2**16
"""Pixels up to which bands are sampled in one go: small boxes cost calls, large ones cost memory."""


class Observer:
    """Observations of `box`, scene by scene.

    Args:
        bands: which, and in which order.
        cloud_mask: what tells clouds.
    """

    def __init__(
        self,
        scenes: SceneList,
        box: PixelBox,
        modality: Modality,
        bands: tuple[str, ...],
        cloud_mask: CloudMask,
        reader: AssetReader,
    ):
        self.box, self.modality, self.bands, self._cloud_mask, self._reader = box, modality, bands, cloud_mask, reader
        self._sampler = _Sampler(scenes, box, modality, reader)
        self._around = _Sampler(scenes, clouds.around(box), modality, reader) if cloud_mask == "s2cloudless" else None
        self.shape = box.shape

    def observe(self, scene: Scene, wanted: Mask, out: Pixels) -> Mask | None:
        """The observations of one scene.

        Args:
            wanted: (H, W), the pixels that matter.
            out: (C, H, W), gets the physical values of the bands; not to be used where the scene has no observation.

        Returns:
            (H, W), where it has one; None where it adds nothing to `wanted` or cannot be read.
        """
        try:
            clear = self._clear(scene)
            if clear is None or not (clear & wanted).any():
                return None
            complete = self._sampler.fill(scene, self.bands, out)
            if complete is None:
                return None
            valid = clear if complete else clear & has_data(out)
            if self._around is not None and (valid & wanted).any():
                valid &= self._cloud_free(scene, self._around)
        except _LostError:
            return None
        physical(out, self.modality)
        return valid

    def _clear(self, scene: Scene) -> Mask | None:
        """(H, W), where the quality asset tells ground; everywhere for a scene without one."""
        if scene.mask is None or self.modality.mask is None or self._cloud_mask == "none":
            return np.ones(self.shape, np.bool_)
        quality = self._sampler.quality(scene, scene.mask)
        if quality is None:
            return None
        return clear_pixels(quality, self.modality.mask, clouds=self._cloud_mask == "catalogue")

    def _cloud_free(self, scene: Scene, sampler: _Sampler) -> Mask:
        """(H, W), where s2cloudless sees no cloud."""
        reflectance = np.empty((len(clouds.BANDS), *sampler.box.shape), self.modality.dtype)
        if missing := [band for band in clouds.BANDS if band not in scene.assets]:
            error = ImageryError(f"has no {', '.join(missing)}, which s2cloudless needs")
            self._reader.lost(scene.id, missing[0], error)
            raise _LostError
        if sampler.fill(scene, clouds.BANDS, reflectance) is None:
            return np.zeros(self.shape, np.bool_)
        return clouds.cloud_free(reflectance, self._sampler.box)


class _Sampler:
    """Assets of scenes on one box."""

    def __init__(self, scenes: SceneList, box: PixelBox, modality: Modality, reader: AssetReader):
        self.box = box
        self._scenes, self._modality, self._reader = scenes, modality, reader
        self._points = Points(box)
        self._plans: dict[tuple[SourceGrid, Method], Plan | None] = {}

    def quality(self, scene: Scene, href: str) -> Pixels | None:
        """The quality asset (H, W), 0 outside it; None where it does not touch the box."""
        source = self._read(scene, "mask", href, "classes")
        if source is None:
            return None
        how, pixels = source
        return sample(how, pixels, self.box)

    def fill(self, scene: Scene, bands: Sequence[str], out: Pixels) -> bool | None:
        """Sample `bands` of a scene into `out` (C, H, W), linear values, 0 where there is no data.

        Returns:
            whether every pixel of every band has data; None where the scene does not touch the box.
        """
        # the first band alone tells whether the scene touches the box, before the others are opened
        first = self._band(scene, bands[0])
        if first is None:
            return None
        others = self._reader.map(lambda band: self._band(scene, band), bands[1:])
        plans: list[Plan] = []
        sources: list[Pixels] = []
        for source in (first, *others):
            if source is None:
                return None
            plans.append(source[0])
            sources.append(source[1])
        at_once = max(1, STACKED // (self.box.width * self.box.height))
        start = 0
        while start < len(plans):
            stop = start + 1
            while stop < len(plans) and plans[stop] is plans[start] and stop - start < at_once:
                stop += 1
            pixels = sources[start][None] if stop == start + 1 else np.stack(sources[start:stop])
            plans[start].fill(out[start:stop], pixels)
            start = stop
        return all(pixels.all() for pixels in sources)

    def _band(self, scene: Scene, band: str) -> tuple[Plan, Pixels] | None:
        source = self._read(scene, band, scene.assets[band], "values")
        if source is None:
            return None
        how, pixels = source
        try:
            return how, linear(pixels, scene, self._modality)
        except ImageryError as error:
            self._reader.lost(scene.id, band, error)
            raise _LostError from error

    def _read(self, scene: Scene, asset: str, href: str, method: Method) -> tuple[Plan, Pixels] | None:
        """The part of an asset that fills the box, and how; None where it does not touch it."""
        try:
            address = self._scenes.address(scene, href)
            grid = self._reader.header(address).grid
            check_place(scene.bbox, grid)
            how = self._plan(grid, method)
            return None if how is None else (how, self._reader.read(address, how.window))
        except ImageryError as error:
            self._reader.lost(scene.id, asset, error)
            raise _LostError from error
        except (ValueError, ProjError) as error:  # an address that is none; a CRS that leads nowhere
            self._reader.lost(scene.id, asset, ImageryError(f"cannot be used ({type(error).__name__}: {error})"))
            raise _LostError from error

    def _plan(self, source: SourceGrid, method: Method) -> Plan | None:
        key = source, method
        if key not in self._plans:  # two threads may plan the same: whichever comes first is kept
            self._plans.setdefault(key, plan(source, self.box, self._points, method))
        return self._plans[key]


class _LostError(Exception):
    """An asset of a scene could not be read; it is recorded."""
