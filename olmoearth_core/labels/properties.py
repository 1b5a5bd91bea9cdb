"""What the properties of a label file say: the class or the value, the date and the split of each feature."""

from __future__ import annotations

from datetime import date

import numpy as np

from olmoearth_core.labels.values import UNMAPPED, as_text
from olmoearth_core.labels.vector import Problem, VectorFile
from olmoearth_core.project import LabelsConfig, Project, TaskConfig
from olmoearth_core.section import FIRST_YEAR, LAST_YEAR

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""What partners write in the property that names a label's split -> the split."""


def allowed_values(project: Project) -> str:
    """What a value may be, in words."""
    if project.config.task.kind == "regression":
        return f"task.range says {range_of(project.config.task)}"
    names = ", ".join(project.config.task.class_names)
    return f"allowed are {names} (task.classes) and what labels.classes maps to them"


def class_indices(file: VectorFile, source: str, project: Project) -> tuple[np.ndarray, list[Problem]]:
    """Position of each feature's class in task.classes, (N,) int64; UNMAPPED where it has none."""
    config, classes = project.config.labels, project.config.task.class_names
    count, key = len(file.geometries), config.class_property
    if key not in file.columns:
        found = ", ".join(file.columns) or "none"
        message = f"has no property '{key}'; its properties are: {found}. Set labels.class_property"
        return np.full(count, UNMAPPED), [Problem(source, message)]
    names, inverse = np.unique([as_text(value) for value in file.columns[key]], return_inverse=True)
    indices = project.config.value_map.of_texts(names.tolist())[inverse]
    if config.unmapped == "ignore":
        return indices, []
    allowed = f"{', '.join(classes)} (task.classes)" if not config.classes else ""
    allowed = f"allowed are {allowed}" if allowed else allowed_values(project)
    return indices, [
        Problem(
            source,
            f"{file.which(i)} has the class '{names[inverse[i]]}'; {allowed}"
            if names[inverse[i]]
            else f"{file.which(i)} has no class; {allowed}",
        )
        for i in np.flatnonzero(indices == UNMAPPED).tolist()
    ]


def range_of(task: TaskConfig) -> str:
    """The range of a regression, in words."""
    assert task.range is not None
    low, high = task.range
    return f"{low:g} to {high:g}{' ' * bool(task.unit)}{task.unit}"


def measured(file: VectorFile, source: str, project: Project) -> tuple[np.ndarray, list[Problem]]:
    """What was measured at each feature, (N,) float64 in the task's unit; NaN where it is nothing that is possible.

    Numbers may stand as text, as tables have them, with a comma or a point.
    """
    config, task = project.config.labels, project.config.task
    count, key = len(file.geometries), config.value_property
    if key not in file.columns:
        found = ", ".join(file.columns) or "none"
        message = f"has no property '{key}'; its properties are: {found}. Set labels.value_property"
        return np.full(count, np.nan), [Problem(source, message)]
    texts = [as_text(value) for value in file.columns[key]]
    numbers = np.array([_number(text) for text in texts])
    if not np.isfinite(numbers).any() and (words := [text for text in texts if text]):
        message = (
            f"its property '{key}' is text ('{words[0][:40]}'); a regression needs a number that was measured. Set "
            "labels.value_property"
        )
        return numbers, [Problem(source, message)]
    possible = task.strata_of(numbers) != UNMAPPED
    values = np.where(possible, numbers, np.nan)
    if config.unmapped == "ignore":
        return values, []
    return values, [
        Problem(
            source,
            f"{file.which(i)} has the {key} '{texts[i][:40]}'; task.range says {range_of(task)}"
            if texts[i]
            else f"{file.which(i)} has no {key}; expected a number, {range_of(task)}",
        )
        for i in np.flatnonzero(~possible).tolist()
    ]


def dates_of(file: VectorFile, source: str, config: LabelsConfig) -> tuple[np.ndarray, list[Problem]]:
    """The day each label is true for, (N,) datetime.date; None where a problem says why.

    The property of the file wins over labels.dates and labels.date, which stand in for files without it. The day is the
    one that is written: no time zone is applied.
    """
    count = len(file.geometries)
    key = config.date_property
    if key not in file.columns:
        if (day := config.dates.get(source, config.date)) is not None:
            return np.full(count, day, dtype=object), []
        found = ", ".join(file.columns) or "none"
        message = (
            f"has no property '{key}' with the date of each label; its properties are: {found}. "
            "Set labels.date_property, or labels.date for one date for all"
        )
        return np.full(count, None, dtype=object), [Problem(source, message)]
    parsed = {value: _day(value) for value in set(map(_text, file.columns[key]))}
    texts = [_text(value) for value in file.columns[key]]
    dates = np.array([parsed[text] for text in texts], dtype=object)
    return dates, [
        Problem(
            source,
            f"{file.which(i)} has the {key} '{text}'; expected a date like 2024-06-30"
            if text
            else f"{file.which(i)} has no {key}; expected a date like 2024-06-30",
        )
        for i, text in enumerate(texts)
        if parsed[text] is None
    ]


def splits_of(file: VectorFile, source: str, project: Project) -> tuple[np.ndarray, list[Problem]]:
    """The split that each label names, (N,) text; empty where the partner does not name splits."""
    config = project.config.dataset.split
    count = len(file.geometries)
    if config.kind != "property":
        return np.full(count, "", dtype=object), []
    if config.property not in file.columns:
        found = ", ".join(file.columns) or "none"
        message = f"has no property '{config.property}'; its properties are: {found}. Set dataset.split.property"
        return np.full(count, "", dtype=object), [Problem(source, message)]
    texts = [_text(value) for value in file.columns[config.property]]
    splits = np.array([SPLIT_WORDS.get(text.lower(), "") for text in texts], dtype=object)
    return splits, [
        Problem(
            source,
            f"{file.which(i)} has the {config.property} '{texts[i]}'; allowed are train, validation (or val) and test",
        )
        for i in np.flatnonzero(splits == "").tolist()
    ]


def _number(text: str) -> float:
    try:
        number = float(text.replace(",", ".", 1))
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text[:10].replace("/", "-"))
    except ValueError:
        return None
    return day if FIRST_YEAR <= day.year <= LAST_YEAR else None
