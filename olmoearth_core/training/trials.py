"""The trials of a search: what is tried, how far each got, and who goes on.

Successive halving (Jamieson & Talwalkar 2016): all trials get a few epochs, the best third of them three times as
many, and so on, until one is trained to its end. A trial goes on from its checkpoint, along the same schedule, so that
the winner is the model that fine-tuning with its settings gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from olmoearth_core.project import Project

if TYPE_CHECKING:
    from olmoearth_core.training.candidates import Candidate

ETA = 3
"""One in so many goes on, with so many times the epochs."""

Outcome = Literal["", "stopped", "failed", "won"]


@dataclass(frozen=True)
class Trial:
    """Settings to try.

    Attributes:
        number: from 1, in the order of the search.
        candidate: the encoder and its weights.
        recipe: one of recipe.py, with a name.
        learning_rate: at its peak.
    """

    number: int
    candidate: Candidate
    recipe: str
    learning_rate: float

    def given_to(self, project: Project) -> Project:
        """The project with these settings."""
        config = self.candidate.given_to(project).config
        training = config.training.model_copy(update={"recipe": self.recipe, "learning_rate": self.learning_rate})
        return Project(project.root, config.model_copy(update={"training": training}))

    def to_json(self) -> dict[str, Any]:
        """encoder, weights, recipe, learning_rate."""
        return {
            "encoder": self.candidate.encoder,
            "weights": self.candidate.weights,
            "recipe": self.recipe,
            "learning_rate": self.learning_rate,
        }


@dataclass(frozen=True)
class Standing:
    """How far a trial got.

    Attributes:
        trial: which.
        rung: how often it went on.
        epochs: finished.
        of: epochs to its end.
        score: validation's headline at its best epoch so far; None where there is none.
        best_epoch: from 1.
        history: an entry an epoch, as history.json.
        outcome: "" while it may go on; "stopped" with others ahead, "failed", or "won".
        why: it failed.
    """

    trial: Trial
    rung: int = 0
    epochs: int = 0
    of: int = 0
    score: float | None = None
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome = ""
    why: str = ""

    def score_by(self, epochs: int) -> float | None:
        """The best score of the first `epochs`, as it was known then."""
        return max((s for entry in self.history[:epochs] if (s := entry["headline"]) is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for the journal."""
        return asdict(replace(self, trial=None)) | {"trial": self.trial.number}  # type: ignore[arg-type]

    def row(self) -> dict[str, Any]:
        """JSON values, for the table."""
        told = {key: value for key, value in self.to_json().items() if key != "history"}
        return told | self.trial.to_json()


def trials_of(
    combinations: Sequence[tuple[Candidate, str, float]], *, most: int | None = None, seed: int = 0
) -> list[Trial]:
    """Each combination of encoder, recipe and learning rate once; at most `most`, drawn by `seed` alone."""
    different = list(dict.fromkeys(combinations))
    chosen = range(len(different))
    if most is not None and most < len(different):
        drawn = np.random.default_rng(seed).choice(len(different), most, replace=False)
        chosen = sorted(drawn.tolist())  # type: ignore[assignment]
    return [Trial(number, *different[k]) for number, k in enumerate(chosen, start=1)]


def rungs(trials: int) -> int:
    """How often a third goes on until one is left."""
    count = 0
    while trials > 1:
        trials, count = math.ceil(trials / ETA), count + 1
    return count


def epochs_at(rung: int, last: int, epochs: int) -> int:
    """Epochs that a trial of `epochs` has had at the end of a rung (from 0); all of them at the `last`."""
    return math.ceil(epochs / math.pow(ETA, last - rung))


def best_first(standings: Sequence[Standing]) -> list[Standing]:
    """All of a search, as a table has them: who won, who went further, the better score; failed ones come last."""

    def place(s: Standing) -> tuple[bool, bool, int, bool, float, int]:
        return s.outcome != "won", s.outcome == "failed", -s.rung, s.score is None, -(s.score or 0.0), s.trial.number

    return sorted(standings, key=place)


def ranked(standings: Sequence[Standing], rung: int, last: int) -> list[Standing]:
    """Those that had not failed by the end of a rung, the best then first; of equals the first of the search.

    What trials did in later rungs does not count, so that a search that goes on after a kill decides as before.
    """

    def place(standing: Standing) -> tuple[bool, float, int]:
        score = standing.score_by(epochs_at(rung, last, standing.of))
        return score is None, -(score or 0.0), standing.trial.number

    return sorted((s for s in standings if not (s.outcome == "failed" and s.rung <= rung)), key=place)
