"""The labels of all tasks of a project, on one grid, and the windows that are for all of them.

Each task has labels of its own and asks for windows as if it were alone (`Project.view`). A window of one task that is
another's as well (same date, place and split) is one; each task is asked what it knows of every window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from olmoearth_core.errors import LabelError
from olmoearth_core.grid import Grid
from olmoearth_core.labels.labels import Labels, check_labels
from olmoearth_core.labels.targets import count_pixels
from olmoearth_core.labels.vector import Problem, summarise
from olmoearth_core.labels.windows import TrainingWindow, windows_of
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.project_labels import LabelsConfig

TaskLabels = Mapping[str, Labels]
"""Task -> its labels; the main one comes first, and its grid is everyone's."""


def read_all(project: Project) -> TaskLabels:
    """Read the labels of every task.

    Raises:
        LabelError: as `read_labels`.
    """
    labels, problems = check_all(project)
    if labels is None:
        raise LabelError(f"{summarise(problems)} Features are counted from 0.")
    return labels


def check_all(project: Project) -> tuple[TaskLabels | None, list[Problem]]:
    """As `read_all`, but everything that is wrong is returned; no labels where anything is."""
    found: dict[str, Labels] = {}
    problems: list[Problem] = []
    grid: Grid | None = None
    for k, name in enumerate(project.config.tasks):
        labels, wrong = check_labels(project.view(name), grid)
        problems += wrong if k == 0 else [_of_auxiliary(problem, k - 1) for problem in wrong]
        if labels is not None:
            found[name], grid = labels, grid or labels.grid
    return (None if problems else found), list(dict.fromkeys(problems))


def _of_auxiliary(problem: Problem, number: int) -> Problem:
    """The problem with the keys that it names as project.yaml has them for this auxiliary task."""
    named = re.compile(rf"(?<![\w./-])(?=(labels\.({'|'.join(LabelsConfig.model_fields)})|task\.\w+)\b)")
    source, message = (named.sub(f"auxiliary.{number}.", text) for text in (problem.source, problem.message))
    return Problem(source, message)


def all_windows(project: Project, labels: TaskLabels) -> list[TrainingWindow]:
    """The training windows that any task asks for, each once, ordered by date, row, column and split."""
    found = {w.name: w for name, own in labels.items() for w in windows_of(project.view(name), own)}
    return sorted(found.values(), key=lambda w: (w.date, w.box.row, w.box.column, w.split))


def count_all(
    labels: TaskLabels, windows: Sequence[TrainingWindow], progress: Progress
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Task -> (amounts (N, K), conflicts (N,)), as `count_pixels`."""
    return {name: count_pixels(own, windows, progress) for name, own in labels.items()}


@dataclass(frozen=True)
class Counted:
    """Labels and what is in each window of them: of many labels that takes minutes, so who needs it hands it on.

    Attributes:
        labels: of every task.
        windows: as `all_windows`.
        amounts: as `count_all`.
    """

    labels: TaskLabels
    windows: Sequence[TrainingWindow]
    amounts: Mapping[str, tuple[np.ndarray, np.ndarray]]


def look_at(project: Project, labels: TaskLabels, progress: Progress) -> Counted:
    """Find the windows of `labels` and count what is in them."""
    windows = all_windows(project, labels)
    return Counted(labels, windows, count_all(labels, windows, progress))


def all_dates(labels: TaskLabels) -> list[date]:
    """The days that labels of any task are of, in order."""
    return sorted({day for own in labels.values() for day in own.dates})


def all_bounds(labels: TaskLabels) -> np.ndarray:
    """(N, 4) left, bottom, right, top in the grid's CRS, as `Labels.bounds`, of all tasks."""
    return np.concatenate([own.bounds for own in labels.values()])
