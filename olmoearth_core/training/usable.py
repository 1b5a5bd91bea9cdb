"""The windows of a training set that can be learned from or judged by, and what is missing from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.errors import TrainingError
from olmoearth_core.models.card import TaskCard
from olmoearth_core.progress import Progress
from olmoearth_core.stage import Meter
from olmoearth_core.training.data import Windows, gather

SPLITS = ("train", "validation", "test")


def usable_windows(
    dataset: Dataset,
    tasks: Mapping[str, TaskCard],
    progress: Progress,
    meter: Meter,
    asked: Sequence[str] = SPLITS,
) -> dict[str, Windows]:
    """The usable windows of each split in `asked`; what cannot be learned or judged is refused or told.

    Other splits are not read.

    Raises:
        TrainingError: nothing, or one class only, to learn from.
    """
    rows = {split: dataset.indices(split) for split in asked}
    with progress.bar("reading the training set", sum(map(len, rows.values()))) as advance:
        windows = gather(
            dataset.read,
            rows,
            tasks,
            {name: len(task.strata) for name, task in dataset.tasks.items()},
            at_once=dataset.at_once,
            advance=advance,
        )
    meter.bytes_read += sum(found.bytes_read for found in windows.values())
    for k, (name, task) in enumerate(tasks.items()):
        _check_training(windows["train"], name, list(dataset.tasks[name].strata), task, main=k == 0)
    main = next(iter(tasks.values()))
    for split, found in windows.items():
        if found.left_out:
            progress.note(f"{found.left_out} {split} windows are left out: no labelled pixel of theirs can be seen.")
        if told := missing(split, found, main):
            progress.note(told)
    return windows


def _check_training(train: Windows, name: str, strata: list[str], task: TaskCard, *, main: bool) -> None:
    counts = train.counts[name].sum(axis=0)
    of = "" if main else f" for the task '{name}'"
    if not counts.any():
        all_of_them = len(train) + train.left_out
        raise TrainingError(
            f"Nothing to learn from{of}: {all_of_them or 'no'} windows are in the training split and none holds a "
            "labelled pixel that any timestep shows. Check labels, dates and dataset.split in project.yaml."
        )
    present = [stratum for stratum, count in zip(strata, counts, strict=True) if count]
    if len(present) == 1 and task.kind != "regression":
        raise TrainingError(
            f"The {len(train)} training windows hold the class '{present[0]}' only{of}, so there is nothing to tell "
            f"apart. Add labels of {', '.join(c for c in strata if c not in present)}, or change dataset.split.seed."
        )


def missing(split: str, windows: Windows, task: TaskCard) -> str:
    """What is missing from a split, in one sentence; empty where nothing is."""
    if not len(windows) or not windows.pixels.any():
        return f"The {split} split has no labelled pixel that can be seen: there are no {split} scores."
    absent = [name for name, labels in by_stratum(windows, task.classes).items() if not labels]
    if not absent:
        return ""
    consequence = "the model cannot learn it" if split == "train" else "its recall there is unknown"
    what = "window" if task.kind == "classification" else "pixel"
    return f"The {split} split has no {what} of {', '.join(absent)}: {consequence}."


def by_stratum(windows: Windows, strata: list[str]) -> dict[str, int]:
    """Stratum of the main task -> labels in it."""
    return dict(zip(strata, windows.pixels.sum(axis=0).tolist(), strict=False))
