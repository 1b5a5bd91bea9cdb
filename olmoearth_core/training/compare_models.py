"""Two trained models on the same held-out windows: which is better, how surely, and at what cost.

Both answer the test windows of one training set. Windows that the champion's training set had with the same labels are
the frozen test; the others hold the newest labels. Neither model learned from any of them, as long as blocks of ground
keep their split (labels/frozen.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.errors import TrainingError
from olmoearth_core.models.card import ModelCard
from olmoearth_core.models.catalogue import named
from olmoearth_core.models.cost import Workload, macs
from olmoearth_core.models.model_folder import load_model, read_card
from olmoearth_core.models.predictor import TrainedModel
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.training.answers import Task
from olmoearth_core.training.bootstrap import Resampled, blocks_of, paired_difference
from olmoearth_core.training.data import Windows, gather
from olmoearth_core.training.metrics import nested
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.tally import Counter, Tally

TEST, NEWEST = "test", "newest"
LONG = ("confusion", "reliability")
"""Scores that nobody compares."""


@dataclass(frozen=True)
class Cost:
    """What mapping with a model takes.

    Attributes:
        macs_per_km2: multiply-accumulates of its encoder for a square kilometre of the project's map.
        windows_per_second: measured while it answered the test, on this machine.
    """

    macs_per_km2: float
    windows_per_second: float


@dataclass(frozen=True)
class Part:
    """Some of the test windows, answered by both.

    Attributes:
        windows: how many.
        champion, challenger: scores, as `Tally.scores`.
        difference: the challenger's scores less the champion's, on the same blocks of ground.
    """

    windows: int
    champion: dict[str, Any]
    challenger: dict[str, Any]
    difference: Resampled


@dataclass(frozen=True)
class Comparison:
    """Champion and challenger.

    Attributes:
        task: what both answer.
        parts: "test" (the frozen test) and "newest" (windows whose labels the champion's training set did not have);
            a part without windows is not here.
        costs: "champion" and "challenger".
        notes: what to know when reading it.
    """

    task: Task
    parts: Mapping[str, Part]
    costs: Mapping[str, Cost]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values: kind; parts {name: windows, blocks, champion, challenger, difference {score: value, low, high},
        trusted, note}; costs {model: macs_per_km2, windows_per_second}; notes."""
        return {
            "kind": self.task.kind,
            "parts": {
                name: {
                    "windows": part.windows,
                    "blocks": part.difference.blocks,
                    "champion": part.champion,
                    "challenger": part.challenger,
                    "difference": nested(part.difference.to_json()),
                    "trusted": part.difference.trusted,
                    "note": part.difference.note or part.difference.rare,
                }
                for name, part in self.parts.items()
            },
            "costs": {name: vars(cost) for name, cost in self.costs.items()},
            "notes": list(self.notes),
        }


def compare_models(
    project: Project, folder: Path, champion: Path, challenger: Path, *, before: Path | None, progress: Progress
) -> Comparison:
    """Have both models answer the test windows of a training set.

    Args:
        project: whose map costs what it costs.
        folder: of the training set, as preprocess left it.
        champion, challenger: model folders.
        before: windows.parquet of the champion's training set; None where it is gone or the same: all is frozen then.
        progress: is told the steps.

    Raises:
        TrainingError: a model that cannot answer these windows (other classes, bands, timesteps), or no test windows.
        CheckpointError: a model that is damaged.
        DatasetError: a training set that cannot be read.
    """
    dataset = open_dataset(folder)
    name, task = dataset.main, dataset.tasks[dataset.main]
    models = {"champion": champion, "challenger": challenger}
    for path in models.values():
        _check_fits(read_card(path), dataset, path)
    windows = _test_windows(dataset, read_card(challenger), progress)
    tallies: dict[str, Tally] = {}
    costs: dict[str, Cost] = {}
    for which, path in models.items():
        model = load_model(path)
        with progress.bar(f"the {which} answers the test", len(windows)) as advance:
            start = time.perf_counter()
            counter = Counter(task, model.card.main.temperature)
            for answer in answers_to(name, model.predictor, windows, dataset.at_once):
                counter.add(answer)
                advance(len(answer.rows))
            seconds = time.perf_counter() - start
        tallies[which] = counter.tally()
        costs[which] = Cost(_macs_per_km2(model, project), len(windows) / max(seconds, 1e-9))
    new = newest_rows(dataset, before)
    rows = tallies["champion"].rows
    frozen = rows[~np.isin(rows, new)]
    shares = {TEST: frozen, NEWEST: rows[np.isin(rows, new)]} if len(frozen) else {TEST: rows}
    notes = () if len(frozen) or not len(rows) else ("All test windows have new labels: there is no frozen test.",)
    parts = {part: _compare(tallies, some, dataset) for part, some in shares.items() if len(some)}
    return Comparison(task, parts, costs, notes)


def newest_rows(dataset: Dataset, before: Path | None) -> np.ndarray:
    """Rows of the dataset's window table whose labels another training set did not have: new places, dates or labels.

    Args:
        dataset: the one of now.
        before: windows.parquet of the other; None: no row.
    """
    if before is None:
        return np.zeros(0, np.int64)
    place = ["column", "row", "date"]
    counts = [column for column in dataset.windows.columns if column.startswith("pixels_")]
    old = pd.read_parquet(before)
    columns = place + [column for column in counts if column in old.columns]
    known = set(old[columns].astype(str).itertuples(index=False, name=None))
    now = dataset.windows[columns].astype(str).itertuples(index=False, name=None)
    return np.array([row for row, window in enumerate(now) if window not in known], np.int64)


def _check_fits(card: ModelCard, dataset: Dataset, path: Path) -> None:
    """Refuse a model that these windows are no question for."""
    task, main = dataset.tasks[dataset.main], card.main
    asked = (dataset.main, task.kind, tuple(task.strata) if task.kind != "regression" else (), task.range)
    has = (main.name, main.kind, tuple(main.classes), main.range)
    if asked != has:
        what = ", ".join(main.classes) or f"{main.name} {main.range}"
        told = f"it answers {what} ({main.kind}), the labels are of {', '.join(task.strata)} ({task.kind})"
    elif {m: tuple(names) for m, names in card.bands.items()} != dataset.bands:
        told = f"it reads {_bands(card.bands)}, the training set has {_bands(dataset.bands)}"
    elif card.timesteps != dataset.timesteps or card.resolution != dataset.resolution:
        told = (
            f"it reads {card.timesteps} timesteps of {card.resolution:g} m, the training set has {dataset.timesteps} "
            f"of {dataset.resolution:g} m"
        )
    elif dataset.window_size % card.patch_size:
        told = f"its patches of {card.patch_size} pixels do not divide the windows of {dataset.window_size}"
    else:
        return
    raise TrainingError(f"{path}: this model cannot be compared on the training set of now: {told}.")


def _bands(bands: Mapping[str, Any]) -> str:
    return "; ".join(f"{modality} {' '.join(names)}" for modality, names in bands.items())


def _test_windows(dataset: Dataset, card: ModelCard, progress: Progress) -> Windows:
    """The usable windows of the test split, asked for the main task alone."""
    rows, strata = dataset.indices("test"), {dataset.main: len(dataset.tasks[dataset.main].strata)}
    with progress.bar("reading the test windows", len(rows)) as advance:
        tasks = {dataset.main: card.main}
        found = gather(dataset.read, {"test": rows}, tasks, strata, at_once=dataset.at_once, advance=advance)["test"]
    if not len(found):
        raise TrainingError(
            f"{dataset.folder}: the test split has no labelled pixel that can be seen, so models cannot be compared. "
            "Label more places, or make dataset.split.block_size smaller."
        )
    return found


def _macs_per_km2(model: TrainedModel, project: Project) -> float:
    card = model.card
    work = Workload(
        window_size=card.window_size,
        patch_size=card.patch_size,
        timesteps=card.timesteps,
        modalities=tuple(card.bands),
        resolution=card.resolution,
        overlap=project.config.map.overlap,
    )
    return macs(named(card.encoder), work) * work.windows_per_km2


def _compare(tallies: Mapping[str, Tally], rows: np.ndarray, dataset: Dataset) -> Part:
    champion, challenger = (tallies[name].take(rows) for name in ("champion", "challenger"))
    difference = paired_difference(challenger, champion, blocks_of(dataset.windows, rows))
    one, other = ({k: v for k, v in tally.scores().items() if k not in LONG} for tally in (champion, challenger))
    return Part(len(rows), one, other, difference)
