"""Classes of 200 patches of EuroSAT, five folds: a head on what the frozen encoder sees, and all weights."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from learning import GALILEO, OLMOEARTH, S2, Plan, Subject, data, learn, row
from sklearn.model_selection import StratifiedKFold

from olmoearth_core.dataset.cubes import Sample, Truth
from olmoearth_core.models.card import TaskCard
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.data import Windows, gather
from olmoearth_core.training.setup import answers

FOLDS, INNER = 5, 4
FILE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
DATE = "2018-07-01"
"""Assumed: the files tell none."""
FOREST, PROBE = "random forest", "logistic regression on frozen features"
SCORE = ("overall_accuracy",)

HEADS = tuple(
    Plan(GALILEO, True, "head_only", head, 8, epochs, rate)
    for head in ("linear", "pool")
    for epochs in (30, 100)
    for rate in (1e-3, 3e-3)
)
"""What is chosen from, on the training part of each fold."""
ALL = (
    Plan(GALILEO, True, "layer_decay", "pool", 8, 12, 1e-3),
    Plan(GALILEO, False, "full", "pool", 8, 12, 1e-3),
    Plan(OLMOEARTH, False, "full", "pool", 8, 30, 1e-3),
)
"""Not chosen: set beforehand."""


def experiment() -> dict[str, Any]:
    """Every patch is answered once, by models that did not see it."""
    samples, classes = _patches()
    subject = Subject(TaskCard(kind="classification", classes=classes), BANDS, 1)
    truth = np.array([int(sample.target[0, 0]) for sample in samples])
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(truth, truth))
    found: dict[str, list[Answer]] = {}
    chosen: dict[str, list[Any]] = {}
    for train, test in folds:
        for plan in (HEADS[0], replace(HEADS[0], pretrained=False)):
            best, scores = _choose(subject, samples, truth, train, plan.pretrained)
            chosen.setdefault(best.name, []).append(best.to_json() | {"inner_accuracy": scores})
            found.setdefault(best.name, []).extend(_answers(subject, best, samples, train, test))
        for plan in ALL:
            found.setdefault(plan.name, []).extend(_answers(subject, plan, samples, train, test))
        found.setdefault(FOREST, []).extend(_forest(subject, samples, train, test))
        found.setdefault(PROBE, []).extend(_probe(subject, samples, truth, train, test))
    tallies = {name: _in_order(answered, subject) for name, answered in found.items()}
    patches = np.stack([np.arange(len(samples)), np.zeros(len(samples), np.int64)], axis=1)
    baselines = {name: tallies[name] for name in (PROBE, FOREST)}
    return {
        "rows": [row(name, SCORE, tallied, patches, baselines) for name, tallied in tallies.items()],
        "chosen": chosen,
        "set_beforehand": [plan.to_json() for plan in ALL],
    }


def _patches() -> tuple[list[Sample], list[str]]:
    """All patches as windows of one timestep, and the class names."""
    folder = data() / "eurosat_200"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({line["class"] for line in rows})
    order = [FILE_BANDS.index(band) + 1 for band in BANDS]
    samples = []
    for line in rows:
        with rasterio.open(folder / line["file"]) as file:
            pixels = file.read(order)
        truth = Truth(np.full(pixels.shape[1:], classes.index(line["class"]), np.uint8))
        seen = np.ones((1, *pixels.shape[1:]), bool)
        samples.append(Sample({S2: pixels[None]}, {S2: seen}, np.array([DATE], "datetime64[D]"), {"main": truth}))
    return samples, classes


def _windows(subject: Subject, samples: Sequence[Sample], rows: Sequence[int]) -> Windows:
    def read(indices: Sequence[int]) -> list[Sample]:
        return [samples[k] for k in indices]

    found = gather(read, {"all": rows}, {"main": subject.task}, {"main": len(subject.task.classes)}, at_once=8)
    return found["all"]


def _choose(
    subject: Subject, samples: Sequence[Sample], truth: np.ndarray, train: np.ndarray, pretrained: bool
) -> tuple[Plan, dict[str, float]]:
    """The head with the best accuracy over folds inside `train`, and the accuracy of each."""
    inner = StratifiedKFold(INNER, shuffle=True, random_state=1).split(train, truth[train])
    right = dict.fromkeys(HEADS, 0.0)
    for learned, watched in inner:
        here, there = (_windows(subject, samples, train[part].tolist()) for part in (learned, watched))
        with tempfile.TemporaryDirectory() as kept:
            for plan in HEADS:
                of = replace(plan, pretrained=pretrained)
                right[plan] += learn(subject, of, here, there, Path(kept), judge="last")[1][-1] / INNER
    best = max(HEADS, key=lambda plan: right[plan])
    told = {f"{plan.head}, {plan.epochs} epochs, {plan.learning_rate:g}": value for plan, value in right.items()}
    return replace(best, pretrained=pretrained), told


def _answers(
    subject: Subject, plan: Plan, samples: Sequence[Sample], train: np.ndarray, test: np.ndarray
) -> list[Answer]:
    model, _ = learn(subject, plan, _windows(subject, samples, train.tolist()))
    return list(answers(model, _windows(subject, samples, test.tolist()), "main", 8))
