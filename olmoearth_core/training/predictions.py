"""What a model says of windows, in every task at once, and how it does by that after an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.data import Batch
from olmoearth_core.training.loop import Judgement, Source
from olmoearth_core.training.memory import in_parts
from olmoearth_core.training.step import forward
from olmoearth_core.training.tally import Counter, headline

LONG = ("confusion", "reliability")
"""Scores that would make the history long."""


def judge_epoch(model: Predictor, windows: Source, dataset: Dataset, at_once: int) -> Judgement:
    """Scores of every task on `windows`; the main task's headline."""
    counters = {name: Counter(task) for name, task in dataset.tasks.items()}
    for said in answers(model, windows, at_once):
        for name, counter in counters.items():
            counter.add(said[name])
    found = {name: counter.tally().scores() for name, counter in counters.items()}
    told = {name: {k: v for k, v in scores.items() if k not in LONG} for name, scores in found.items()}
    main, *others = told
    further = {"auxiliary": {name: told[name] for name in others}} if others else {}  # no task's name hides a score
    return Judgement(headline(found[main], dataset.tasks[main]), told[main] | further)


def answers(model: Predictor, windows: Source, at_once: int) -> Iterator[dict[str, Answer]]:
    """What `model`, in evaluation mode, says of `windows`, batch by batch: task -> answer.

    The encoder looks once for all tasks, and nothing is kept but the batch.
    """
    model.eval()

    def say(part: Batch) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            said = forward(model, part)
            return {name: task.within_range(said[name].float()).cpu().numpy() for name, task in model.tasks.items()}

    for batch in windows.in_order(at_once):
        for part, scores in in_parts(batch, say):
            yield {name: Answer(part.rows, t.strata, t.values, scores[name]) for name, t in part.truths.items()}


def answers_to(task: str, model: Predictor, windows: Source, at_once: int) -> Iterator[Answer]:
    """As `answers`, of one task."""
    return (said[task] for said in answers(model, windows, at_once))
