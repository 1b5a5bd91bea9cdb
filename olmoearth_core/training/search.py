"""A small search over encoders, recipes and learning rates, by successive halving on validation.

The test split is never read. What is done is written down after every trial and rung, and a trial has its checkpoints:
a search that was killed goes on with the same command, and ends with what it would have ended with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from olmoearth_core.dataset.dataset import open_dataset
from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import TrainingError
from olmoearth_core.manifest import Manifest
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.project import Project
from olmoearth_core.stage import Meter
from olmoearth_core.store import remove_partials, write_json
from olmoearth_core.training.candidates import Candidate, Known
from olmoearth_core.training.data import Windows
from olmoearth_core.training.kept import Kept
from olmoearth_core.training.loop import EPOCH, fit
from olmoearth_core.training.metrics import HEADLINE
from olmoearth_core.training.probe import EMBEDDINGS
from olmoearth_core.training.recipe import choose, usual_learning_rate
from olmoearth_core.training.setup import facts_of, make_job, prepare, task_cards
from olmoearth_core.training.trials import ETA, Standing, Trial, best_first, epochs_at, ranked, rungs, trials_of
from olmoearth_core.training.usable import usable_windows

SPLITS = ("train", "validation")
"""All that is read."""
AROUND = (1 / 3, 1.0, 3.0)
"""Learning rates that are tried where none is named: these times the recipe's own."""
SEARCHES = "search"
"""Folder below the project's state."""
VERSION = 2
"""Raised when the same search comes to other scores."""


@dataclass(frozen=True)
class Search:
    """A search, laid out and not begun.

    Attributes:
        project: whose.
        folder: of the training set.
        manifest: of the training set.
        known: candidate -> its weights.
        windows: split -> usable windows.
        trials: what is tried.
        device: as for `load_encoder`.
    """

    project: Project
    folder: Path
    manifest: Manifest
    known: Mapping[Candidate, Known]
    windows: Mapping[str, Windows]
    trials: list[Trial]
    device: str

    @property
    def key(self) -> str:
        """sha256 of all that the outcome depends on."""
        config = self.project.config
        return sha256_json(
            {
                "search": VERSION,
                "eta": ETA,
                "dataset": self.manifest.outputs_digest,
                "task": {name: task.model_dump(mode="json") for name, task in config.tasks.items()},
                "auxiliary": [extra.weight for extra in config.auxiliary],
                "model": config.model.model_dump(mode="json", exclude={"encoder", "weights"}),
                "training": config.training.model_dump(mode="json", exclude={"recipe", "learning_rate"}),
                "trials": [t.to_json() | {"weights": self.known[t.candidate].digest} for t in self.trials],
            }
        )

    @property
    def place(self) -> Path:
        """Where its journal and checkpoints are."""
        return self.project.state / SEARCHES / self.key[:12]

    def run(self, tell: Callable[[Standing], None], progress: Progress) -> dict[str, Any]:
        """Try all, or go on after a kill.

        Args:
            tell: is given the standing of a trial whenever that has changed; after a kill also what it was told before.
            progress: is told the steps.

        Returns:
            JSON values: key, dataset, headline, split, eta, trials (best first, those that went further before others)
            and winner (encoder, weights, recipe, learning_rate, score).

        Raises:
            TrainingError: validation has nothing to judge by, or every trial failed.
            StoreError: a checkpoint or the journal cannot be written.
        """
        for folder in (self.place, self.project.state / EMBEDDINGS):
            remove_partials(folder)
        journal = _Journal(self.place / "search.json", self.trials)
        for abandoned in self.place.parent.glob("*/trial-*"):  # of other searches that were killed
            if abandoned.parent != self.place:
                shutil.rmtree(abandoned, ignore_errors=True)
        last = rungs(len(self.trials))
        alive = list(self.trials)
        for rung in range(last + 1):
            with progress.bar(f"round {rung + 1} of {last + 1}: {len(alive)} trials", len(alive)) as advance:
                for trial in alive:
                    if journal.needs(trial, rung):
                        journal.write(self._train(journal[trial], rung, last, progress))
                    tell(journal[trial])
                    advance(1)
            order = ranked([journal[trial] for trial in alive], rung, last)
            if not order:
                raise TrainingError(f"No trial is left; the last to fail said: {journal[alive[-1]].why}")
            going_on = -(-len(alive) // ETA)
            for standing in order[going_on:] if rung < last else order:
                journal.write(replace(standing, outcome="won" if rung == last else "stopped"))
                tell(journal[standing.trial])
            left = [standing.trial for standing in order[:going_on]]
            for trial in alive:
                if rung == last or trial not in left:
                    shutil.rmtree(self._scratch(trial), ignore_errors=True)
            alive = [trial for trial in alive if trial in left]
        return self._outcome(journal)

    def _train(self, before: Standing, rung: int, last: int, progress: Progress) -> Standing:
        """Train a trial up to the end of a rung."""
        trial = before.trial
        scratch, known = self._scratch(trial), self.known[trial.candidate]
        scratch.mkdir(parents=True, exist_ok=True)
        kept = Kept(self.project.state / EMBEDDINGS)
        place = kept.place(known.embedding_key(self.project, self.manifest.outputs_digest))
        kept.trim(place)
        meter, silent = Meter(), _Notes(progress)
        epochs = 0
        try:
            setup = prepare(
                trial.given_to(self.project),
                self.folder,
                self.manifest,
                scratch=scratch,
                device=self.device,
                progress=silent,
                meter=meter,
                windows=self.windows,
            )
            epochs = setup.recipe.epochs
            run_key = sha256_json([self.key, trial.number])
            job = make_job(setup, run_key=run_key, scratch=scratch, progress=silent, meter=meter, seen_in=place)
            state = fit(job, silent, meter, until=epochs_at(rung, last, epochs))
        except TrainingError as error:  # too fast, too large: others may do
            progress.note(f"Trial {trial.number} failed: {error}")
            return replace(before, rung=rung, of=epochs or before.of, outcome="failed", why=str(error))
        score, best = state.best_score, state.best_epoch
        return Standing(trial, rung, state.epoch, epochs, score, best, state.history)

    def _scratch(self, trial: Trial) -> Path:
        return self.place / f"trial-{trial.number:03d}"

    def _outcome(self, journal: _Journal) -> dict[str, Any]:
        order = best_first([journal[trial] for trial in self.trials])
        return {
            "key": self.key,
            "project": self.project.config.name,
            "dataset": self.manifest.outputs_digest,
            "split": "validation",
            "headline": HEADLINE[self.project.config.task.kind][0],
            "eta": ETA,
            "trials": [standing.row() for standing in order],
            "winner": order[0].trial.to_json() | {"score": order[0].score},
        }


def lay_out(
    project: Project,
    folder: Path,
    manifest: Manifest,
    candidates: Sequence[Candidate],
    *,
    recipes: Sequence[str] = (),
    learning_rates: Sequence[float] = (),
    most: int | None = None,
    progress: Progress,
    device: str = "auto",
) -> Search:
    """Look at the training set and at the encoders, and say what will be tried.

    Args:
        project: whose.
        folder: of the training set, with its `manifest`.
        candidates: encoders and weights to try.
        recipes: to try; the project's when none is named.
        learning_rates: to try; when none is named a third of, just, and three times the project's, or the recipe's own.
        most: trials; of more combinations so many are drawn, by training.seed.
        progress: is told what is noteworthy.
        device: as for `load_encoder`.

    Raises:
        CheckpointError, EncoderInputError: an encoder or weights that cannot be used.
        DatasetError: a training set that cannot be read.
        TrainingError: nothing to learn from, or nothing in validation to judge by.
    """
    training = project.config.training
    known = {candidate: candidate.known(project) for candidate in candidates}
    windows = usable_windows(open_dataset(folder), task_cards(project), progress, Meter(), SPLITS)
    if not windows["validation"].pixels.any():
        raise TrainingError(
            "The validation split has no labelled pixel that can be seen, so trials cannot be compared. Check "
            "dataset.split in project.yaml."
        )
    place = resolve_device(device).type
    combinations = []
    for candidate in candidates:
        facts = facts_of(project, candidate.encoder, candidate.weights is not None, len(windows["train"]), place)
        for asked in recipes or [training.recipe]:
            recipe, _why = choose(asked, facts)
            usual = training.learning_rate or usual_learning_rate(recipe)
            rates = learning_rates or [float(f"{usual * factor:.2g}") for factor in AROUND]
            combinations += [(candidate, recipe, rate) for rate in rates]
    trials = trials_of(combinations, most=most, seed=training.seed)
    return Search(project, folder, manifest, known, windows, trials, device)


class _Journal:
    """How far each trial got, in a file that is whole at any time."""

    def __init__(self, path: Path, trials: Sequence[Trial]) -> None:
        self.path = path
        self._standings = {trial.number: Standing(trial) for trial in trials}
        if path.is_file():
            self._standings |= self._read(path)

    def _read(self, path: Path) -> dict[int, Standing]:
        """What was written; nothing of a file that is damaged: its trials are trained again, to the same scores."""
        try:
            entries = json.loads(path.read_text())["trials"]
            found = [Standing(self._standings[entry.pop("trial")].trial, **entry) for entry in entries]
            return {standing.trial.number: standing for standing in found}
        except (ValueError, TypeError, KeyError, AttributeError):
            return {}

    def __getitem__(self, trial: Trial) -> Standing:
        return self._standings[trial.number]

    def needs(self, trial: Trial, rung: int) -> bool:
        """The trial has to be trained in this rung."""
        standing = self[trial]
        return not standing.outcome and (standing.epochs == 0 or standing.rung < rung)

    def write(self, standing: Standing) -> None:
        self._standings[standing.trial.number] = standing
        write_json(self.path, {"trials": [s.to_json() for s in self._standings.values() if s.epochs or s.outcome]})


class _Notes(Silent):
    """Passes on what is noteworthy, and no bars: the search has its own."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def note(self, message: str) -> None:
        """Pass a remark on, unless it is of an epoch of one trial."""
        if not message.startswith(("Going on after epoch", f"{EPOCH} ")):
            self._progress.note(message)
