"""Encoders compared for a project that may change: each trained alike on the same data, judged on the same test.

Same training set and splits, same epochs, the project's own settings; only the encoder and its weights differ. Scores
come with intervals over blocks of ground, differences are paired, costs are those of the project's own area. What is
trained is kept below the project's state; killed, the same command goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import ProjectError
from olmoearth_core.inference.outlook import map_outlook
from olmoearth_core.manifest import Manifest
from olmoearth_core.models.cost import Estimate, estimate, workload_of
from olmoearth_core.models.lora import merge_lora
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import Meter
from olmoearth_core.training.advice import Compared, advise
from olmoearth_core.training.bootstrap import blocks_of
from olmoearth_core.training.candidates import Candidate, Known
from olmoearth_core.training.data import Windows
from olmoearth_core.training.kept import Kept, kept_tally
from olmoearth_core.training.loop import fit
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.setup import make_job, prepare, task_cards
from olmoearth_core.training.tally import Counter, Tally
from olmoearth_core.training.usable import usable_windows

COMPARED = "compared"
"""Folder below the project's state."""
LIMIT = 2 * 2**30
"""Bytes that it may take; checkpoints go once a candidate is judged."""
VERSION = 1
"""Raised when the same comparison comes to other scores."""
SPLITS = ("validation", "test")


def compare_encoders(
    project: Project,
    folder: Path,
    manifest: Manifest,
    candidates: Sequence[Candidate],
    *,
    split: str = "test",
    epochs: int | None = None,
    area_km2: float | None = None,
    price_per_hour: float | None = None,
    measure: bool = True,
    progress: Progress,
    device: str = "auto",
) -> dict[str, Any]:
    """Train each candidate on the project's training set, judge it, and say which one to use.

    Args:
        project: whose; its own encoder is what others are compared with, the first candidate where it is not there.
        folder: of the training set, with its `manifest`.
        candidates: encoders and weights, two at least.
        split: what is judged on.
        epochs: of each; the project's, or what the recipe takes, when not given.
        area_km2: what would be mapped; the project's area, as its map is planned, when not given.
        price_per_hour: of this device.
        measure: whether windows per second are measured.
        progress: is told the steps.
        device: as for `load_encoder`.

    Returns:
        JSON values, as `advice.advise` makes them.

    Raises:
        CheckpointError, EncoderInputError: an encoder or weights that cannot be used.
        DatasetError: a training set that cannot be read.
        ProjectError: no such split, or nothing to compare with.
        TrainingError: nothing to learn from, or a training that failed.
    """
    if split not in SPLITS:
        raise ProjectError(f"'{split}' is nothing to judge by; allowed are {', '.join(SPLITS)}.")
    if len(candidates) < 2:
        raise ProjectError("A comparison needs two encoders at least; name them with --encoders v1-nano,v1.1-nano.")
    known = [candidate.known(project) for candidate in candidates]
    bench = _Bench(project, folder, manifest, split, epochs, progress, device)
    judged = [bench.judged(one) for one in known]
    work = workload_of(project)
    if area_km2 is None:
        outlook = map_outlook(project, work, resolve_device(device).type)
        area_km2, windows = outlook.km2, float(outlook.computed)
    else:
        windows = area_km2 * work.windows_per_km2
    names = dict.fromkeys(c.encoder for c in candidates)
    rows = estimate(names, work, windows=windows, price_per_hour=price_per_hour, calibrate=measure)
    costs = {row.name: row for row in rows}
    found = [_compared(one, *result, costs[one.candidate.encoder]) for one, result in zip(known, judged, strict=True)]
    own = next((row for row in found if row.encoder == project.config.model.encoder), found[0])
    about = {
        "project": project.config.name,
        "dataset": manifest.outputs_digest,
        "split": split,
        "area_km2": area_km2,
        "price_per_hour": price_per_hour,
    }
    return about | advise(found, own, bench.dataset.tasks[project.config.task.name], bench.blocks)


def _compared(known: Known, tally: Tally, about: dict[str, Any], cost: Estimate) -> Compared:
    return Compared(
        encoder=known.candidate.encoder,
        weights=known.base.source,
        random=known.base.source == "random",
        recipe=about["recipe"],
        epochs=about["epochs"],
        tally=tally,
        cost=cost,
    )


@dataclass
class _Bench:
    """One training set and one split to judge by; the windows are read once, when the first candidate needs them."""

    project: Project
    folder: Path
    manifest: Manifest
    split: str
    epochs: int | None
    progress: Progress
    device: str
    windows: dict[str, Windows] | None = None

    def __post_init__(self) -> None:
        self.dataset: Dataset = open_dataset(self.folder)
        self.task = self.project.config.task

    def blocks(self, tally: Tally) -> Any:
        """(N, 2) block of ground of each window of a tally."""
        return blocks_of(self.dataset.windows, tally.rows)

    def judged(self, known: Known) -> tuple[Tally, dict[str, Any]]:
        """How a candidate does on the split, and what is to be known of its training; kept."""
        kept = Kept(self.project.state / COMPARED, LIMIT)
        depends_on = self._depends_on(known)
        place = kept.place(depends_on)
        kept.trim(place)
        tally, about = kept_tally(
            place / f"{self.split}.npz",
            self.dataset.tasks[self.task.name],
            lambda: self._train(known, place / "training", sha256_json(depends_on)),
        )
        shutil.rmtree(place / "training", ignore_errors=True)
        return tally, about

    def _depends_on(self, known: Known) -> dict[str, Any]:
        config = self.project.config
        return {
            "compared": VERSION,
            "dataset": self.manifest.outputs_digest,
            "tasks": {name: task.model_dump(mode="json") for name, task in config.tasks.items()},
            "auxiliary": [extra.weight for extra in config.auxiliary],
            "model": config.model.model_dump(mode="json", exclude={"encoder", "weights"}),
            "training": config.training.model_dump(mode="json"),
            "epochs": self.epochs,
            "split": self.split,
            "encoder": known.candidate.encoder,
            "weights": known.digest,
        }

    def _train(self, known: Known, scratch: Path, key: str) -> tuple[Tally, dict[str, Any]]:
        candidate, meter = known.candidate, Meter()
        self.progress.note(f"{candidate.encoder}: training from {known.base.sentence}.")
        scratch.mkdir(parents=True, exist_ok=True)
        if self.windows is None:
            asked = ("train", *dict.fromkeys(("validation", self.split)))
            self.windows = usable_windows(self.dataset, task_cards(self.project), self.progress, meter, asked)
        setup = prepare(
            self._given(candidate), self.folder, self.manifest, scratch=scratch, device=self.device,
            progress=self.progress, meter=meter, windows=self.windows,
        )  # fmt: skip
        job = make_job(setup, run_key=key, scratch=scratch, progress=self.progress, meter=meter)
        state = fit(job, self.progress, meter)
        if setup.recipe.name == "lora":
            merge_lora(setup.model.encoder)
        counter = Counter(self.dataset.tasks[self.task.name])
        for answer in answers_to(self.task.name, setup.model, self.windows[self.split], setup.recipe.at_once):
            counter.add(answer)
        return counter.tally(), {"recipe": setup.recipe.name, "epochs": state.epoch}

    def _given(self, candidate: Candidate) -> Project:
        project = candidate.given_to(self.project)
        if self.epochs is None:
            return project
        training = project.config.training.model_copy(update={"epochs": self.epochs})
        return Project(project.root, project.config.model_copy(update={"training": training}))
