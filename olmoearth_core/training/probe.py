"""Probes: what an encoder is worth on a project's own task before anything is trained.

A frozen encoder sees every window once; nearest neighbours and a linear layer learn from what it saw of the training
windows and answer for validation. Beside them stand the same with random weights of the same architecture (what the
pretraining is worth), and a random forest on the pixels (what an encoder is worth). All are judged as models are: by
per-window sums, with intervals over blocks of ground, and compared on the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.errors import ProjectError, TrainingError
from olmoearth_core.manifest import Manifest
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project, TaskConfig
from olmoearth_core.stage import Meter
from olmoearth_core.training import shallow
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.baselines import fit_forest
from olmoearth_core.training.bootstrap import blocks_of
from olmoearth_core.training.candidates import Candidate, Known
from olmoearth_core.training.data import Windows
from olmoearth_core.training.embeddings import Embedded, embed
from olmoearth_core.training.kept import Kept, kept_tally
from olmoearth_core.training.points import MOST_POINTS, Learner, answers_of, draw_points, prior_of
from olmoearth_core.training.probe_report import Probed, report
from olmoearth_core.training.setup import base_encoder, task_cards
from olmoearth_core.training.tally import Counter, Tally
from olmoearth_core.training.usable import usable_windows

EMBEDDINGS, TALLIES = "embeddings", "probes"
"""Folders below the project's state."""
TALLIES_LIMIT = 2**28
"""Bytes that results may take."""
MOST_JUDGED = 200_000
"""Labelled pixels of a split that are judged; of more, as many in every window."""
VERSION = 1
"""Raised when the same probes come to other scores."""
LEAST = 10
"""Labelled patches (windows) below which there is nothing to probe."""
LEARNERS = ("knn", "linear")


def probe(
    project: Project,
    folder: Path,
    manifest: Manifest,
    candidates: list[Candidate],
    *,
    split: str = "validation",
    task: str | None = None,
    progress: Progress,
    device: str = "auto",
) -> dict[str, Any]:
    """Probe encoders on the project's training set; trains no encoder, and reads no other split than training and one.

    Embeddings and results are kept below the project's state, so that asking again takes seconds.

    Args:
        project: whose.
        folder: of the training set, with its `manifest`.
        candidates: which encoders, with which weights.
        split: what is judged on, "validation" or "test".
        task: name of the task; the main one when not given.
        progress: is told the steps.
        device: as for `load_encoder`.

    Returns:
        JSON values, as `probe_report.report` makes them.

    Raises:
        CheckpointError, EncoderInputError: an encoder or weights that cannot be used.
        DatasetError: a training set that cannot be read.
        ProjectError: no such task or split.
        TrainingError: too little to learn from, or nothing to judge by.
    """
    bench = _Bench(project, folder, manifest, split, _task(project, split, task), progress, device)
    known = [candidate.known(project) for candidate in candidates]
    probed = [_probe_one(bench, one) for one in known]
    forest = bench.forest()
    bench.embeddings.trim()
    bench.tallies.trim()
    return report(bench.protocol(), bench.task, probed, forest, bench.blocks)


def _task(project: Project, split: str, name: str | None) -> str:
    if split not in ("validation", "test"):
        raise ProjectError(f"'{split}' is nothing to judge by; allowed are validation and test.")
    tasks = project.config.tasks
    if name is not None and name not in tasks:
        raise ProjectError(f"'{name}' is no task of {project.config.name}; its tasks are {', '.join(tasks)}.")
    return name or next(iter(tasks))


def _probe_one(bench: _Bench, known: Known) -> Probed:
    candidate = known.candidate
    chance = bench.learners(Candidate(candidate.encoder, None).known(bench.project))
    return Probed(
        encoder=candidate.encoder,
        base=known.base,
        parameters=candidate.parameters,
        macs=candidate.macs(bench.project),
        pretrained=None if candidate.weights is None else bench.learners(known),
        random=chance,
    )


@dataclass(frozen=True)
class _Bench:
    """One training set, one task, one split to judge by; nothing is read before it is needed."""

    project: Project
    folder: Path
    manifest: Manifest
    split: str
    name: str
    progress: Progress
    device: str

    @property
    def task(self) -> TaskConfig:
        return self.project.config.tasks[self.name]

    @property
    def seed(self) -> int:
        return self.project.config.training.seed

    @property
    def embeddings(self) -> Kept:
        return Kept(self.project.state / EMBEDDINGS)

    @property
    def tallies(self) -> Kept:
        return Kept(self.project.state / TALLIES, TALLIES_LIMIT)

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.folder)

    @cached_property
    def windows(self) -> dict[str, Windows]:
        asked = ("train", self.split)
        found = usable_windows(self.dataset, task_cards(self.project), self.progress, Meter(), asked)
        if not found[self.split].counts[self.name].any():
            raise TrainingError(
                f"The {self.split} split has no labelled pixel that can be seen, so nothing can be judged by it. Check "
                "dataset.split in project.yaml."
            )
        return found

    @property
    def most(self) -> int:
        """Labelled pixels that are judged in each window."""
        return max(1, MOST_JUDGED // max(1, len(self.dataset.indices(self.split))))

    def blocks(self, tally: Tally) -> Any:
        """(N, 2) block of ground of each window of a tally."""
        return blocks_of(self.dataset.windows, tally.rows)

    def protocol(self) -> dict[str, Any]:
        """What decides the scores besides encoder and training set; stored with them."""
        config, task = self.project.config, self.task
        of_windows = task.kind == "classification"
        return {
            "version": VERSION,
            "project": config.name,
            "dataset": self.manifest.outputs_digest,
            "task": self.name,
            "kind": task.kind,
            "split": self.split,
            "points": "the mean token of a window" if of_windows else f"a patch, its pixels' {_label(task)}",
            "most_points": MOST_POINTS,
            "most_judged": MOST_JUDGED,
            "image_size": config.model.window_size,
            "patch_size": config.model.patch_size,
            "resolution": config.imagery.resolution,
            "timesteps": self.dataset.timesteps,
            "bands": {modality: list(names) for modality, names in self.dataset.bands.items()},
            "normalisation": "that of the encoder's pretraining",
            "dates": "as they are, the middle of each composite",
            "precision": "fp32",
            "seed": self.seed,
            **shallow.PROTOCOL,
        }

    def learners(self, known: Known) -> dict[str, tuple[Tally, dict[str, Any]]]:
        """Learner -> how it does on the split, and what is to be known of it."""
        seen_by = known.embedding_key(self.project, self.manifest.outputs_digest)
        place = self.tallies.place(seen_by | self.protocol())
        learned: dict[str, Any] = {}

        def make(learner: str) -> tuple[Tally, dict[str, Any]]:
            if not learned:
                learned.update(self._learn(known.candidate, seen_by))
            tally, about = learned[learner]()
            return tally, about

        return {name: kept_tally(place / f"{name}.npz", self.task, lambda n=name: make(n)) for name in LEARNERS}  # type: ignore[misc]

    def _learn(self, candidate: Candidate, seen_by: dict[str, Any]) -> dict[str, Callable[[], Any]]:
        """Learner -> fits it, and judges it."""
        train, judged = (self._embedded(candidate, seen_by, split) for split in ("train", self.split))
        _, blocks = np.unique(blocks_of(self.dataset.windows, train.rows), axis=0, return_inverse=True)
        points = draw_points(train, self.name, self.task, blocks.reshape(-1), seed=self.seed)
        if len(points) < LEAST:
            what = "windows" if self.task.kind == "classification" else "patches"
            raise TrainingError(f"Only {len(points)} labelled {what} can be seen; a probe needs {LEAST}. Add labels.")
        prior = prior_of(points, self.task)

        def judge(learner: Learner, **about: Any) -> tuple[Tally, dict[str, Any]]:
            said = answers_of(learner, judged, self.name, self.task, prior)
            return self._tally(said), about | {"points": len(points)}

        def linear() -> tuple[Tally, dict[str, Any]]:
            fitted = shallow.fit_linear(points, self.task, seed=self.seed)
            return judge(fitted, learning_rate=fitted.learning_rate)

        return {"knn": lambda: judge(shallow.neighbours(points, self.task)), "linear": linear}

    def _embedded(self, candidate: Candidate, seen_by: dict[str, Any], split: str) -> Embedded:
        """The windows of a split as the frozen encoder sees them, kept for all who ask."""
        place = self.embeddings.place(seen_by)
        self.embeddings.trim(place)
        config = self.project.config
        encoder, _base = base_encoder(candidate.given_to(self.project))
        looker = Predictor(
            encoder,
            [],
            bands=self.dataset.bands,
            timesteps=self.dataset.timesteps,
            patch_size=config.model.patch_size,
            resolution=config.imagery.resolution,
        ).to(resolve_device(self.device))
        self.progress.note(f"{candidate.encoder}, {candidate.weights or 'random weights'}: {split} windows.")
        return embed(
            looker,
            self.windows[split],
            place / split,
            batch_size=config.training.at_once or config.training.batch_size,
            progress=self.progress,
            meter=Meter(),
        )

    def _tally(self, said: Iterator[Answer]) -> Tally:
        counter = Counter(self.task, most=self.most)
        for answer in said:
            counter.add(answer)
        return counter.tally()

    def forest(self) -> tuple[Tally, dict[str, Any]] | None:
        """How a random forest on the same training windows does; None where there is nothing to learn from."""
        key = {"forest": 1} | {k: v for k, v in self.protocol().items() if k not in ("patch_size", *LEARNERS)}
        place = self.tallies.place(key)

        def make() -> tuple[Tally, dict[str, Any]]:
            train, judged = self.windows["train"], self.windows[self.split]
            at_once = self.dataset.at_once
            with self.progress.bar("fitting a random forest") as advance:
                forest = fit_forest(
                    train.read,
                    train.rows.tolist(),
                    self.name,
                    self.task,
                    at_once=at_once,
                    seed=self.seed,
                    advance=advance,
                )
            if forest is None:
                raise _NoForest
            rows = judged.rows.tolist()
            return self._tally(forest.answers(judged.read, rows, at_once=at_once, most=self.most)), {}

        try:
            return kept_tally(place / "forest.npz", self.task, make)
        except _NoForest:
            return None


class _NoForest(Exception):
    """There is nothing that a forest could learn from."""


def _label(task: TaskConfig) -> str:
    return "mean value" if task.kind == "regression" else "commonest class"
