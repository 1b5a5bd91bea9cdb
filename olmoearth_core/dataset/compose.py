"""Composing every window of a training set into cubes.zarr, so that a kill costs at most the windows under way.

A composed window waits in scratch until its shard is full; a shard that is written leaves a journal. The same call
after a kill takes finished shards and waiting windows as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.dataset.cubes import Cubes, Layout, Sample
from olmoearth_core.errors import DatasetError
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.footprint import near
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import SceneList
from olmoearth_core.labels.labels import Labels
from olmoearth_core.labels.windows import IGNORE, TrainingWindow, make_target
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.store import whole_file, write_json

THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class Record:
    """What is known of a window once it is composed.

    Attributes:
        left_out: why it is not in the training set; empty when it is.
        valid_share: share of valid pixels over all modalities and timesteps.
        timesteps_seen: timesteps in which any modality has a valid pixel.
        conflicts: pixels that labels of different classes claim.
        pixels: labelled, visible pixels of each class.
        scenes: the ids of those that could show it.
    """

    name: str
    left_out: str
    valid_share: float
    timesteps_seen: int
    conflicts: int
    pixels: list[int]
    scenes: list[str]


@dataclass(frozen=True)
class Composer:
    """Makes the sample of a window; many threads may at once."""

    project: Project
    labels: Labels
    scenes: SceneList
    layout: Layout
    reader: AssetReader

    def __call__(self, window: TrainingWindow) -> tuple[Sample | None, Record]:
        """The sample of `window`, None where it is left out, and what is known of it.

        Raises:
            DatasetError: the export cannot be read any more.
        """
        target = make_target(self.labels, window)
        if (target.classes == IGNORE).all():
            return None, Record(
                window.name,
                "no pixel is labelled (labels that are too small, or that contradict each other)",
                0.0,
                0,
                target.conflicts,
                [],
                [],
            )
        config = self.project.config
        steps = config.imagery.framing.spans(window.date)
        cubes = [
            compose(
                self.scenes,
                window.box,
                steps,
                modality=modality,
                bands=bands,
                composite=config.imagery.composite,
                reader=self.reader,
            )
            for modality, bands in self.layout.bands.items()
        ]
        if failures := self.reader.failures:
            first = failures[0]
            raise DatasetError(
                f"the export is damaged: {first.asset} of scene {first.scene} cannot be read ({first.reason}). "
                "Run `olmoearth export`: it checks every file and makes the damaged ones anew."
            )
        seen = np.any([cube.valid.any(axis=0) for cube in cubes], axis=0)
        classes = np.where(seen, target.classes, np.uint8(IGNORE))
        valid_share = float(np.mean([cube.valid.mean() for cube in cubes]))
        record = Record(
            name=window.name,
            left_out=_reason(valid_share, classes, config.dataset.min_valid),
            valid_share=round(valid_share, 6),
            timesteps_seen=int(np.any([cube.valid.any(axis=(1, 2)) for cube in cubes], axis=0).sum()),
            conflicts=target.conflicts,
            pixels=np.bincount(classes[classes != IGNORE], minlength=len(self.layout.classes)).tolist(),
            scenes=[
                scene.id
                for scene in self.scenes.scenes
                if near(scene.bbox, window.box) and any(scene.in_step(step) for step in steps)
            ],
        )
        if record.left_out:
            return None, record
        inputs = {cube.modality: cube.data for cube in cubes}
        return Sample(inputs, {cube.modality: cube.valid for cube in cubes}, cubes[0].dates, classes), record


def _reason(valid_share: float, classes: np.ndarray, min_valid: float) -> str:
    if valid_share == 0:
        return "no valid pixel: clouds, nodata or no scene in every timestep"
    if valid_share < min_valid:
        return f"less than {min_valid:.0%} of its pixels are valid (dataset.min_valid)"
    return "no labelled pixel is visible in any timestep" if (classes == IGNORE).all() else ""


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

        def make(window: TrainingWindow) -> tuple[Sample | None, Record]:
            waiting = scratch / f"{window.name}.npz"
            made = _load(waiting) if waiting.exists() else None
            if made is None:
                made = composer(window)
                _save(waiting, *made)
            advance(1)
            return made

        for first in range(0, len(windows), size):
            shard = windows[first : first + size]
            journal = scratch / f"shard-{first:08d}.json"
            if journal.exists():
                records += [Record(**record) for record in json.loads(journal.read_text())]
                advance(len(shard))
                continue
            made = list(pool.map(make, shard))
            cubes.write_shard(first, [sample for sample, _ in made])
            records += [record for _, record in made]
            write_json(journal, [asdict(record) for _, record in made])
            for window in shard:
                (scratch / f"{window.name}.npz").unlink(missing_ok=True)
    return records


def _save(path: Path, sample: Sample | None, record: Record) -> None:
    arrays: dict[str, Any] = {"record": np.array(json.dumps(asdict(record)))}
    if sample is not None:
        arrays |= {"dates": sample.dates, "target": sample.target}
        arrays |= {f"inputs.{modality}": data for modality, data in sample.inputs.items()}
        arrays |= {f"valid.{modality}": valid for modality, valid in sample.valid.items()}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path) -> tuple[Sample | None, Record]:
    with np.load(path) as arrays:
        record = Record(**json.loads(str(arrays["record"])))
        if record.left_out:
            return None, record

        def part(kind: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(kind): arrays[name] for name in arrays.files if name.startswith(kind)}

        return Sample(part("inputs."), part("valid."), arrays["dates"], arrays["target"]), record
