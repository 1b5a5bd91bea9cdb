"""What a map's tiles come to, counted as they are finished: of a million, no record is kept of those computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from olmoearth_core.imagery.read import Failure
from olmoearth_core.inference.plan import Plan
from olmoearth_core.inference.product import TileRecord


class Tally:
    """Which tiles of `plan` are finished, and the sums of their records."""

    def __init__(self, plan: Plan) -> None:
        self.finished: set[str] = set()
        """Their names."""
        self._plan = plan
        self._empty: set[str] = set()
        self._windows_seen = self._area_pixels = 0
        self._class_pixels = [0] * plan.model.outputs

    def add(self, name: str, record: TileRecord) -> None:
        """Count a finished tile; one that is counted already is not counted again."""
        if name in self.finished:
            return
        self.finished.add(name)
        self._windows_seen += record.windows_seen
        self._area_pixels += record.area_pixels
        self._class_pixels = [a + b for a, b in zip(self._class_pixels, record.class_pixels, strict=True)]
        if not record.mapped_pixels:
            self._empty.add(name)

    def summary(self, failures: Sequence[Failure]) -> dict[str, Any]:
        """What the stage infer says of its tiles; those without any imagery are named, in the plan's order.

        Args:
            failures: assets that could not be read.
        """
        plan = self._plan
        return {
            "tiles": len(plan.tiles),
            "empty_tiles": [tile.name for tile in plan.tiles if tile.name in self._empty],
            "windows": plan.windows,
            "windows_computed": sum(tile.windows for tile in plan.tiles),
            "windows_seen": self._windows_seen,
            "area_pixels": self._area_pixels,
            "mapped_pixels": sum(self._class_pixels),
            "class_pixels": dict(zip(plan.model.classes, self._class_pixels, strict=False)),  # none of a regression
            "failed_assets": [asdict(failure) for failure in failures],
            "threads": plan.threads,
        }

    def gaps(self, failures: Sequence[Failure]) -> Iterator[str]:
        """What is missing in the map, in sentences."""
        if failures:
            first = failures[0]
            yield (
                f"{len(failures)} assets could not be read and were left out, the first {first.asset} of "
                f"{first.scene}: {first.reason}"
            )
        area_pixels, mapped = self._area_pixels, sum(self._class_pixels)
        if not mapped:
            yield "No pixel of the area has a valid observation: the map holds nodata only."
        elif mapped < area_pixels:
            unseen = area_pixels - mapped
            yield f"{unseen:,} of the area's {area_pixels:,} pixels have no valid observation in any timestep: nodata."
