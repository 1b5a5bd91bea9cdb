"""Temperature scaling: one number, fitted on validation, after which probabilities mean what they say.

Scores (logits) are divided by the temperature before they become probabilities; above 1 the model becomes less sure of
itself. The predicted class stays what it is (Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from olmoearth_core.models.prediction_sets import PredictionSets
from olmoearth_core.training.answers import Answer, thinned
from olmoearth_core.training.tally import labelled_scores, log_softmax

MOST_PIXELS = 1_000_000
"""Labelled pixels that a temperature is fitted on."""
LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures looked at."""


@dataclass(frozen=True)
class Temperature:
    """What scores are divided by, and how it was found.

    Attributes:
        value: the temperature; 1 leaves probabilities as they are.
        pixels: how many labelled pixels it was fitted on.
        log_loss_before, log_loss_after: mean cross entropy of these; None where nothing was fitted.
        note: why nothing was fitted; empty where it was.
    """

    value: float
    pixels: int
    log_loss_before: float | None = None
    log_loss_after: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values; `value` is called temperature."""
        values = asdict(self)
        return {"temperature": values.pop("value"), **values}


class Keeper:
    """Keeps some labelled pixels of answers that pass by: at most so many in each window, drawn by its row alone.

    Args:
        windows: how many windows will pass by.
        most: pixels to keep of all of them.
    """

    def __init__(self, windows: int, most: int = MOST_PIXELS) -> None:
        self._most = max(1, most // max(1, windows))
        self._truth: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def add(self, answer: Answer) -> None:
        """Look at an answer."""
        _, truth, scores = labelled_scores(thinned(answer, self._most))
        self._truth.append(truth)
        self._scores.append(scores)

    def probabilities(self, temperature: float, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities (P, K), truth (P,)) of what passed by; K is `classes`."""
        if not self._truth:
            return np.zeros((0, classes), np.float32), np.zeros(0, np.int64)
        scores = np.concatenate(self._scores) / np.float32(temperature)
        return np.exp(log_softmax(scores)), np.concatenate(self._truth)

    def sets(self, temperature: float, classes: int) -> PredictionSets:
        """What a class needs to be in a prediction set, learned from what passed by."""
        return PredictionSets.fit(*self.probabilities(temperature, classes))

    def temperature(self) -> Temperature:
        """The temperature fitted on what passed by."""
        if not self._truth:
            return fit_temperature(np.zeros((0, 1), np.float32), np.zeros(0, np.int64))
        return fit_temperature(np.concatenate(self._scores), np.concatenate(self._truth))


def fit_temperature(scores: np.ndarray, truth: np.ndarray) -> Temperature:
    """The temperature with the least mean cross entropy.

    The loss is convex in 1 / temperature, so its one minimum is found by a bounded search over the logarithm.

    Args:
        scores: (P, K) float32 logits of labelled pixels.
        truth: (P,) int64 class indices.

    Returns:
        temperature 1 and a note where there is nothing to fit on: no pixel, one class only, or none that is wrong.
    """
    from scipy.optimize import minimize_scalar

    pixels = len(truth)
    if not pixels:
        return Temperature(1.0, 0, note="Validation holds nothing labelled: probabilities are as the model gives them.")
    if (truth == truth[0]).all():
        note = "Validation holds one class only: probabilities are as the model gives them."
        return Temperature(1.0, pixels, note=note)
    if (scores.argmax(axis=1) == truth).all():
        note = "Validation is all right, so nothing says how sure to be: probabilities are as the model gives them."
        return Temperature(1.0, pixels, note=note)

    def loss(log_temperature: float) -> float:
        found = log_softmax(scores / np.float32(np.exp(log_temperature)))
        return -float(found[np.arange(pixels), truth].mean(dtype=np.float64))

    best = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-4})
    return Temperature(round(float(np.exp(best.x)), 4), pixels, loss(0.0), float(best.fun))
