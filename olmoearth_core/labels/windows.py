"""Windows around labels.

Windows lie on the grid's one lattice, so that they never overlap, or have a label in their middle; each carries the
labels of one date. What is known inside of them is in targets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from olmoearth_core.grid import PixelBox
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.places import Kind, find_places
from olmoearth_core.labels.sampling import sample
from olmoearth_core.project import Project, SamplingConfig

IGNORE = 255
"""Value of target pixels without a label: left out of loss and metrics."""


@dataclass(frozen=True)
class TrainingWindow:
    """One window at the date of its labels; `split` is theirs where labels name one, else empty."""

    name: str
    box: PixelBox
    date: date
    split: str = ""

    @property
    def centre(self) -> PixelBox:
        """The pixel in its middle (right of and below it, of an even size): what decides which block it is in."""
        box = self.box
        return box.grid.box(box.column + box.width // 2, box.row + box.height // 2, 1, 1)


def windows_of(project: Project, labels: Labels) -> list[TrainingWindow]:
    """The training windows that project.yaml asks for (labels.windows, labels.sampling)."""
    config = project.config.labels
    return training_windows(labels, project.config.model.window_size, config.windows, config.sampling)


def training_windows(
    labels: Labels, window_size: int, kind: Kind = "lattice", sampling: SamplingConfig | None = None
) -> list[TrainingWindow]:
    """Windows around the labels, one for each date (and split that labels name), ordered by date, row and column.

    A box that a polygon touches without holding a pixel centre may be among them; its target is then empty.

    Args:
        labels: as from `read_labels`.
        window_size: edge of a window in pixels.
        kind: on the lattice or centred on labels (`find_places`).
        sampling: which of them are kept; all when not given.
    """
    grid = labels.grid
    places = find_places(labels, window_size, kind)
    if sampling is not None:
        places = places.take(sample(places, sampling, window_size, grid.resolution))
    days, splits = places.days.tolist(), places.splits.tolist()
    rows = zip(*(v.tolist() for v in (places.day, places.row, places.column, places.split)), strict=True)
    return [
        TrainingWindow(
            f"{days[day]:%Y%m%d}_{row}_{column}{'_' if splits[split] else ''}{splits[split]}",
            grid.box(column, row, window_size, window_size),
            days[day],
            splits[split],
        )
        for day, row, column, split in rows
    ]
