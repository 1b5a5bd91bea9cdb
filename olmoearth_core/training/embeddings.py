"""What a frozen encoder sees, kept: a head then learns on it without the encoder computing anything again.

Each window is encoded once, as it is, and shown so. (A turned map of features is not what the encoder makes of a turned
window: what lies within a patch would have to turn as well, and heads that were taught so lost detail.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.digest import sha256_file
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.progress import Progress
from olmoearth_core.stage import Meter
from olmoearth_core.store import whole_file, write_json
from olmoearth_core.training.data import Batch, Order, Windows, ahead
from olmoearth_core.training.memory import in_parts

DIGESTS = "digests.json"


@dataclass(frozen=True)
class Embedded:
    """The windows of one split as a frozen encoder sees them; stands in for `Windows`.

    Attributes:
        windows: what was seen.
        features: (N, D, h, w) float32, mapped from a file.
        pixels: (N, P, H, W) float16, mapped from a file; None where no head looks at pixels.
        truths: task -> of all windows, (N, H, W).
    """

    windows: Windows
    features: np.ndarray
    pixels: np.ndarray | None
    truths: dict[str, Truth]

    @property
    def rows(self) -> np.ndarray:
        """(N,) rows of the dataset's window table."""
        return self.windows.rows

    def __len__(self) -> int:
        return len(self.windows)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, as it is."""
        plan = [np.arange(first, min(first + batch_size, len(self))) for first in range(0, len(self), batch_size)]
        for positions in plan:
            yield self._batch(positions)

    def shuffled(self, order: Order, prepare: Callable[[Batch], Batch] = lambda batch: batch) -> Iterator[Batch | None]:
        """As `Windows.shuffled`, but nothing is changed in a window."""

        def make(positions: np.ndarray) -> Batch | None:
            return prepare(self._batch(positions)) if len(positions) else None

        return ahead(order.steps(len(self)), make)

    def _batch(self, positions: np.ndarray) -> Batch:
        return Batch(
            rows=self.windows.rows[positions],
            truths={n: Truth(t.strata[positions], _taken(t.values, positions)) for n, t in self.truths.items()},
            features=np.ascontiguousarray(self.features[positions]),
            pixels=_taken(self.pixels, positions),
        )


def embed(
    model: Predictor, windows: Windows, folder: Path, *, batch_size: int, progress: Progress, meter: Meter
) -> Embedded:
    """See every window once with the encoder of `model`, in evaluation mode, or find what was seen before.

    Args:
        model: its encoder looks; it stays as it is.
        windows: what at.
        folder: keeps features.npy and pixels.npy, and their sha256 in digests.json, whole or not at all; the caller
            vouches that it belongs to these windows and this encoder. What is damaged is told and made again.
        batch_size: windows at once.
        progress: is told the windows.
        meter: is told the device seconds.

    Raises:
        StoreError: the disk is full.
    """
    places = {"features": folder / "features.npy"} | ({"pixels": folder / "pixels.npy"} if model.uses_pixels else {})
    truths = list(windows.truths(batch_size))
    if len(windows) and not _verified(places, folder / DIGESTS, progress):
        _look(model, windows, places, batch_size, progress, meter)
        write_json(folder / DIGESTS, {path.name: sha256_file(path) for path in places.values()})
    kept = {name: np.load(path, mmap_mode="r") if len(windows) else np.empty((0,)) for name, path in places.items()}
    return Embedded(windows, kept["features"], kept.get("pixels"), _joined(truths))


def _verified(places: dict[str, Path], digests: Path, progress: Progress) -> bool:
    """Whether all is there and as it was written; what learns from a flipped bit would never tell."""
    if not all(path.is_file() for path in (digests, *places.values())):
        return False
    try:
        known = json.loads(digests.read_text())
        damaged = [path.name for path in places.values() if known.get(path.name, "") != sha256_file(path)]
    except (ValueError, AttributeError):
        damaged = [digests.name]
    for name in damaged:
        progress.note(f"What the encoder saw is damaged ({digests.parent.name}/{name}): it looks at the windows again.")
    return not damaged


def _look(
    model: Predictor, windows: Windows, places: dict[str, Path], batch_size: int, progress: Progress, meter: Meter
) -> None:
    model.encoder.eval()

    def look(part: Batch) -> dict[str, np.ndarray]:
        with torch.inference_mode(), meter.on_device():
            seen = model.look(part.inputs, part.dates, part.valid)
            found = {"features": seen.features.float(), "pixels": seen.pixels}
            return {n: t.to("cpu").numpy() for n, t in found.items() if t is not None and n in places}

    with ExitStack() as files, progress.bar("looking at the windows", len(windows)) as advance:
        # written one part after the other, not mapped: on a full disk a mapped file ends the process without a word
        parts = {name: files.enter_context(whole_file(path)) for name, path in places.items()}
        opened = {name: files.enter_context(path.open("wb")) for name, path in parts.items()}
        begun = set()
        for batch in windows.in_order(batch_size):
            for part, found in in_parts(batch, look):
                for name, array in found.items():
                    dtype = np.dtype("<f2" if name == "pixels" else "<f4")
                    if name not in begun:
                        shape = (len(windows), *array.shape[1:])
                        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(opened[name], header)
                        begun.add(name)
                    opened[name].write(np.ascontiguousarray(array, dtype).tobytes())
                advance(len(part))


def _joined(parts: list[dict[str, Truth]]) -> dict[str, Truth]:
    joined = {}
    for name, first in (parts[0] if parts else {}).items():
        values = None if first.values is None else np.concatenate([p[name].values for p in parts])  # type: ignore[misc]
        joined[name] = Truth(np.concatenate([p[name].strata for p in parts]), values)
    return joined


def _taken(array: np.ndarray | None, positions: np.ndarray) -> np.ndarray | None:
    return None if array is None else np.ascontiguousarray(array[positions])
