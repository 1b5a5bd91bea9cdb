"""Water of a reservoir: on a day that training never saw, and on a half of the ground that it never saw."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from learning import GALILEO, OLMOEARTH, S2, Plan, Subject, data, judged, learn, row

from olmoearth_core.dataset.cubes import Sample
from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.models.card import TaskCard
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.baselines import fit_forest
from olmoearth_core.training.bootstrap import blocks_of
from olmoearth_core.training.data import Read, Windows, gather
from olmoearth_core.training.tally import tally

DAYS, LATER = ("2020-06-21", "2020-09-14"), "2021-07-16"
MIDDLE = 482_880 + 1_860
"""Easting of the border between the halves, in metres."""
NDWI, FOREST = "NDWI", "random forest"
SCORE = ("classes", "water", "iou")
BATCH = 8

ENCODERS = (
    Plan(GALILEO, True, "layer_decay", "unet", 8, 16, 2e-3),
    Plan(GALILEO, False, "full", "unet", 8, 16, 2e-3),
    Plan(OLMOEARTH, False, "full", "unet", 8, 20, 2e-3),
)
LOSSES = ("cross_entropy", "dice")
"""What is chosen from, once for all encoders, with the cheapest of them."""
CHEAPEST = ENCODERS[-1]


@dataclass(frozen=True)
class Trial:
    """What is learned from and what is judged.

    Attributes:
        train: rows of the dataset, with the reader of their labels.
        test: likewise; read once.
        folds: (learned, watched) rows of the training part, among which plans are chosen.
    """

    train: tuple[Read, list[int]]
    test: tuple[Read, list[int]]
    folds: list[tuple[list[int], list[int]]]


def experiment() -> dict[str, Any]:
    """Both trials, with plans chosen on their training part alone."""
    with tempfile.TemporaryDirectory() as name:
        dataset = _dataset(Path(name) / "reservoir")
        subject = Subject(TaskCard(classes=list(dataset.classes)), dataset.bands[S2], dataset.timesteps)
        return {
            "another_day": _run(dataset, subject, _another_day(dataset)),
            "another_half": _run(dataset, subject, _another_half(dataset)),
        }


def _another_day(dataset: Dataset) -> Trial:
    first, second, later = (_rows(dataset, day) for day in (*DAYS, LATER))
    folds = [(first, second), (second, first)]
    return Trial((dataset.read, first + second), (dataset.read, later), folds)


def _another_half(dataset: Dataset) -> Trial:
    rows = _rows(dataset, DAYS[0])
    west, east = _half(dataset, west=True), _half(dataset, west=False)
    places = dataset.windows["row"].to_numpy()
    middle = np.median(places[rows])
    north, south = ([r for r in rows if (places[r] < middle) == upper] for upper in (True, False))
    return Trial((west, rows), (east, rows), [(north, south), (south, north)])


def _rows(dataset: Dataset, day: str) -> list[int]:
    dates = np.array(dataset.windows["date"].astype(str).str[:10])
    return [int(k) for k in np.flatnonzero(dates == day)]


def _half(dataset: Dataset, *, west: bool) -> Read:
    """The dataset with the labels of one half only."""

    def read(rows: Sequence[int]) -> list[Sample]:
        found = []
        for index, sample in zip(rows, dataset.read(rows), strict=True):
            easting, _ = dataset.box(index).centres
            here = np.broadcast_to((easting < MIDDLE) == west, sample.target.shape)
            truths = {name: truth.where(here) for name, truth in sample.truths.items()}
            found.append(Sample(sample.inputs, sample.valid, sample.dates, truths))
        return found

    return read


def _run(dataset: Dataset, subject: Subject, trial: Trial) -> dict[str, Any]:
    read, rows = trial.train
    train, (test,) = _windows(subject, read, rows), (_windows(subject, *trial.test),)
    forest = fit_forest(read, train.rows.tolist(), "main", subject.layout)
    assert forest is not None
    found = {
        NDWI: tally(_ndwi(subject, test), subject.layout),
        FOREST: tally(forest.answers(trial.test[0], test.rows.tolist()), subject.layout),
    }
    baselines, blocks = dict(found), blocks_of(dataset.windows, test.rows)
    inner = {loss: _inner(subject, replace(CHEAPEST, loss=loss), trial) for loss in LOSSES}
    loss = max(LOSSES, key=lambda name: np.mean(inner[name]))
    print(inner, flush=True)
    for plan in ENCODERS:
        found[plan.name] = judged(subject, learn(subject, replace(plan, loss=loss), train)[0], test)
        print(plan.name, found[plan.name].scores(), flush=True)
    return {
        "rows": [row(n, SCORE, t, blocks, baselines) for n, t in found.items()],
        "chosen": {"loss": loss, "inner": inner, "plans": [plan.to_json() for plan in ENCODERS]},
    }


def _inner(subject: Subject, plan: Plan, trial: Trial) -> list[float]:
    """IoU of water in each fold of the training part."""
    scores = []
    for learned, watched in trial.folds:
        here, there = (_windows(subject, trial.train[0], rows) for rows in (learned, watched))
        scores.append(judged(subject, learn(subject, plan, here)[0], there).scores()["classes"]["water"]["iou"])
    return scores


def _windows(subject: Subject, read: Read, rows: list[int]) -> Windows:
    return gather(read, {"all": rows}, {"main": subject.task}, {"main": 2}, at_once=BATCH)["all"]


def _ndwi(subject: Subject, windows: Windows) -> Iterator[Answer]:
    """Water where green is brighter than near infrared (McFeeters 1996)."""
    green, infrared = (subject.bands.index(band) for band in ("B03", "B08"))
    for batch in windows.in_order(BATCH):
        pixels = batch.inputs[S2][:, 0].astype(np.float32)
        g, n = pixels[:, green], pixels[:, infrared]
        index = (g - n) / np.maximum(g + n, 1)
        yield Answer(batch.rows, batch.truths["main"].strata, None, np.stack([-index, index], axis=1))


def _dataset(folder: Path) -> Dataset:
    """The training set of projects/reservoir, with the labels of all three days."""
    project = Path(__file__).parents[1] / "projects" / "reservoir"
    folder.mkdir()
    shutil.copy(project / "project.yaml", folder)
    (folder / "source").symlink_to(data() / "reservoir")
    settings = yaml.safe_load((folder / "project.yaml").read_text())
    settings["labels"]["files"] = [f"source/labels/water_{day}.geojson" for day in (*DAYS, LATER)]
    settings["dataset"]["split"] = {"kind": "time", "test_from": LATER}
    (folder / "project.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for stage in ("export", "preprocess"):
        run_stage(STAGES[stage], STAGES, load_project(folder), Silent())
    return open_dataset(folder / "data" / "dataset")
