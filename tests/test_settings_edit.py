"""Keys of a project.yaml are set where they stand, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from olmoearth_core.errors import ProjectError
from olmoearth_core.settings_edit import set_keys
from olmoearth_core.settings_file import read_settings

BLOCK = """\
name: shore          # ours
model:
  # small is enough
  encoder: v1.1-nano # the smallest
  patch_size: 4
  weights: 'a b'
training:
map: {date: 2021-07-01}
"""
TASK = """\
task:
  # what is told apart
  classes:             # as in the files
    - {name: a, color: "#ffffff"}   # the first

    - name: b
      color: "#eeeeee"
# where labels are
labels:
  files:
    - labels/a.geojson # mine
  date: 2024-01-01
"""


def test_a_key_is_replaced_and_comments_stay() -> None:
    found = set_keys(BLOCK, "model", {"encoder": "v1.1-tiny"})
    assert found == BLOCK.replace("encoder: v1.1-nano", "encoder: v1.1-tiny")


@pytest.mark.parametrize(
    ("text", "section", "values"),
    [
        (BLOCK, "model", {"weights": "hf://org/name@main", "window_size": 64}),
        (BLOCK, "model", {"weights": None}),
        (BLOCK, "model", {"encoder": None}),
        (BLOCK, "training", {"recipe": "lora", "learning_rate": 0.003}),
        (BLOCK, "map", {"tile_size": 64}),
        (BLOCK, "map", {"date": None, "overlap": 0}),
        (BLOCK, "retraining", {"cron": "0 4 1 * *"}),
        (BLOCK, "retraining", {"cron": None}),
        ("training: {epochs: 3, recipe: full, ema: 0.5}", "training", {"recipe": None, "learning_rate": 1e-5}),
        ("training: {}\n", "training", {"recipe": "full", "learning_rate": 0.1}),
        ("training: {epochs: 3, recipe: full}", "training", {"recipe": None}),
        ("training:\n  epochs: 3\n  augment:\n    noise: 0.1\nmap: {overlap: 0.5}\n", "training", {"recipe": "lora"}),
        ("training:\n  epochs: 3", "training", {"recipe": "lora"}),
        ("labels:\n  text: >\n    two\n    lines\nmap: {overlap: 0.5}", "labels", {"recipe": "lora"}),
        ("training:\n  recipe:\n  epochs: 3", "training", {"recipe": "no"}),
        ("training: {recipe: null}", "training", {"recipe": "a, b: {c}"}),
    ],
)
def test_the_text_then_says_what_was_set_and_else_what_it_said(text: str, section: str, values: dict[str, Any]) -> None:
    expected = yaml.safe_load(text)
    expected[section] = {**(expected.get(section) or {}), **values}
    expected[section] = {key: value for key, value in expected[section].items() if value is not None}
    found = yaml.safe_load(set_keys(text, section, values))
    assert {k: v for k, v in found.items() if v is not None} == {k: v for k, v in expected.items() if v}
    comments = [line.split("#")[1] for line in text.splitlines() if "#" in line]
    if section != "model" or values != {"encoder": None}:  # whose comment goes with it
        assert [line.split("#")[1] for line in set_keys(text, section, values).splitlines() if "#" in line] == comments


@pytest.mark.parametrize(
    ("text", "section", "values"),
    [
        (TASK, "task", {"classes": [{"name": "tea: green", "color": "#000000"}, {"name": "no", "color": "#111111"}]}),
        (TASK, "task", {"classes": None, "kind": "regression", "range": [0, 1.5]}),
        (TASK, "task", {"classes": ["a", "b"]}),
        (TASK, "task", {"name": "crops", "classes": [{"name": "\x7f\U0001f33e"}]}),
        (TASK, "labels", {"files": ["a b.gpkg", "c.csv"], "classes": {"wet": [1, "2-3"], "a: b": ["x"]}}),
        (TASK, "labels", {"classes": [{"a": 1}]}),
        ("task: {classes: [{name: a}]}", "task", {"classes": [{"name": "b"}]}),
        (
            "task:\n  classes: [{name: a}]  # two\nmap: {overlap: 0.5}",
            "task",
            {"classes": [{"name": "b"}, {"name": "c"}]},
        ),
        (
            "task:\n  classes:\n  - {name: a}\n  - {name: b}\n\n# map\nmap: {overlap: 0.5}",
            "task",
            {"classes": None, "kind": "c"},
        ),
    ],
)
def test_lists_are_set_and_what_is_around_them_stays(text: str, section: str, values: dict[str, Any]) -> None:
    expected = yaml.safe_load(text)
    expected[section] = {k: v for k, v in {**expected[section], **values}.items() if v is not None}
    found = set_keys(text, section, values)
    assert yaml.safe_load(found) == expected
    outside = [line for line in ("# where labels are", "  # what is told apart", "# map", "# two") if line in text]
    assert [line for line in outside if line not in found] == []


def test_what_cannot_be_changed_safely_is_refused() -> None:
    with pytest.raises(ProjectError, match=r"uses aliases.*model\.encoder: v1 yourself"):
        set_keys("a: &b {encoder: x}\nmodel: *b\n", "model", {"encoder": "v1"})
    with pytest.raises(ProjectError, match="the section 'model' holds no keys"):
        set_keys("model: [1]\n", "model", {"encoder": "v1"})


@pytest.mark.parametrize("name", ["1e5", "1.5e3", "yes", "0x1f", "1_000", "12:30", "null", "True", "~", "2024-05-01"])
def test_a_word_that_yaml_takes_for_something_else_is_quoted(name: str) -> None:
    text = set_keys(TASK, "task", {"classes": [{"name": name, "color": "#ffffff"}]})
    assert yaml.safe_load(text)["task"]["classes"][0]["name"] == name
    assert read_settings(text, "project.yaml")["task"]["classes"][0]["name"] == name
