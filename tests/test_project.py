"""project.yaml: valid ones come back as they were, and each wrong key gets its sentence."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core.errors import ProjectError
from olmoearth_core.project import Project, ProjectConfig, load_project, parse_project

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co", "Zl", "Zp"]), min_size=1, max_size=20)
dates = st.dates(datetime.date(1985, 1, 1), datetime.date(2100, 1, 1))
floats = {"allow_nan": False, "allow_infinity": False}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Valid projects, as plain values; optional keys are there or not."""
    patch = draw(st.integers(1, 8))
    window = patch * draw(st.integers(-(-8 // patch), 512 // patch))
    before = draw(st.integers(0, 12))
    days = {"days": draw(st.integers(1, 366))}
    framings = [
        {
            "kind": "period",
            "timesteps": draw(st.integers(1, 12)),
            "offset_days": draw(st.integers(-3660, 3660)),
            **days,
        },
        {"kind": "point_in_time", **days},
        {"kind": "framed_point_in_time", "before": before, "after": draw(st.integers(not before, 12 - before)), **days},
    ]

    def some(**optional: st.SearchStrategy[Any]) -> dict[str, Any]:
        return {key: draw(values) for key, values in optional.items() if draw(st.booleans())}

    share = draw(st.floats(0, 0.49))
    class_names = draw(st.lists(texts.map(str.strip).filter(bool), min_size=2, max_size=5, unique=True))
    colors = st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True)
    config = {
        "name": draw(names),
        "task": {"classes": [{"name": name, "color": draw(colors)} for name in class_names]},
        "labels": {
            "files": draw(st.lists(texts, min_size=1, max_size=3, unique=True)),
            **some(class_property=texts, date_property=texts, area=texts, date=dates.map(str)),
        },
        "imagery": {
            "catalogue": draw(texts),
            "framing": draw(st.sampled_from(framings)),
            **some(
                resolution=st.floats(0.1, 1000),
                crs=st.just("EPSG:32631"),
                max_cloud_cover=st.integers(0, 100),
                composite=st.sampled_from(["least_cloudy", "median"]),
                collections=st.lists(texts, max_size=2),
            ),
        },
        "dataset": some(
            split=st.just({"validation": share, "test": share}),
            min_valid=st.floats(0, 1),
            min_samples=st.integers(1, 9),
        ),
        "model": {"patch_size": patch, "window_size": window, **some(weights=texts)},
        "training": some(epochs=st.integers(1, 99), learning_rate=st.floats(1e-9, 1), augment=st.booleans()),
        "map": {
            "area": draw(texts),
            "date": str(draw(dates)),
            "tile_size": draw(st.integers(max(window, 64), 8192)),
            **some(overlap=st.floats(0, 0.75), min_area=st.floats(0, 1e6)),
        },
    }
    return {**config, **some(retraining=st.just({"cron": "0 4 1 * *"}))}


@settings(max_examples=60)
@given(config=configs())
def test_a_valid_project_comes_back_from_its_file_as_it_was(config: dict[str, Any]) -> None:
    # JSON is YAML (1.2), and says exactly what is text
    parsed = parse_project(json.dumps(config, ensure_ascii=False))
    assert parsed == ProjectConfig.model_validate(config)
    dumped = parsed.model_dump(mode="json")
    assert parse_project(json.dumps(dumped, ensure_ascii=False, indent=2)) == parsed

    def within(part: Any, whole: Any) -> bool:
        """What was written is there; what was not has its default."""
        if part in (True, False) and isinstance(whole, dict):  # training.augment: all of it, or nothing
            return whole["turns"] is part
        if isinstance(part, dict):
            return all(within(value, whole[key]) for key, value in part.items())
        if isinstance(part, list):
            return all(within(p, w) for p, w in zip(part, whole, strict=True))
        return bool(part == whole or (str(part).startswith("#") and part.lower() == whole))

    assert within(config, dumped)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        # unknown keys: at the top, in a section, in a list, deep, in a framing
        (
            {"nam": 1},
            "nam: unknown key, found 1; did you mean 'name'? Allowed here: "
            "name, task, labels, auxiliary, imagery, dataset, model, training, map, retraining, deployment, ",
        ),
        ({"zzz": {"a": 1}}, "zzz: unknown key. Allowed here: name, task, labels, auxiliary, imagery"),
        (
            {"model.windowsize": 64},
            "model.windowsize: unknown key, found 64; did you mean 'window_size'? "
            "Allowed here: encoder, weights, patch_size, window_size",
        ),
        (
            {"task.classes.1.colour": "#123456"},
            "task.classes.1.colour: unknown key, found '#123456'; did you mean 'color'? Allowed here: name, color",
        ),
        (
            {"dataset.split": {"tests": 0.1}},
            "dataset.split.tests: unknown key, found 0.1; did you mean 'test'? "
            "Allowed here: kind, block_size, validation, test, seed, buffer",
        ),
        (
            {"imagery.framing": {"kind": "point_in_time", "timesteps": 3}},
            "imagery.framing.timesteps: unknown key, found 3. Allowed here: kind, days",
        ),
        (
            {"imagery.framing": {"kind": "framed_point_in_time", "gap": 3}},
            "imagery.framing.gap: unknown key, found 3. Allowed here: kind, before, after, days, gap_days",
        ),
        (
            {"retraining": {"cron": "0 4 1 * *", "crom": 1}},
            "retraining.crom: unknown key, found 1; did you mean 'cron'? Allowed here: cron, triggers, start",
        ),
        # wrong types
        ({"name": 123}, "name: expected text, found 123; put it in quotes"),
        ({"name": True}, "name: expected text, found True; put it in quotes"),
        (
            {"task.classes.0.color": None},
            "task.classes.0.color: expected text, found nothing; what begins with '#' is a comment, put it in quotes",
        ),
        ({"model.window_size": "big"}, "model.window_size: expected a whole number, found 'big'"),
        ({"model.window_size": 64.5}, "model.window_size: expected a whole number, found 64.5"),
        ({"training.epochs": True}, "training.epochs: expected a whole number, found True"),
        ({"dataset.split": {"test": False}}, "dataset.split.test: expected a number, found False"),
        ({"training.augment": "no"}, "training.augment: expected true, false, or keys below it, found 'no'"),
        ({"labels.files": "a.geojson"}, "labels.files: expected a list, found 'a.geojson'"),
        ({"labels.files": [1]}, "labels.files.0: expected text, found 1; put it in quotes"),
        ({"task": None}, "task: expected keys below it, found nothing"),
        ({"map": ["a"]}, "map: expected keys below it, found ['a']"),
        ({"imagery.framing": 3}, "imagery.framing: expected keys below it, found 3"),
        ({"imagery.framing.days": "month"}, "imagery.framing.days: expected a whole number, found 'month'"),
        # values that are not allowed
        (
            {"name": "My Project"},
            "name: 'My Project' cannot be a name; allowed are lower-case letters, digits, '-' and",
        ),
        ({"name": "../x"}, "name: '../x' cannot be a name"),
        ({"task.classes.0.color": "red"}, "task.classes.0.color: 'red' is no colour; allowed is #rrggbb, for example"),
        ({"task.classes.0.name": ""}, "task.classes.0.name: must have at least 1 character, found ''"),
        ({"task.classes": []}, "task.classes: needs 2 or more, found 0"),
        (
            {"task.classes": [{"name": str(i), "color": "#000000"} for i in range(251)]},
            "task.classes: at most 250 are allowed, found 251",
        ),
        (
            {"task.classes.0.name": "wa\nter"},
            "task.classes.0.name: 'wa\\nter' holds a line break or another control character; write it on one line",
        ),
        ({"training.seed": 2**32}, "training.seed: must be less than or equal to 4294967295"),
        ({"dataset.split": {"seed": -1}}, "dataset.split.seed: must be greater than or equal to 0, found -1"),
        ({"task.classes.0.name": "water"}, "task: class names must differ; water stands more than once"),
        (
            {"task.kind": "detection"},
            "task.kind: must be 'segmentation', 'classification' or 'regression', found 'detection'",
        ),
        ({"labels.files": []}, "labels.files: needs 1 or more, found 0"),
        (
            {"imagery.modalities": ["sentinel3"]},
            "imagery.modalities.0: must be 'sentinel2_l2a', 'sentinel1' or 'landsat', found 'sentinel3'",
        ),
        (
            {"imagery.composite": "mean"},
            "imagery.composite: must be 'least_cloudy', 'first_valid', 'median' or 'medoid', found 'mean'",
        ),
        ({"imagery.resolution": 0}, "imagery.resolution: must be greater than or equal to 0.1, found 0"),
        ({"training.learning_rate": float("inf")}, "training.learning_rate: must be a finite number, found inf"),
        ({"map.min_area": float("nan")}, "map.min_area: must be a finite number, found nan"),
        ({"map.overlap": 0.9}, "map.overlap: must be less than or equal to 0.75, found 0.9"),
        (
            {"retraining": {"cron": "61 * * * *"}},
            "retraining.cron: '61 * * * *' is no cron expression (Bad minute); an",
        ),
        ({"retraining": {"cron": "monthly"}}, "retraining.cron: 'monthly' is no cron expression"),
        ({"deployment": {"mapping": "daily"}}, "deployment.mapping: 'daily' is no cron expression"),
        (
            {"deployment": {"timezone": "Mars/Olympus"}},
            "deployment.timezone: 'Mars/Olympus' is no time zone; examples are UTC and Africa/Nairobi",
        ),
        (
            {"retraining": {"gates": {"metric": "kappa"}}},
            "retraining.gates.metric: 'kappa' is not computed for a segmentation; computed are miou, macro_f1, ",
        ),
        (
            {"retraining": {"gates": {"class_metric": "mae"}}},
            "retraining.gates.class_metric: 'mae' is not computed for a segmentation; computed are iou, f1, precision",
        ),
        (
            {"retraining": {"gates": {"limits": {"rmse": 3.0}}}},
            "retraining.gates.limits: 'rmse' is not computed for a segmentation; computed are miou",
        ),
        (
            {"retraining": {"gates": {"kappa": 0.5}}},
            "retraining.gates.kappa: unknown key, found 0.5. Allowed here: metr",
        ),
        ({"retraining": {"start": "scratch"}}, "retraining.start: must be 'base' or 'champion', found 'scratch'"),
        ({"map.model": "best"}, "map.model: must be latest, champion or the number of a version, found 'best'"),
        ({"map.model": 0}, "map.model: must be latest, champion or the number of a version, found 0"),
        (
            {"notifications": {"to": ["ops"]}},
            "notifications.to.0: 'ops' is no address; expected is a URL as Apprise writes it (mailto://, slack://, ",
        ),
        ({"map.date": "yesterday"}, "map.date: expected a date like 2021-07-16, found 'yesterday'"),
        ({"map.date": "2021-02-30"}, "map.date: expected a date like 2021-07-16, found '2021-02-30'"),
        ({"map.date": 2021}, "map.date: expected a date like 2021-07-16, found 2021"),
        ({"map.date": 0}, "map.date: expected a date like 2021-07-16, found 0"),
        ({"labels.date": "16.07.2021"}, "labels.date: expected a date like 2021-07-16, found '16.07.2021'"),
        # framings
        ({"imagery.framing": {}}, "imagery.framing.kind: this key is required"),
        (
            {"imagery.framing": {"kind": "monthly"}},
            "imagery.framing.kind: must be 'period', 'point_in_time' or 'framed_point_in_time', found 'monthly'",
        ),
        (
            {"imagery.framing": {"kind": "period", "timesteps": 0}},
            "imagery.framing.timesteps: must be greater than or eq",
        ),
        (
            {"imagery.framing": {"kind": "period", "timesteps": 13}},
            "imagery.framing.timesteps: must be less than or equal",
        ),
        (
            {"imagery.framing": {"kind": "framed_point_in_time", "before": 0, "after": 0}},
            "imagery.framing: before + after is 0; allowed is 1 to 12",
        ),
        (
            {"imagery.framing": {"kind": "framed_point_in_time", "before": 7, "after": 6}},
            "imagery.framing: before + after is 13; allowed is 1 to 12",
        ),
        # combinations that cannot be
        (
            {"model.window_size": 66},
            "model: window_size 66 is not divisible by patch_size 4; the next that is: 68",
        ),
        (
            {"dataset.split": {"validation": 0.5, "test": 0.5}},
            "dataset.split: validation + test is 1.0; training needs",
        ),
        (
            {"map.tile_size": 64, "model.window_size": 128},
            "map.tile_size 64 is smaller than model.window_size 128",
        ),
    ],
)
def test_a_wrong_key_gets_a_sentence_with_the_key_what_was_found_and_what_is_allowed(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        parse_project(yaml.safe_dump(toy.with_changes(changes)))
    message = str(caught.value)
    assert message.startswith(f"project.yaml: {sentence}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "key", ["name", "task", "map.area", "map.date", "model.patch_size", "imagery.framing", "dataset"]
)
def test_a_missing_key_is_named(key: str) -> None:
    config = toy.with_changes({})
    section = config
    *sections, last = key.split(".")
    for part in sections:
        section = section[part]
    del section[last]
    with pytest.raises(ProjectError, match=rf"^project.yaml: {key}: this key is required$"):
        parse_project(yaml.safe_dump(config))


def test_several_wrong_keys_are_told_together_a_line_each() -> None:
    changes = {"nam": 1, "training.epochs": 0, "map.date": "soon"}
    with pytest.raises(ProjectError) as caught:
        parse_project(yaml.safe_dump(toy.with_changes(changes)))
    first, *lines = str(caught.value).splitlines()
    assert first == "project.yaml: 3 keys are wrong"
    assert [line.split(":")[0] for line in sorted(lines)] == ["  map.date", "  nam", "  training.epochs"]


# ---------------------------------------------------------------- YAML and its traps


def replaced(line: str, by: str) -> str:
    text = yaml.safe_dump(toy.CONFIG, sort_keys=False)
    assert line in text
    return text.replace(line, by)


@pytest.mark.parametrize(
    ("line", "by", "read", "value"),
    [
        ("date: '2021-07-16'", "date: 2021-07-16", lambda c: c.map.date, datetime.date(2021, 7, 16)),
        ("name: toy", "name: no", lambda c: c.name, "no"),
        ("name: toy", "name: 2021-07-16", lambda c: c.name, "2021-07-16"),
        ("name: land", "name: on", lambda c: c.task.class_names[0], "on"),
        ("name: land", "name: Norge/Ørsta", lambda c: c.task.class_names[0], "Norge/Ørsta"),
        ("training: {}", "training: {learning_rate: 1e-3}", lambda c: c.training.learning_rate, 1e-3),
        ("training: {}", "training: {augment: false, seed: 1}", lambda c: c.training.augment.turns, False),
        ("training: {}", "training: {epochs: 10}  # as before", lambda c: c.training.epochs, 10),
        ("resolution: 10", "resolution: 20", lambda c: c.imagery.resolution, 20.0),
    ],
)
def test_yaml_is_read_as_a_partner_means_it(line: str, by: str, read: Any, value: Any) -> None:
    text = replaced(line, by) if line != "resolution: 10" else replaced("catalogue:", f"{by}\n  catalogue:")
    assert read(parse_project(text)) == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty; `olmoearth init NAME --template T` writes one to begin with"),
        ("# nothing but a remark\n", "is empty"),
        ("- name: toy\n", "expected keys like 'name:' and 'task:', found a list"),
        ("just some words", "expected keys like 'name:' and 'task:', found 'just some words'"),
        ("name: [a", "not valid YAML at line 1, column 9: "),
        ("name: a: b", "not valid YAML at line 1, column 8: mapping values are not allowed here"),
        (
            "name: toy\n\ttask: 1",
            "not valid YAML at line 2, column 1: found character '\\t' that cannot start any token",
        ),
        ("retraining:\n  cron: * * * * *", "not valid YAML at line 2, column 10: "),
        ("? [a, b]\n: 1\n", "not valid YAML at line 1, column 3: a key must be a word"),
        ("name: !!int abc", "not valid YAML: invalid literal for int()"),
        ("name: !!bool abc", "not valid YAML: 'abc'"),
        ("name: " + 5000 * "[", "not valid YAML: "),
        (
            replaced("date: '2021-07-16'", "date: 9999-12-31"),
            "map.date: expected a date from 1970 to 2100, found '9999",
        ),
        (replaced("name: land", "name: ' '"), "task.classes.0.name: "),
        (replaced("name: water", "name: 'land '"), "task: class names must differ; land stands more than once"),
        (replaced("training: {}", "training: {epochs: 1000000}"), "training.epochs: "),
        (replaced("training: {}", "training: {learning_rate: 1e300}"), "training.learning_rate: "),
        ("name: a\x00", "not valid YAML: unacceptable character #x0000"),
        ("map: 1\nname: a\nmap: 2\n", "not valid YAML at line 3, column 1: the key 'map' stands twice"),
        (
            replaced("date: '2021-07-16'", "date: 2021-02-30"),
            "map.date: expected a date like 2021-07-16, found '2021-02-30'",
        ),
        (
            replaced("color: '#aaaaaa'", "color: #aaaaaa"),
            "task.classes.0.color: expected text, found nothing; what begins with '#' is a comment, put it in quotes",
        ),
        (replaced("name: toy", "name: 123"), "name: expected text, found 123; put it in quotes"),
        (replaced("training: {}", "training: {epochs: 010}"), "training.epochs: expected a whole number, found 10.0"),
        (
            replaced("training: {}", "training: {augment: yes}"),
            "training.augment: expected true, false, or keys below it, found 'yes'",
        ),
        (replaced("training: {}", "training: !!python/object:os.system {}"), "not valid YAML at line 19, column 11: "),
    ],
)
def test_what_is_no_project_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ProjectError) as caught:
        parse_project(text)
    assert str(caught.value).startswith(f"project.yaml: {sentence}")


@given(text=st.text(max_size=60))
def test_no_text_whatever_gives_another_error(text: str) -> None:
    with pytest.raises(ProjectError):
        parse_project(text)


# ---------------------------------------------------------------- the folder


def test_a_project_is_loaded_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write_project(tmp_path / "p", {"imagery.catalogue": "https://stac.example/v1"})
    monkeypatch.chdir(tmp_path)
    project = load_project(Path("p"))
    assert project.root == tmp_path / "p"
    assert project.path("labels/a.geojson") == tmp_path / "p" / "labels" / "a.geojson"
    assert project.path("/data/a.geojson") == Path("/data/a.geojson")
    assert project.config.imagery.catalogue == "https://stac.example/v1"


@pytest.mark.parametrize("path", ["~nosuchuser/labels.geojson", "a" * 5000])
def test_a_path_that_no_file_system_takes_is_refused(tmp_path: Path, path: str) -> None:
    project = toy.write_project(tmp_path)
    with pytest.raises(ProjectError, match="cannot be a path"):
        project.path(path)


def test_a_file_saved_by_a_windows_editor_is_read(tmp_path: Path) -> None:
    text = yaml.safe_dump(toy.with_changes({"task.classes.0.name": "Ås"}), allow_unicode=True)
    (tmp_path / "project.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_project(tmp_path).config.task.class_names[0] == "Ås"


def test_a_folder_that_is_none_or_holds_no_project_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ProjectError, match=r"project.yaml: no such file. Name a project folder, or make one with"):
            load_project(folder)
    (tmp_path / "file").touch()
    with pytest.raises(ProjectError, match=r"file/project.yaml: cannot be read \(Not a directory\)"):
        load_project(tmp_path / "file")
    (tmp_path / "project.yaml").mkdir()
    with pytest.raises(ProjectError, match=r"project.yaml: cannot be read \(Is a directory\)"):
        load_project(tmp_path)


def test_a_binary_file_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "project.yaml").write_bytes(b"II*\x00\x08\xff\xff")
    with pytest.raises(ProjectError, match=r"project.yaml: is no text file \(UTF-8\); save it as plain text"):
        load_project(tmp_path)


def test_messages_name_the_file_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=rf"^{tmp_path}/project.yaml: training.epochs: must be"):
        toy.write_project(tmp_path, {"training.epochs": 0})


def test_settings_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    project: Project = toy.write_project(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        project.config.training.epochs = 3  # type: ignore[misc]
