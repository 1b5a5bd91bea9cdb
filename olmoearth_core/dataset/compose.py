"""Composing every window of a training set into cubes.zarr, so that a kill costs at most the windows under way.

Neighbours are composed together, so that a block of imagery that many windows share is read once. What is composed
waits in scratch until its shard is full; a shard that is written leaves a journal. The same call after a kill takes
finished shards and waiting windows as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.dataset.cubes import Composed, Cubes, Layout, Truth
from olmoearth_core.errors import DatasetError
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.imagery.footprint import near
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList
from olmoearth_core.labels.targets import Target, amounts, make_target
from olmoearth_core.labels.tasks import TaskLabels
from olmoearth_core.labels.windows import IGNORE, TrainingWindow
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.store import whole_file, write_json

THREADS = min(16, os.cpu_count() or 1)
NEIGHBOURHOOD = 128
"""Edge in pixels of the squares within which windows may be composed together."""
DENSE = 0.25
"""Least share of their common box that windows fill to be composed together; sparser ones are composed one by one."""

_PARTS = ("data", "observations", "observed_on")
"""The arrays of a cube."""

Made = tuple[Composed | None, "Record"]
"""A window as it is stored, None where it is left out, and what is known of it."""


@dataclass(frozen=True)
class Record:
    """What is known of a window once it is composed.

    Attributes:
        left_out: why it is not in the training set; empty when it is.
        valid_share: share of valid pixels over all modalities and timesteps.
        timesteps_seen: timesteps in which any modality has a valid pixel.
        conflicts: task -> pixels on which its labels contradict each other.
        pixels: task -> labelled, visible pixels of each stratum; of a classification 1 for the window's class.
        scenes: the ids of those that could show it.
    """

    name: str
    left_out: str
    valid_share: float
    timesteps_seen: int
    conflicts: dict[str, int]
    pixels: dict[str, list[int]]
    scenes: list[str]


def neighbours(windows: Sequence[TrainingWindow]) -> Iterator[list[TrainingWindow]]:
    """Sort windows into groups that are composed together: of one date, in one square, and densely packed."""
    squares: dict[tuple[object, int, int], list[TrainingWindow]] = {}
    for window in windows:
        place = window.date, window.box.row // NEIGHBOURHOOD, window.box.column // NEIGHBOURHOOD
        squares.setdefault(place, []).append(window)
    for group in squares.values():
        common = _common_box(group)
        filled = sum(w.box.width * w.box.height for w in group) / (common.width * common.height)
        if filled >= DENSE:
            yield group
        else:
            yield from ([window] for window in group)


def _common_box(group: Sequence[TrainingWindow]) -> PixelBox:
    return reduce(PixelBox.union, (window.box for window in group))


@dataclass(frozen=True)
class Composer:
    """Makes the samples of neighbouring windows of one date; many threads may at once."""

    project: Project
    labels: TaskLabels
    scenes: SceneList
    layout: Layout
    reader: AssetReader

    def __call__(self, group: Sequence[TrainingWindow]) -> list[Made]:
        """What becomes of each window of `group`.

        Raises:
            DatasetError: the export cannot be read any more.
        """
        targets = [{name: make_target(own, window) for name, own in self.labels.items()} for window in group]
        labelled = [w for w, target in zip(group, targets, strict=True) if not _unknown(target)]
        cubes = self._cubes(labelled) if labelled else []
        return [self._make(window, target, cubes) for window, target in zip(group, targets, strict=True)]

    def _cubes(self, group: Sequence[TrainingWindow]) -> list[Cube]:
        """Imagery over all of `group`, one cube a modality."""
        imagery = self.project.config.imagery
        cubes = [
            compose(
                self.scenes,
                _common_box(group),
                imagery.framing.spans(group[0].date),
                modality=modality,
                bands=bands,
                composite=imagery.composite,
                cloud_mask=imagery.cloud_mask,
                reader=self.reader,
            )
            for modality, bands in self.layout.bands.items()
        ]
        if broken := self.reader.broken:
            first = broken[0]
            raise DatasetError(
                f"the export is damaged: {first.asset} of scene {first.scene} cannot be read ({first.reason}). "
                "Run `olmoearth export`: it checks every file and makes the damaged ones anew."
            )
        return cubes

    def _make(self, window: TrainingWindow, targets: Mapping[str, Target], around: Sequence[Cube]) -> Made:
        """One window, cut out of the cubes `around` it."""
        conflicts = {name: target.conflicts for name, target in targets.items()}
        if _unknown(targets):
            why = "no pixel is labelled (labels that are too small, or that contradict each other)"
            return None, Record(window.name, why, 0.0, 0, conflicts, {}, [])
        config = self.project.config
        steps = config.imagery.framing.spans(window.date)
        cubes = [cube.crop(window.box) for cube in around]
        seen = np.any([cube.valid.any(axis=0) for cube in cubes], axis=0)
        truths = {name: Truth(target.classes, target.values).where(seen) for name, target in targets.items()}
        valid_share = float(np.mean([cube.valid.mean() for cube in cubes]))
        record = Record(
            name=window.name,
            left_out=_reason(valid_share, truths, config.dataset.min_valid),
            valid_share=round(valid_share, 6),
            timesteps_seen=int(np.any([cube.valid.any(axis=(1, 2)) for cube in cubes], axis=0).sum()),
            conflicts=conflicts,
            pixels={
                name: amounts(truths[name].strata, len(task.strata), task.kind).tolist()
                for name, task in self.layout.tasks.items()
            },
            scenes=[
                scene.id
                for scene in self.scenes.scenes
                if near(scene.bbox, window.box) and any(scene.in_step(step) for step in steps)
            ],
        )
        if record.left_out:
            return None, record
        return Composed({cube.modality: cube for cube in cubes}, truths), record


def _unknown(targets: Mapping[str, Target]) -> bool:
    """Whether no task knows anything of a window."""
    return all((target.classes == IGNORE).all() for target in targets.values())


def _reason(valid_share: float, truths: Mapping[str, Truth], min_valid: float) -> str:
    if valid_share == 0:
        return "no valid pixel: clouds, nodata or no scene in every timestep"
    if valid_share < min_valid:
        return f"less than {min_valid:.0%} of its pixels are valid (dataset.min_valid)"
    nothing = all((truth.strata == IGNORE).all() for truth in truths.values())
    return "no labelled pixel is visible in any timestep" if nothing else ""


def compose_windows(
    windows: Sequence[TrainingWindow], composer: Composer, cubes: Cubes, scratch: Path, progress: Progress
) -> list[Record]:
    """Compose all windows into `cubes`, row by row in their order.

    Args:
        scratch: keeps what is finished; the same folder after a kill.

    Returns:
        One record a window.
    """
    records: list[Record] = []
    size = cubes.layout.shard_windows
    with (
        progress.bar("Composing windows", len(windows)) as advance,
        ThreadPoolExecutor(THREADS, thread_name_prefix="compose") as pool,
    ):

        def make(group: list[TrainingWindow]) -> list[Made]:
            waiting = scratch / f"{group[0].name}.npz"
            made = _load(waiting, group) if waiting.exists() else None
            if made is None:
                made = composer(group)
                _save(waiting, made)
            advance(len(group))
            return made

        for first in range(0, len(windows), size):
            shard = windows[first : first + size]
            journal = scratch / f"shard-{first:08d}.json"
            if journal.exists():
                records += [Record(**record) for record in json.loads(journal.read_text())]
                advance(len(shard))
                continue
            groups = list(neighbours(shard))
            found = {record.name: (window, record) for made in pool.map(make, groups) for window, record in made}
            cubes.write_shard(first, [found[window.name][0] for window in shard])
            shard_records = [found[window.name][1] for window in shard]
            records += shard_records
            write_json(journal, [asdict(record) for record in shard_records])
            for group in groups:
                (scratch / f"{group[0].name}.npz").unlink(missing_ok=True)
    return records


def _save(path: Path, made: Sequence[Made]) -> None:
    """Keep composed windows: their records, and the arrays of those that were not left out, one above the other."""
    arrays: dict[str, Any] = {"records": np.array(json.dumps([asdict(record) for _, record in made]))}
    kept = [window for window, _ in made if window is not None]
    if kept:
        for name, truth in kept[0].truths.items():
            arrays[f"truth/{name}/strata"] = np.stack([window.truths[name].strata for window in kept])
            if truth.values is not None:
                arrays[f"truth/{name}/values"] = np.stack([window.truths[name].values for window in kept])  # type: ignore[misc]
        for name, cube in kept[0].cubes.items():
            arrays[f"cube/{name}/bands"], arrays[f"cube/{name}/dates"] = np.array(cube.bands), cube.dates
            for part in _PARTS:
                arrays[f"cube/{name}/{part}"] = np.stack([getattr(window.cubes[name], part) for window in kept])
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path, group: Sequence[TrainingWindow]) -> list[Made]:
    """What `_save` kept of the windows of `group`."""
    with np.load(path) as arrays:
        stacks = {name: arrays[name] for name in arrays.files}
    records = [Record(**record) for record in json.loads(str(stacks.pop("records")))]
    modalities, tasks = (
        list(dict.fromkeys(name.split("/")[1] for name in stacks if name.startswith(kind)))
        for kind in ("cube/", "truth/")
    )
    made: list[Made] = []
    kept = 0
    for window, record in zip(group, records, strict=True):
        if record.left_out:
            made.append((None, record))
            continue
        cubes = {
            name: Cube(
                modality=name,
                bands=tuple(map(str, stacks[f"cube/{name}/bands"])),
                dates=stacks[f"cube/{name}/dates"],
                box=window.box,
                **{part: stacks[f"cube/{name}/{part}"][kept] for part in _PARTS},
            )
            for name in modalities
        }
        truths = {}
        for name in tasks:
            values = stacks.get(f"truth/{name}/values")
            truths[name] = Truth(stacks[f"truth/{name}/strata"][kept], None if values is None else values[kept])
        made.append((Composed(cubes, truths), record))
        kept += 1
    return made
