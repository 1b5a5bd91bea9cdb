"""The sections task, labels and auxiliary of project.yaml: what each kind of task takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import yaml
from hypothesis import given
from hypothesis import strategies as st

from olmoearth_core.errors import ProjectError
from olmoearth_core.labels.values import UNMAPPED
from olmoearth_core.project import Project, ProjectConfig, TaskConfig, parse_project

CLASSES = toy.CONFIG["task"]["classes"]
COVER = {"name": "cover", "kind": "regression", "unit": "%", "range": [0, 100]}


def with_tasks(task: dict[str, Any], labels: dict[str, Any] | None = None, *auxiliary: dict[str, Any]) -> ProjectConfig:
    changes = {"task": task, "labels": {"files": ["a.tif"], **(labels or {})}, "auxiliary": list(auxiliary)}
    return parse_project(yaml.safe_dump(toy.with_changes(changes)))


def also(task: dict[str, Any], **labels: Any) -> dict[str, Any]:
    return {"task": task, "labels": {"files": ["b.tif"], **labels}}


def test_a_regression_has_five_strata_and_no_classes() -> None:
    task = with_tasks(COVER).task
    assert task.strata == ["0..20", "20..40", "40..60", "60..80", "80..100"]
    assert task.class_names == []
    values = np.array([[0, 19.9, 20], [100, 100.1, np.nan]])
    assert task.strata_of(values).tolist() == [[0, 0, 1], [4, UNMAPPED, UNMAPPED]]


def test_strata_of_classes_are_the_classes() -> None:
    assert with_tasks({"classes": CLASSES}).task.strata == ["land", "water"]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_every_value_of_the_range_has_a_stratum_that_holds_it(low: float, width: float, at: float) -> None:
    high = low + max(width, 1e-3 * abs(low))
    width = high - low
    task = TaskConfig.model_validate({"kind": "regression", "range": [low, high]})
    value = min(low + at * width, high)
    stratum = int(task.strata_of(np.array(value)))
    assert 0 <= stratum < len(task.strata) == len(set(task.strata))
    edges = np.linspace(low, high, 6)
    slack = 1e-9 * (abs(low) + width)
    assert edges[stratum] - slack <= value <= edges[stratum + 1] + slack


def test_a_view_puts_an_auxiliary_task_and_its_labels_in_the_place_of_the_main_ones() -> None:
    config = with_tasks(COVER, {}, also({"name": "use", "classes": CLASSES}, class_property="use"))
    project = Project(Path("/nowhere"), config)
    assert list(config.tasks) == ["cover", "use"]
    assert project.view("cover") is project
    view = project.view("use")
    assert view.config.task is config.auxiliary[0].task
    assert view.config.labels.class_property == "use"
    assert view.config.value_map.words == {"land": 0, "water": 1}


@pytest.mark.parametrize(
    ("task", "labels", "sentence"),
    [
        ({**COVER, "classes": CLASSES}, {}, "task.classes: a regression has no classes; say what values are possible"),
        ({"kind": "regression"}, {}, "task: a regression needs range, the least and the largest value"),
        ({**COVER, "range": [5]}, {}, "task.range: expected the least and the largest value that is possible, as in"),
        ({**COVER, "range": [5, 5]}, {}, "task.range: expected two numbers of which the first is the smaller"),
        (
            {**COVER, "range": [0, 1e308]},
            {},
            "task.range: expected numbers from -1e+15 to 1e+15 that are 1e-15 or more",
        ),
        (
            {**COVER, "range": [0, 1e-300]},
            {},
            "task.range: expected numbers from -1e+15 to 1e+15 that are 1e-15 or more",
        ),
        ({**COVER, "range": [1e9, 1e9 + 1]}, {}, "task.range: expected numbers from -1e+15 to 1e+15 that are 1e-15 or"),
        (
            {**COVER, "range": [0, 10**400]},
            {},
            "task.range: expected numbers from -1e+15 to 1e+15, found one of hundreds",
        ),
        (
            {**COVER, "range": [0, float("inf")]},
            {},
            "task.range: expected two numbers of which the first is the smaller",
        ),
        (
            {**COVER, "range": [float("nan"), 1]},
            {},
            "task.range: expected two numbers of which the first is the smaller",
        ),
        ({**COVER, "range": [0, "x"]}, {}, "task.range: expected the least and the largest value that is possible"),
        (
            {"classes": CLASSES, "range": [0, 1]},
            {},
            "task: range means nothing to kind 'segmentation'; it takes classes",
        ),
        ({"classes": CLASSES, "unit": "%"}, {}, "task: unit means nothing to kind 'segmentation'; it takes classes"),
        ({"classes": CLASSES[:1]}, {}, "task.classes: needs 2 or more, found 1"),
        ({}, {}, "task.classes: needs 2 or more, found 0"),
        ({"classes": CLASSES, "name": "A b"}, {}, "task.name: 'A b' cannot be a name"),
        ({"classes": CLASSES}, {"value_property": "v"}, "labels.value_property means nothing to a segmentation"),
        (COVER, {"class_property": "v"}, "labels.class_property means nothing to a regression; it reads labels.value_"),
        (COVER, {"classes": {"land": 1}}, "labels.classes means nothing to a regression; it reads labels.value_prop"),
        (
            {"kind": "classification", "classes": CLASSES},
            {},
            "labels.windows: a classification needs windows around its labels; write 'centred', found 'lattice'",
        ),
    ],
)
def test_what_a_kind_of_task_does_not_take_is_refused(
    task: dict[str, Any], labels: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        with_tasks(task, labels)
    assert str(caught.value).startswith(f"project.yaml: {sentence}")
    with pytest.raises(ProjectError) as caught:
        with_tasks({"name": "first", "classes": CLASSES}, {}, also({"name": "other", **task}, **labels))
    assert "auxiliary.0." in str(caught.value)


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(ProjectError, match=r"auxiliary\.0\.task\.name: 'main' names a task already"):
        with_tasks({"classes": CLASSES}, {}, also({"classes": CLASSES}))
