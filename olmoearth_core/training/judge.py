"""Judging a trained model: what finetune asks at its end, and all that a partner is told about how good it is.

For each task the validation answers fit the temperature, the test answers are asked for once, and a random forest that
learned from the same training windows answers for the same pixels. All that is said follows from per-window sums.
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
from olmoearth_core.training.tally import Counter, Tally, tally
from olmoearth_core.training.verdict import compare

AnswersOf = Callable[[str, str], Iterator[Answer]]
"""(split, task) -> what the model says of the split's windows, each once."""
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
        answers_of: the model's answers; those of the test are asked for once a task.
        out: folder of report.html, confusion.png, reliability.png, scatter.png, worst.png (of further tasks:
            confusion_<task>.png ...); only those that make sense for the kind of task.
        colours: task -> "#rrggbb" of each class; a task that is not here gets usual ones.
        read: gives samples by rows of the window table; the dataset's own when not given.
        seed: of intervals and random forest.
        progress: is told the steps.

    Returns:
        JSON values. Of the main task, at the top: kind, headline, calibration, validation and test, each with the
        scores of `Tally.scores`, windows, blocks, intervals (low and high by the same keys), interval_note and baseline
        (name, scores, pixels, difference, verdict, sentence; or None); of the test, where a temperature was fitted,
        also uncalibrated (ece, log_loss, reliability). Further tasks in `auxiliary`, by their names.

    Raises:
        TrainingError: an answer that is no number.
    """
    from olmoearth_core.training.report import write_report

    read, progress = read or dataset.read, progress or Silent()
    metrics: dict[str, dict[str, Any]] = {}
    judged: dict[str, list[Judged]] = {}
    for name, task in tasks.items():
        with progress.bar(f"fitting a random forest ({name})") as advance:
            forest = fit_forest(
                read, dataset.indices("train"), name, task, at_once=dataset.at_once, seed=seed, advance=advance
            )
        found, temperature = _judge_task(dataset, name, task, answers_of, forest, read, seed)
        judged[name] = found
        metrics[name] = {
            "kind": task.kind,
            "headline": HEADLINE[task.kind][0],
            "calibration": temperature.to_json() if task.kind != "regression" else None,
            **{j.split: j.scores for j in found},
        }
    write_report(out, dataset, judged, metrics, colours, read)
    main, *others = metrics
    return metrics[main] | {"auxiliary": {name: metrics[name] for name in others}}


def _judge_task(
    dataset: Dataset, name: str, task: Task, answers_of: AnswersOf, forest: Forest | None, read: Read, seed: int
) -> tuple[list[Judged], Temperature]:
    """One task, validation first: it decides the temperature that the test is judged at."""

    def judge_split(split: str, temperature: float, *listeners: Keeper) -> Judged:
        most = max(1, MOST_COMPARED // max(1, len(dataset.indices(split))))
        counter, raw = Counter(task, temperature), Counter(task)
        few, gallery = Counter(task, temperature, most=most), Gallery(counter)
        for answer in answers_of(split, name):
            for hear in (counter.add, raw.add, few.add, gallery.add, *(listener.add for listener in listeners)):
                hear(answer)
        judged, compared = counter.tally(), few.tally()
        scores = _scores(judged, dataset, seed)
        if temperature != 1:
            before = raw.tally().scores()
            scores["uncalibrated"] = {key: before[key] for key in ("ece", "log_loss", "reliability")}
        scores["baseline"] = None
        if forest is not None and len(compared.rows):
            answers = forest.answers(read, compared.rows.tolist(), at_once=dataset.at_once, most=most)
            scores["baseline"] = _baseline(compared, tally(answers, task), dataset, task, seed)
        return Judged(task, split, judged, gallery, scores)

    keeper = Keeper(len(dataset.indices("validation")))
    if task.kind == "regression":
        return [judge_split("validation", 1.0), judge_split("test", 1.0)], Temperature(1.0, 0)
    validation = judge_split("validation", 1.0, keeper)
    temperature = keeper.temperature()
    return [validation, judge_split("test", temperature.value)], temperature


def _scores(judged: Tally, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Scores of one split and their intervals."""
    resampled = intervals(judged, blocks_of(dataset.windows, judged.rows), seed=seed)
    limits = {path: {"low": i.low, "high": i.high} for path, i in resampled.intervals.items()}
    return judged.scores() | {
        "windows": len(judged.rows),
        "blocks": resampled.blocks,
        "intervals": nested(limits),
        "interval_note": resampled.note if len(judged.rows) else "",
    }


def _baseline(model: Tally, forest: Tally, dataset: Dataset, task: Task, seed: int) -> dict[str, Any]:
    """The random forest's scores, and what the model has more or less, on the same pixels."""
    difference = paired_difference(model, forest, blocks_of(dataset.windows, model.rows), seed=seed)
    verdict, sentence = compare(difference, task.kind, NAME)
    scores = forest.scores()
    return {
        "name": NAME,
        "scores": {key: value for key, value in scores.items() if key not in ("confusion", "reliability")},
        "pixels": int(model.pixels.sum()),
        "difference": nested(difference.to_json()),
        "verdict": verdict,
        "sentence": sentence,
    }
