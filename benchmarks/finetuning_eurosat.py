"""Classes of 200 patches of EuroSAT, five folds: a head on what the frozen encoder sees, and all weights."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from learning import GALILEO, OLMOEARTH, S2, Plan, Subject, data, judged, learn, part, row, seen
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from olmoearth_core.dataset.cubes import Sample, Truth
from olmoearth_core.models.card import TaskCard
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.baselines import fit_forest
from olmoearth_core.training.data import Windows, gather
from olmoearth_core.training.embeddings import Embedded
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.tally import tally

FOLDS, INNER = 5, 3
FILE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
DATE = "2018-07-01"
"""Assumed: the files tell none."""
FOREST, PROBE = "random forest", "logistic regression on frozen features"
SCORE = ("overall_accuracy",)

HEADS = tuple(Plan(GALILEO, True, "head_only", head, 8, 60, 3e-3, batch_size=16) for head in ("linear", "pool"))
"""What is chosen from, on the training part of each fold."""
ALL = (
    Plan(GALILEO, True, "layer_decay", "pool", 8, 8, 1e-3),
    Plan(OLMOEARTH, False, "full", "pool", 8, 20, 1e-3),
)
"""Not chosen: set beforehand."""


def experiment() -> dict[str, Any]:
    """Every patch is answered once, by models that did not see it."""
    samples, classes = patches()
    subject = Subject(TaskCard(kind="classification", classes=classes), BANDS, 1)
    truth = np.array([int(sample.target[0, 0]) for sample in samples])
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(truth, truth))
    found: dict[str, list[Answer]] = {}
    chosen: dict[str, list[Any]] = {}
    everything = windows(subject, samples, range(len(samples)))
    for weights in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            plan = replace(HEADS[0], pretrained=weights)
            kept = seen(subject.model(plan).eval(), everything, Path(folder))
        for train, test in folds:
            best, scores = _choose(subject, kept, truth, train, weights)
            chosen.setdefault(best.name, []).append(best.to_json() | {"inner_accuracy": scores})
            model, _ = learn(subject, best, part(kept, train))
            found.setdefault(best.name, []).extend(answers_to("main", model, part(kept, test), 8))
            if weights:
                found.setdefault(PROBE, []).extend(_probe(kept, truth, train, test))
        print(weights, {n: tally(a, subject.layout).scores()["overall_accuracy"] for n, a in found.items()}, flush=True)
    for train, test in folds:
        found.setdefault(FOREST, []).extend(_forest(subject, samples, train, test))
        for plan in ALL:
            model, _ = learn(subject, plan, windows(subject, samples, train.tolist()))
            found.setdefault(plan.name, []).extend(
                answers_to("main", model, windows(subject, samples, test.tolist()), 8)
            )
        print({n: tally(a, subject.layout).scores()["overall_accuracy"] for n, a in found.items()}, flush=True)
    tallies = {name: tally(answered, subject.layout).take(everything.rows) for name, answered in found.items()}
    blocks = np.stack([everything.rows, np.zeros_like(everything.rows)], axis=1)
    baselines = {name: tallies[name] for name in (PROBE, FOREST)}
    return {
        "rows": [row(name, SCORE, found_here, blocks, baselines) for name, found_here in tallies.items()],
        "chosen": chosen,
        "set_beforehand": [plan.to_json() for plan in ALL],
    }


def patches() -> tuple[list[Sample], list[str]]:
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


def windows(subject: Subject, samples: Sequence[Sample], rows: Sequence[int]) -> Windows:
    """Windows of some of the patches."""

    def read(indices: Sequence[int]) -> list[Sample]:
        return [samples[k] for k in indices]

    found = gather(read, {"all": rows}, {"main": subject.task}, {"main": len(subject.task.classes)}, at_once=8)
    return found["all"]


def _choose(
    subject: Subject, kept: Embedded, truth: np.ndarray, train: np.ndarray, pretrained: bool
) -> tuple[Plan, dict[str, float]]:
    """The head with the best accuracy over folds inside `train`, and the accuracy of each."""
    right = dict.fromkeys(HEADS, 0.0)
    for learned, watched in StratifiedKFold(INNER, shuffle=True, random_state=1).split(train, truth[train]):
        here, there = part(kept, train[learned]), part(kept, train[watched])
        for plan in HEADS:
            model, _ = learn(subject, replace(plan, pretrained=pretrained), here)
            right[plan] += float(judged(subject, model, there).scores()["overall_accuracy"]) / INNER
    best = max(HEADS, key=lambda plan: right[plan])
    told = {plan.head: round(value, 4) for plan, value in right.items()}
    return replace(best, pretrained=pretrained), told


def _probe(kept: Embedded, truth: np.ndarray, train: np.ndarray, test: np.ndarray) -> Iterator[Answer]:
    """Logistic regression on the mean token of each patch."""
    tokens = kept.features.mean(axis=(2, 3))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(tokens[train], truth[train])
    scores = np.log(probe.predict_proba(tokens[test]).astype(np.float32) + 1e-9)
    yield Answer(kept.rows[test], truth[test].astype(np.uint8)[:, None, None], None, scores[:, :, None, None])


def _forest(subject: Subject, samples: Sequence[Sample], train: np.ndarray, test: np.ndarray) -> Iterator[Answer]:
    def read(rows: Sequence[int]) -> list[Sample]:
        return [samples[row] for row in rows]

    forest = fit_forest(read, train.tolist(), "main", subject.layout)
    assert forest is not None
    return forest.answers(read, test.tolist())
