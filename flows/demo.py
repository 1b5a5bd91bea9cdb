"""The demo: the whole lifecycle on a small simulated region, held against its known truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from olmoearth_core.progress import Progress
from olmoearth_core.simulate import Accuracy

WORLD = "world"
SIZE_PIXELS = 384
LEAST_ACCURACY, MOST_BASELINE = 0.9, 0.75
"""What the demo promises: a season tells the classes apart, a single date does not."""


@dataclass(frozen=True)
class Demo:
    """What the demo made and how good it is."""

    project: Path
    stages: list[dict[str, Any]]
    map: Path
    preview: Path
    accuracy: Accuracy
    baseline_date: date
    baseline: float
    """Accuracy of a pixel random forest on the best single date."""

    @property
    def shortfall(self) -> str | None:
        """What the demo promises and does not keep, as a sentence; None where it keeps all."""
        if self.accuracy.overall >= LEAST_ACCURACY and self.baseline <= MOST_BASELINE:
            return None
        return (
            f"Promised is an accuracy of at least {LEAST_ACCURACY} from the season, at most {MOST_BASELINE} from "
            f"one date; found are {self.accuracy.overall:.3f} and {self.baseline:.3f}."
        )


def run_demo(folder: Path, progress: Progress) -> Demo:
    """Simulate a region in `folder`, run its project, hold the map against the truth; does only what is missing.

    Raises:
        CoreError: `folder` holds something else.
    """
    from flows.run import run_lifecycle
    from olmoearth_core.project import PROJECT_FILE, load_project
    from olmoearth_core.simulate import map_accuracy, simulate_world, single_date_baseline, world_preview
    from olmoearth_core.templates import find_template, write_template

    root = folder.expanduser().resolve()
    if not (root / PROJECT_FILE).is_file():
        write_template(find_template("demo"), root, project_name="demo")
    world = simulate_world(root / WORLD, size=SIZE_PIXELS, progress=progress)
    stages = run_lifecycle(load_project(root), progress)
    product = root / stages[-1]["folder"]
    with progress.bar("random forest on each date") as advance:
        baseline_date, baseline = single_date_baseline(world)
        advance(1)
    preview = root / "demo.png"
    world_preview(world, product / "map.tif", preview, baseline=baseline)
    accuracy = map_accuracy(product / "map.tif", world)
    return Demo(root, stages, product / "map.tif", preview, accuracy, baseline_date, baseline)
