"""The whole spine on a small simulated region, entered by each of its doors."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from partner import Run, command_environment, make_project

from olmoearth_core.stages import STAGES


def skipped(answer: Any) -> dict[str, bool]:
    return {stage["stage"]: stage["skipped"] for stage in answer["stages"]}


def digests(answer: Any) -> dict[str, str]:
    return {stage["stage"]: stage["outputs_digest"] for stage in answer["stages"]}


def change(project: Path, section: str, key: str, value: Any) -> None:
    path = project / "project.yaml"
    settings = yaml.safe_load(path.read_text())
    settings[section][key] = value
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, world: Path, shared_home: Path) -> tuple[Path, Any]:
    """A project that ran once, and what the command said."""
    folder = make_project(tmp_path_factory.mktemp("finished") / "fields", world)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "olmoearth"), "run", str(folder), "--json"],
        capture_output=True,
        text=True,
        env=command_environment(shared_home),
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads(done.stdout)


def dvc(folder: Path, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=command_environment(home),
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_stage_ran_and_left_what_it_promises(finished: tuple[Path, Any]) -> None:
    folder, answer = finished
    assert list(skipped(answer).items()) == [(name, False) for name in STAGES]
    product = folder / answer["stages"][-1]["folder"]
    for name in ("map.tif", "probabilities.tif", "areas.csv", "item.json", "preview.png"):
        assert (product / name).stat().st_size > 0
    for stage in answer["stages"]:
        assert stage["record"]["wall_seconds"] > 0
        assert stage["record"]["bytes_written"] > 0


def test_a_second_run_computes_nothing(finished: tuple[Path, Any], olmoearth: Run) -> None:
    folder, answer = finished
    again = olmoearth("run", folder, "--json")
    assert again.code == 0, again.err
    assert all(skipped(again.json).values())
    assert digests(again.json) == digests(answer)


def test_after_a_run_dvc_repro_does_nothing(finished: tuple[Path, Any], home: Path) -> None:
    folder, _ = finished
    assert "up to date" in dvc(folder, home, "status")
    assert "Running stage" not in dvc(folder, home, "repro")


def test_dvc_repro_and_run_make_the_same_dataset_version(
    finished: tuple[Path, Any], project: Path, home: Path, olmoearth: Run
) -> None:
    _, answer = finished
    assert olmoearth("export", project, "--json").code == 0  # lays the pipeline
    output = dvc(project, home, "repro")
    assert "preprocess" in output
    after = olmoearth("run", project, "--until", "preprocess", "--json")
    assert after.code == 0, after.err
    assert all(skipped(after.json).values())
    assert digests(after.json).items() <= digests(answer).items()
    finished_lock = yaml.safe_load((finished[0] / "dvc.lock").read_text())
    own_lock = yaml.safe_load((project / "dvc.lock").read_text())
    assert own_lock["stages"]["preprocess"]["outs"] == finished_lock["stages"]["preprocess"]["outs"]
    assert "Running stage" not in dvc(project, home, "repro")


def test_the_same_project_elsewhere_and_on_two_dask_workers_gives_the_same_bytes(
    finished: tuple[Path, Any], tmp_path: Path, world: Path, olmoearth: Run
) -> None:
    _, answer = finished
    other = make_project(tmp_path / "elsewhere" / "fields", world)
    again = olmoearth("run", other, "--engine", "dask", "--processes", "2", "--json")
    assert again.code == 0, again.err
    assert digests(again.json) == digests(answer)
    scores = [stage["summary"] for stage in answer["stages"]]
    assert [stage["summary"] for stage in again.json["stages"]] == scores


def test_one_setting_reruns_exactly_the_stages_that_depend_on_it(tmp_path: Path, world: Path, olmoearth: Run) -> None:
    # named apart: an audit tells the newest run of a project that made a dataset, and this one makes it twice
    folder = make_project(tmp_path / "fields", world, training__epochs=1, name="changing")
    assert olmoearth("run", folder).code == 0
    steps: list[tuple[str, str, Any, set[str]]] = [
        ("map", "min_area", 800, {"postprocess"}),
        ("map", "overlap", 0.5, {"infer", "postprocess"}),
        ("training", "learning_rate", 0.0005, {"finetune", "infer", "postprocess"}),
        ("dataset", "min_valid", 0.0501, {"preprocess"}),  # makes the same dataset, so nothing after it wakes
    ]
    for section, key, value, expected in steps:
        change(folder, section, key, value)
        answer = olmoearth("run", folder, "--json")
        assert answer.code == 0, answer.err
        assert {name for name, was in skipped(answer.json).items() if not was} == expected, (section, key)


def test_the_audit_of_the_map_verifies_and_names_its_makers(finished: tuple[Path, Any], olmoearth: Run) -> None:
    folder, answer = finished
    product = folder / answer["stages"][-1]["folder"] / "map.tif"
    audit = olmoearth("audit", product, "--json")
    assert audit.code == 0, audit.err + audit.out
    assert audit.json["verified"] is True
    text = json.dumps(audit.json)
    for stage in answer["stages"][1:]:
        assert stage["key"] in text


def test_the_map_is_made_again_and_so_is_the_model(finished: tuple[Path, Any], tmp_path: Path, olmoearth: Run) -> None:
    """The training set comes from its DVC remote, and the training ends with the same weights."""
    folder, answer = finished
    product = folder / answer["stages"][-1]["folder"] / "map.tif"
    again = olmoearth("reproduce", product, "--all", "--retrain", "--to", tmp_path / "again", "--json")
    assert again.code == 0, again.err + again.out
    assert (again.json["verdict"], again.json["reasons"], again.json["same_weights"]) == ("equal", [], True)
    parts = [one for part in ("tiles", "products", "model") for one in again.json[part]]
    assert {one["outcome"] for one in parts} == {"equal"}
    assert len(again.json["tiles"]) == again.json["recorded_tiles"] > 1


def test_every_project_command_answers_for_people_and_machines(finished: tuple[Path, Any], olmoearth: Run) -> None:
    folder, _ = finished
    for arguments in (
        ["validate", folder],
        ["models", folder],
        ["estimate", folder, "--encoders", "v1-nano,v1.1-nano"],
        ["encoders", "list"],
        ["doctor"],
    ):
        for_people = olmoearth(*arguments)
        assert for_people.code == 0, for_people.err + for_people.out
        assert for_people.out.strip()
        assert olmoearth(*arguments, "--json").json


def test_dates_need_no_quotes(tmp_path: Path, world: Path, home: Path, olmoearth: Run) -> None:
    """DVC reads a bare date as one and cannot write it: such a stage depends on the whole of project.yaml."""
    split = {"kind": "time", "validation_from": date(2023, 6, 1)}
    one_look = {"kind": "point_in_time", "days": 100}
    folder = make_project(tmp_path / "fields", world, dataset={"split": split}, imagery__framing=one_look)
    labels = json.loads((folder / "labels" / "fields.geojson").read_text())
    labels["features"] = [
        {**feature, "properties": {**feature["properties"], "start_datetime": day}}
        for feature in labels["features"]
        for day in ("2023-03-15", "2023-08-15")
    ]
    (folder / "labels" / "fields.geojson").write_text(json.dumps(labels))
    assert "validation_from: 2023-06-01\n" in (folder / "project.yaml").read_text()

    answer = olmoearth("run", folder, "--until", "preprocess", "--json")
    assert answer.code == 0, answer.err + answer.out
    assert "Running stage" not in dvc(folder, home, "repro")

    quoted = (folder / "project.yaml").read_text().replace("2023-06-01\n", "'2023-06-01'\n")
    (folder / "project.yaml").write_text(quoted)
    again = olmoearth("run", folder, "--until", "preprocess", "--json")
    assert again.code == 0, again.err
    assert skipped(again.json) == {"export": True, "preprocess": True}
    locked = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]["preprocess"]
    assert locked["params"]["project.yaml"]["dataset"]["split"]["validation_from"] == "2023-06-01"
    assert "Running stage" not in dvc(folder, home, "repro")
