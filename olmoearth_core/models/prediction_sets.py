"""Prediction sets: the classes that a pixel may be of, so that the true one is among them as often as asked.

Split-conformal, class by class (Vovk 2012, Conditional validity of inductive conformal predictors; Sadinle, Lei and
Wasserman 2019, Least ambiguous set-valued classifiers with bounded error levels, section 3). Of each class, pixels with
known truth that taught the model nothing tell which probability their own class nearly always has; wherever it
has that much, it is in the set. Class by class, because labels are not drawn in the proportions of a map: what holds
for each class holds whatever their shares. It holds for pixels like those that were looked at.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from pydantic import BaseModel, ConfigDict

COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Coverages that are kept with a model; what is asked between two of them takes the higher one."""


class PredictionSets(BaseModel):
    """Which probability a class needs to be in the set.

    Attributes:
        coverages: ascending.
        least: class by class, for each coverage the probability from which on the class is in the set; 0 where too few
            pixels were known to rule it out anywhere.
        pixels: of each class that this was learned from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coverages: list[float]
    least: list[list[float]]
    pixels: list[int]

    @staticmethod
    def fit(probabilities: np.ndarray, truth: np.ndarray) -> PredictionSets:
        """Learn from labelled pixels that were kept from training.

        Args:
            probabilities: (P, K) of the classes.
            truth: (P,) class indices.
        """
        own = [np.sort(probabilities[truth == k, k])[::-1] for k in range(probabilities.shape[1])]
        return PredictionSets(
            coverages=list(COVERAGES),
            least=[[_least(values, coverage) for coverage in COVERAGES] for values in own],
            pixels=[len(values) for values in own],
        )

    def needed(self, coverage: float) -> np.ndarray:
        """(K,) float64, the probability from which on each class is in the set."""
        column = int(np.searchsorted(self.coverages, coverage - 1e-9))
        if column == len(self.coverages):
            raise ValueError(f"coverage {coverage:g} is above {self.coverages[-1]:g}")
        return np.array([row[column] for row in self.least])

    def members(self, probabilities: np.ndarray, coverage: float, steps: int | None = None) -> np.ndarray:
        """Which classes are in the set: bool as `probabilities` (K, ...); the most probable one always is.

        Where probabilities are whole numbers of 1 / `steps`, so are the needed ones: rounding rules no class out.
        """
        needed = self.needed(coverage) if steps is None else np.rint(self.needed(coverage) * steps)
        needed = needed.reshape(-1, *[1] * (probabilities.ndim - 1))
        found: np.ndarray = (probabilities >= needed) | (probabilities == probabilities.max(axis=0))
        return found

    def held(self, probabilities: np.ndarray, truth: np.ndarray, coverage: float) -> float | None:
        """Share of pixels whose set holds the truth: probabilities (P, K), truth (P,); None where there is no pixel."""
        if not len(truth):
            return None
        return float(self.members(probabilities.T, coverage)[truth, np.arange(len(truth))].mean())


def _least(descending: np.ndarray, coverage: float) -> float:
    """The k-th largest of n with k = ceil((n + 1) coverage), so that one more pixel has it with that probability."""
    rank = ceil((len(descending) + 1) * coverage - 1e-9)
    if rank > len(descending):
        return 0.0
    return float(np.floor(float(descending[rank - 1]) * 1e6) / 1e6)  # down: rather one class more
