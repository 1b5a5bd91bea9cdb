"""What a run will make of a project's labels, known before a pixel is read: windows of each split, classes, bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.imagery.scene import available_bands, read_scenes
from olmoearth_core.imagery.search import freeze_label_scenes
from olmoearth_core.labels.frozen import freeze_blocks, read_blocks
from olmoearth_core.labels.leakage import must_go
from olmoearth_core.labels.split import SPLITS, block_of, block_pixels, splits_of
from olmoearth_core.labels.tasks import Counted, look_at, read_all
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project


@dataclass(frozen=True)
class ClassOutlook:
    """What is labelled of one class.

    Attributes:
        pixels: labelled pixels, of all windows.
        share: of all labelled pixels.
        windows: split -> windows with the class, after the buffer.
    """

    pixels: int
    share: float
    windows: Mapping[str, int]


@dataclass(frozen=True)
class Outlook:
    """The training set to be; clouds and gaps in the imagery may still take windows away.

    Attributes:
        classes: by name, in the project's order.
        windows: split -> windows.
        left_out: split -> windows that the buffer, or other splits' windows on the same ground and days, take away.
        blocks: split -> blocks of ground that its windows lie in; intervals of scores are drawn from them.
        missing_bands: modality -> bands that the catalogue does not have, and the encoder does without.
    """

    classes: Mapping[str, ClassOutlook]
    windows: Mapping[str, int]
    left_out: Mapping[str, int]
    blocks: Mapping[str, int]
    missing_bands: Mapping[str, tuple[str, ...]]


def outlook(project: Project, progress: Progress, counted: Counted | None = None) -> Outlook:
    """Deal the labels' windows out as preprocessing will.

    Blocks of splits are frozen into the project's splits/ as the stage would do. The labels are read and counted unless
    they come with `counted`.

    Raises:
        CoreError: the labels, the catalogue or the table of blocks cannot be used.
    """
    config = project.config
    counted = counted or look_at(project, read_all(project), progress)
    windows, labels = counted.windows, next(iter(counted.labels.values()))
    names = config.task.strata
    pixels, _ = counted.amounts[config.task.name]
    split = config.dataset.split
    blocks = read_blocks(freeze_blocks(project, progress, counted)) if split.kind == "blocks" else None
    splits = splits_of(windows, split, blocks)
    gone = must_go(windows, splits, split, blocks, config.imagery.framing.spans)
    labelled = pixels.any(axis=1)
    member = {name: np.array(splits) == name for name in SPLITS}
    size = block_pixels(split, config.model.window_size, labels.grid.resolution)
    block = [block_of(window.centre, size) for window in windows]
    total = max(int(pixels.sum()), 1)
    scenes = read_scenes(freeze_label_scenes(project, progress), project.root)
    missing = {
        modality: tuple(band for band in get_modality(modality).bands if band not in available_bands(scenes, modality))
        for modality in config.imagery.modalities
    }
    return Outlook(
        classes={
            name: ClassOutlook(
                pixels=int(of_class.sum()),
                share=float(of_class.sum() / total),
                windows={one: int((member[one] & ~gone & (of_class > 0)).sum()) for one in SPLITS},
            )
            for name, of_class in zip(names, pixels.T, strict=True)
        },
        windows={name: int((member[name] & ~gone & labelled).sum()) for name in SPLITS},
        left_out={name: int((member[name] & gone & labelled).sum()) for name in SPLITS},
        blocks={
            name: len({block[k] for k in np.flatnonzero(member[name] & ~gone & labelled).tolist()}) for name in SPLITS
        },
        missing_bands={modality: bands for modality, bands in missing.items() if bands},
    )
