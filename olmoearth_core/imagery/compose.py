"""The one composing function: scenes and a box in, a cube out. Preprocessing and mapping both call it.

    for each timestep:  each scene -> read, sample, mask (observe.py) -> a compositor (composite.py) -> (C, H, W)

A composed pixel depends on the scenes, the timestep and its position, never on the box asked for: compose(A) cropped to
B equals compose(B), bit for bit, for any B inside A. Scenes are ranked as whole items, sampling is by pixel
(sampling.py), and what is skipped to save reading could not have changed a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from olmoearth_core.errors import ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.composite import COMPOSITORS, Composite, Layer
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.footprint import near
from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.imagery.observe import CloudMask, Observer
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList
from olmoearth_core.stage import Meter

PIECE = 512
"""Edge in pixels of the parts that a larger box is composed in, so that memory does not grow with it."""


def compose(
    scenes: SceneList,
    box: PixelBox,
    timesteps: Sequence[Timestep],
    *,
    modality: str,
    bands: Sequence[str],
    composite: Composite = "least_cloudy",
    cloud_mask: CloudMask = "catalogue",
    reader: AssetReader | None = None,
    meter: Meter | None = None,
) -> Cube:
    """Compose `scenes` over `box`, one composite a timestep.

    A pixel of a scene is an observation where its quality asset (if it has one) tells no cloud and every band has data.
    An asset that is gone or broken costs the observations of its scene in this box, and is listed in `reader.failures`.

    Args:
        bands: which, and in which order (`available_bands` tells what there is). A scene that lacks one is not used.
        composite: what becomes of several observations of a timestep (composite.py).
        cloud_mask: what tells clouds: the quality asset, s2cloudless (clouds.py), or nothing.
        reader: shared between calls, it keeps files open and may read with several threads; one of its own when not
            given.
        meter: counts bytes, for the reader that is made when none is given.

    Returns:
        The cube: data (T, C, H, W), 0 where not valid; a timestep without observation is not valid anywhere.

    Raises:
        ImageryError: unknown modality or band; s2cloudless is asked for and not installed, or for another sensor.
        TransientError: the network is down: an outage must not pass for missing imagery.
    """
    kind = get_modality(modality)
    if unknown := [band for band in bands if band not in kind.bands]:
        raise ImageryError(f"{modality} has no band {', '.join(unknown)}; allowed are {', '.join(kind.bands)}")
    data = np.zeros((len(timesteps), len(bands), *box.shape), kind.dtype)
    observations = np.zeros((len(timesteps), *box.shape), np.uint8)
    observed_on = np.zeros((len(timesteps), *box.shape), np.int32)
    usable = [
        s for s in scenes.scenes if s.modality == modality and set(bands) <= s.assets.keys() and near(s.bbox, box)
    ]
    own: AbstractContextManager[AssetReader] = nullcontext(reader) if reader else AssetReader(meter)
    with own as shared:
        observers = [Observer(scenes, piece, kind, tuple(bands), cloud_mask, shared) for piece in _pieces(box)]
        for t, step in enumerate(timesteps):  # all pieces of a timestep, so that its blocks are read once
            for observer in observers:
                rows, columns = observer.box.slices_in(box)
                part = Layer(data[t, :, rows, columns], observations[t, rows, columns], observed_on[t, rows, columns])
                COMPOSITORS[composite]([scene for scene in usable if scene.in_step(step)], observer, part)
    dates = np.array([step.date for step in timesteps], "datetime64[D]")
    return Cube(modality, tuple(bands), data, observations, observed_on, dates, box)


def _pieces(box: PixelBox) -> Iterator[PixelBox]:
    for top in range(0, box.height, PIECE):
        for left in range(0, box.width, PIECE):
            height, width = min(PIECE, box.height - top), min(PIECE, box.width - left)
            yield PixelBox(box.grid, box.column + left, box.row + top, width, height)
