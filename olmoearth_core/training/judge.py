"""Judging a trained model: what finetune asks at its end, and all that a partner is told about how good it is.

The windows of a split are answered in one pass for all tasks, because what costs is the encoder. Validation fits the
temperatures, then the test is answered, and of each task a random forest that learned from the same training windows
answers for the same pixels, at a temperature of its own from the same validation. All that is said follows from
per-window sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.training.answers import Answer, Read, Task
from olmoearth_core.training.baselines import NAME, Forest, fit_forest
from olmoearth_core.training.bootstrap import blocks_of, intervals, paired_difference
from olmoearth_core.training.calibration import Keeper, Temperature
from olmoearth_core.training.gallery import Gallery
from olmoearth_core.training.metrics import HEADLINE, nested
from olmoearth_core.training.tally import ClassTally, Counter, Tally
from olmoearth_core.training.verdict import compare

AnswersOf = Callable[[str], Iterator[Mapping[str, Answer]]]
"""Split -> what the model says of its windows, each once: of a few windows at a time, every task's answer."""
MOST_COMPARED = 500_000
"""Pixels of a split at which model and random forest are compared; of more, as many in every window."""


@dataclass(frozen=True)
class Judged:
    """What was found out about a task in one split.

    Attributes:
        task: what was asked.
        split: "validation" or "test".
        tally: of the model; of the test at the temperature that validation asked for.
        gallery: what it said of the windows worth looking at.
        scores: JSON values, as in metrics.json.
    """

    task: Task
    split: str
    tally: Tally
    gallery: Gallery
    scores: dict[str, Any]


def judge(
    dataset: Dataset,
    tasks: Mapping[str, Task],
    answers_of: AnswersOf,
    out: Path,
    *,
    colours: Mapping[str, Sequence[str]],
    read: Read | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge a model on validation and test, leave report.html and its figures in `out`, and return the metrics.

    Args:
        dataset: whose windows were learned from and are judged.
        tasks: name -> task, the main one first.
        answers_of: the model's answers; those of validation are asked for once, then those of the test.
        out: folder of report.html, confusion.png, reliability.png, scatter.png, worst.png (of further tasks:
            confusion_<task>.png ...); only those that make sense for the kind of task.
        colours: task -> "#rrggbb" of each class; a task that is not here gets usual ones.
        read: gives samples by rows of the window table; the dataset's own when not given.
        seed: of intervals and random forest.
        progress: is told the steps.

    Returns:
        JSON values. Of the main task, at the top: kind, headline, calibration, validation and test, each with the
        scores of `Tally.scores`, windows, blocks, blocks_with (class or part -> blocks), intervals (low and high by the
        same keys), interval_note and baseline (name, temperature, scores, pixels, difference, verdict, sentence; or
        None); of the test, where a temperature was fitted, also uncalibrated (ece, log_loss, reliability). sets, of
        classes: `PredictionSets` learned from validation, and by coverage the share of the test's pixels whose set
        held the truth (test); None of a regression. Further tasks in `auxiliary`, by their names.

    Raises:
        TrainingError: an answer that is no number.
    """
    from olmoearth_core.training.report import write_report

    read, progress = read or dataset.read, progress or Silent()
    metrics: dict[str, dict[str, Any]] = {}
    judged: dict[str, list[Judged]] = {}
    validation = _hear(dataset, "validation", tasks, answers_of, {})
    temperatures = {name: heard.temperature() for name, heard in validation.items()}
    test = _hear(dataset, "test", tasks, answers_of, {name: found.value for name, found in temperatures.items()})
    for name, task in tasks.items():
        with progress.bar(f"fitting a random forest ({name})") as advance:
            forest = fit_forest(
                read, dataset.indices("train"), name, task, at_once=dataset.at_once, seed=seed, advance=advance
            )
        unscaled, scaled = validation[name].judged(forest, read, seed, 1.0)
        judged[name] = [unscaled, test[name].judged(forest, read, seed, scaled)[0]]
        metrics[name] = {
            "kind": task.kind,
            "headline": HEADLINE[task.kind][0],
            "calibration": temperatures[name].to_json() if task.kind != "regression" else None,
            "sets": _sets(validation[name], test[name], temperatures[name].value),
            **{j.split: j.scores for j in judged[name]},
        }
    write_report(out, dataset, judged, metrics, colours, read)
    main, *others = metrics
    return metrics[main] | {"auxiliary": {name: metrics[name] for name in others}}


def _hear(
    dataset: Dataset, split: str, tasks: Mapping[str, Task], answers_of: AnswersOf, temperatures: Mapping[str, float]
) -> dict[str, _Heard]:
    """Have a split answered, in one pass; task -> what was heard."""
    heard = {name: _Heard(dataset, split, task, temperatures.get(name, 1.0)) for name, task in tasks.items()}
    for answers in answers_of(split):
        for name, listener in heard.items():
            listener.add(answers[name])
    return heard


class _Heard:
    """What a model said of one task in one split, as far as it is kept: sums of each window, and a few pictures."""

    def __init__(self, dataset: Dataset, split: str, task: Task, temperature: float) -> None:
        windows = len(dataset.indices(split))
        self.dataset, self.split, self.task = dataset, split, task
        self.most = max(1, MOST_COMPARED // max(1, windows))
        self.counter, self.raw = Counter(task, temperature), Counter(task)
        self.few, self.gallery = Counter(task, temperature, most=self.most), Gallery(self.counter)
        self.keeper = Keeper(windows) if task.kind != "regression" else None

    def add(self, answer: Answer) -> None:
        """Count an answer; the gallery goes by what the counter has."""
        for listener in (self.counter, self.raw, self.few, self.gallery, self.keeper):
            if listener is not None:
                listener.add(answer)

    def temperature(self) -> Temperature:
        """That makes the probabilities honest; 1 where there are none."""
        return Temperature(1.0, 0) if self.keeper is None else self.keeper.temperature()

    def judged(self, forest: Forest | None, read: Read, seed: int, temperature: float) -> tuple[Judged, float]:
        """With scores, and what the forest does on the same pixels at its `temperature`; and that fitted on these."""
        model, compared = self.counter.tally(), self.few.tally()
        scores = _scores(model, self.dataset, seed)
        if isinstance(model, ClassTally) and model.temperature != 1:
            before = self.raw.tally().scores()
            scores["uncalibrated"] = {key: before[key] for key in ("ece", "log_loss", "reliability")}
        scores["baseline"] = None
        if forest is not None and len(compared.rows):
            rows, at_once = compared.rows.tolist(), self.dataset.at_once
            counter, keeper = Counter(self.task, temperature), Keeper(len(rows))
            for answer in forest.answers(read, rows, at_once=at_once, most=self.most):
                counter.add(answer)
                keeper.add(answer)
            scores["baseline"] = _baseline(compared, counter.tally(), self.dataset, self.task, seed)
            temperature = 1.0 if self.task.kind == "regression" else keeper.temperature().value
        return Judged(self.task, self.split, model, self.gallery, scores), temperature


def _scores(judged: Tally, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Scores of one split and their intervals."""
    resampled = intervals(judged, blocks_of(dataset.windows, judged.rows), seed=seed)
    limits = {path: {"low": i.low, "high": i.high} for path, i in resampled.intervals.items()}
    return judged.scores() | {
        "windows": len(judged.rows),
        "blocks": resampled.blocks,
        "blocks_with": resampled.holding,
        "intervals": nested(limits),
        "interval_note": (resampled.note or resampled.rare) if len(judged.rows) else "",
    }


def _sets(validation: _Heard, test: _Heard, temperature: float) -> dict[str, Any] | None:
    """Prediction sets as validation asks for them, and how often they hold the truth of the test."""
    if validation.keeper is None or test.keeper is None:
        return None
    classes = len(validation.task.strata)
    sets = validation.keeper.sets(temperature, classes)
    said = test.keeper.probabilities(temperature, classes)
    return sets.model_dump() | {"test": [sets.held(*said, coverage) for coverage in sets.coverages]}


def _baseline(model: Tally, forest: Tally, dataset: Dataset, task: Task, seed: int) -> dict[str, Any]:
    """The random forest's scores, and what the model has more or less, on the same pixels."""
    difference = paired_difference(model, forest, blocks_of(dataset.windows, model.rows), seed=seed)
    verdict, sentence = compare(difference, task.kind, NAME)
    scores = forest.scores()
    return {
        "name": NAME,
        "temperature": forest.temperature if isinstance(forest, ClassTally) else None,
        "scores": {key: value for key, value in scores.items() if key not in ("confusion", "reliability")},
        "pixels": int(model.pixels.sum()),
        "difference": nested(difference.to_json()),
        "verdict": verdict,
        "sentence": sentence,
    }
