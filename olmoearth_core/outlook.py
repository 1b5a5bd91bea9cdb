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
from olmoearth_core.labels.split import SPLITS, splits_of
from olmoearth_core.labels.targets import count_pixels
from olmoearth_core.labels.tasks import all_windows, read_all
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
        missing_bands: modality -> bands that the catalogue does not have, and the encoder does without.
    """

    classes: Mapping[str, ClassOutlook]
    windows: Mapping[str, int]
    left_out: Mapping[str, int]
    missing_bands: Mapping[str, tuple[str, ...]]


def outlook(project: Project, progress: Progress) -> Outlook:
    """Deal the labels' windows out as preprocessing will.

    Blocks of splits are frozen into the project's splits/ as the stage would do.

    Raises:
        CoreError: the labels, the catalogue or the table of blocks cannot be used.
    """
    config = project.config
    every = read_all(project)
    windows, labels = all_windows(project, every), next(iter(every.values()))
    names = config.task.strata
    pixels, _ = count_pixels(labels, windows, progress)
    split = config.dataset.split
    blocks = read_blocks(freeze_blocks(project, progress)) if split.kind == "blocks" else None
    splits = splits_of(windows, split, blocks)
    gone = must_go(windows, splits, split, blocks, config.imagery.framing.spans)
    labelled = pixels.any(axis=1)
    member = {name: np.array(splits) == name for name in SPLITS}
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
        missing_bands={modality: bands for modality, bands in missing.items() if bands},
    )
