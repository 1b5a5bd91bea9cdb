"""What a partner reads when something is wrong: one sentence, exit code 1, no traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from partner import Command, Run, make_project


def assert_refused(command: Command, *words: str) -> None:
    assert command.code == 1, command.out + command.err
    assert "Traceback" not in command.err + command.out
    errors = [line for line in command.err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, command.err
    for word in words:
        assert word in errors[0]


def edit_labels(project: Path, change: Callable[[list[dict[str, Any]]], None], **top: Any) -> None:
    path = project / "labels" / "fields.geojson"
    collection = json.loads(path.read_text()) | top
    change(collection["features"])
    path.write_text(json.dumps(collection))


def metres(features: list[dict[str, Any]]) -> None:
    for feature in features:
        rings = feature["geometry"]["coordinates"]
        feature["geometry"]["coordinates"] = [[[x * 100_000, y * 100_000] for x, y in ring] for ring in rings]


def bow_tie(features: list[dict[str, Any]]) -> None:
    x, y = features[0]["geometry"]["coordinates"][0][0]
    d = 0.001
    features[0]["geometry"]["coordinates"] = [[[x, y], [x + d, y + d], [x + d, y], [x, y + d], [x, y]]]


def unknown_class(features: list[dict[str, Any]]) -> None:
    features[2]["properties"]["class"] = "vineyard"


@pytest.mark.parametrize(
    ("change", "words"),
    [(metres, ("fields.geojson",)), (bow_tie, ("feature 0",)), (unknown_class, ("vineyard", "grassland"))],
    ids=["metres in a file of degrees", "self-crossing polygon", "unknown class"],
)
def test_labels_that_cannot_be_used(
    project: Path, olmoearth: Run, change: Callable[[list[dict[str, Any]]], None], words: tuple[str, ...]
) -> None:
    edit_labels(project, change)
    assert_refused(olmoearth("run", project, "--until", "export"), *words)
    checked = olmoearth("validate", project, "--json")
    assert checked.code == 1
    assert any(finding["severity"] == "error" for finding in checked.json["findings"])


def test_a_class_with_one_sample(project: Path, olmoearth: Run) -> None:
    def leave_one(features: list[dict[str, Any]]) -> None:
        woods = [feature for feature in features if feature["properties"]["class"] == "woodland"]
        for feature in woods[1:]:
            features.remove(feature)
        x, y = woods[0]["geometry"]["coordinates"][0][0]
        d = 0.0002  # so small that it lies in one window
        woods[0]["geometry"]["coordinates"] = [[[x, y], [x, y - d], [x - d, y - d], [x - d, y], [x, y]]]

    edit_labels(project, leave_one)
    assert olmoearth("export", project).code == 0
    assert_refused(olmoearth("preprocess", project), "woodland")
    assert (project / "data" / "export" / "manifest.json").is_file()


def test_a_missing_catalogue(tmp_path: Path, world: Path, olmoearth: Run) -> None:
    project = make_project(tmp_path / "fields", world)
    settings = yaml.safe_load((project / "project.yaml").read_text())
    settings["imagery"]["catalogue"] = "world/nothing.json"
    (project / "project.yaml").write_text(yaml.safe_dump(settings))
    assert_refused(olmoearth("export", project), "nothing.json")


def test_an_area_outside_the_imagery(project: Path, olmoearth: Run) -> None:
    square = [[20.0, 10.0], [20.01, 10.0], [20.01, 10.01], [20.0, 10.01], [20.0, 10.0]]
    area = {"type": "Polygon", "coordinates": [square]}
    (project / "elsewhere.geojson").write_text(json.dumps(area))
    settings = yaml.safe_load((project / "project.yaml").read_text())
    settings["map"]["area"] = "elsewhere.geojson"
    (project / "project.yaml").write_text(yaml.safe_dump(settings))
    checked = olmoearth("validate", project, "--json")
    assert checked.code == 1
    assert any("elsewhere.geojson" in finding["where"] + finding["message"] for finding in checked.json["findings"])


def test_a_corrupted_checkpoint(tmp_path: Path, world: Path, olmoearth: Run) -> None:
    project = make_project(
        tmp_path / "fields", world, model={"patch_size": 8, "window_size": 32, "weights": "base"}, training__epochs=1
    )
    (project / "base").mkdir()
    (project / "base" / "config.json").write_text("{")
    (project / "base" / "weights.pth").write_bytes(b"not weights")
    assert olmoearth("run", project, "--until", "preprocess").code == 0
    assert_refused(olmoearth("finetune", project), "base")


def test_a_stage_out_of_turn_names_the_one_to_run(project: Path, olmoearth: Run) -> None:
    assert_refused(olmoearth("finetune", project), "olmoearth")


def test_a_project_that_is_not_there(tmp_path: Path, olmoearth: Run) -> None:
    assert_refused(olmoearth("run", tmp_path / "nowhere"), "project.yaml", "olmoearth init")
    for_machines = olmoearth("run", tmp_path / "nowhere", "--json")
    assert for_machines.code == 1
    assert "project.yaml" in for_machines.json["error"]


def test_a_file_that_is_no_map(tmp_path: Path, olmoearth: Run) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir")
    audit = olmoearth("audit", tmp_path / "letter.txt")
    assert audit.code == 1
    assert "Traceback" not in audit.err + audit.out
    assert "NOT VERIFIED" in audit.out


def test_an_unreadable_asset_costs_an_observation_not_the_run(tmp_path: Path, world: Path, olmoearth: Run) -> None:
    project = make_project(tmp_path / "fields", world)
    (project / "world").unlink()
    shutil.copytree(world, project / "world")
    victim = sorted((project / "world").rglob("B04.tif"))[5]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:2000])
    export = olmoearth("export", project, "--json")
    assert export.code == 0, export.err
    assert [failed["scene"] for failed in export.json["summary"]["failed_assets"]] == [victim.parent.name]
    assert olmoearth("preprocess", project).code == 0

    victim.write_bytes(whole)  # mended: it is told how to get it, and got when asked for
    assert "try --refresh" in olmoearth("export", project).err
    refreshed = olmoearth("export", project, "--refresh", "--json")
    assert refreshed.code == 0, refreshed.err
    assert refreshed.json["skipped"] is False
    assert refreshed.json["summary"]["failed_assets"] == []


def test_memory_that_does_not_last_is_no_defect_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import app

    def short(**_options: Any) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(app, "app", short)
    assert app._run(["finetune"], debug=False, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "MemoryError"
    assert "training.batch_size" in told["error"]
    assert "Unable to allocate 9 GiB" in told["error"]
