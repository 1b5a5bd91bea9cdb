"""What a map's tiles come to, counted as they are finished: a map may have a million, and no record of one is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from olmoearth_core.imagery.read import Failure
from olmoearth_core.inference.plan import Plan
from olmoearth_core.inference.product import TileRecord
from olmoearth_core.progress import Progress


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
        """Count a finished tile, once."""
        self.finished.add(name)
        self._windows_seen += record.windows_seen
        self._area_pixels += record.area_pixels
        self._class_pixels = [a + b for a, b in zip(self._class_pixels, record.class_pixels, strict=True)]
        if not record.mapped_pixels:
            self._empty.add(name)

    def summary(self) -> dict[str, Any]:
        """What the stage infer says of its tiles; those without any imagery are named, in the plan's order."""
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
            "threads": plan.threads,
        }


def summarise(tally: Tally, failures: Sequence[Failure], progress: Progress) -> dict[str, Any]:
    """What a person wants to know of the tiles; what is missing is told to the listener as well."""
    summary = tally.summary()
    area_pixels, mapped = summary["area_pixels"], summary["mapped_pixels"]
    if failures:
        first = failures[0]
        progress.note(
            f"{len(failures)} assets could not be read and were left out, the first {first.asset} of {first.scene}: "
            f"{first.reason}"
        )
    if not mapped:
        progress.note("No pixel of the area has a valid observation: the map holds nodata only.")
    elif mapped < area_pixels:
        unseen = area_pixels - mapped
        progress.note(
            f"{unseen:,} of the area's {area_pixels:,} pixels have no valid observation in any timestep: nodata."
        )
    return summary | {"failed_assets": [asdict(failure) for failure in failures]}
