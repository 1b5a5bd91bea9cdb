"""Every command of docs/partners runs, page after page, on one small project: as a partner would type them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
from partner import command_environment
from typer.testing import CliRunner

from flows.cli.app import app
from olmoearth_core.project import PROJECT_FILE, load_project
from olmoearth_core.settings_edit import set_keys

DOCS = Path(__file__).parents[2] / "docs/partners"
PAGES = ("README.md", "labels.md", "encoders.md", "report.md", "publishing.md")


def commands(page: str) -> list[list[str]]:
    """The words of each command line of a page."""
    lines = (DOCS / page).read_text().splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("    olmoearth ")]


def write_given(folder: Path, world: Path) -> None:
    """The files that the pages speak of, made of the simulated region's survey."""
    (folder / "imagery").symlink_to(world)
    survey = gpd.read_file(world / "labels" / "fields.geojson")
    survey["crop"] = survey["class"].map(
        lambda name: {"winter crop": "rice", "summer crop": "maize"}.get(name, "grass")
    )
    survey.drop(columns="class").to_file(folder / "survey.gpkg")
    middle = survey.to_crs("EPSG:4326").geometry.representative_point()
    rows = [f"{p.x},{p.y},{80 + i},2023-06-01" for i, p in enumerate(middle)]
    (folder / "plots.csv").write_text("\n".join(["longitude,latitude,moisture,visited", *rows]) + "\n")
    times = {"oe_start_time": "2023-01-01T00:00:00Z", "oe_end_time": "2023-12-27T00:00:00Z"}
    old = survey.to_crs("EPSG:4326")[["geometry"]].assign(
        oe_labels=[json.dumps({"category": crop}) for crop in survey["crop"]], oe_annotations_task_id="t1"
    )
    old.to_file(folder / "annotation_features.geojson")
    hull = gpd.GeoDataFrame(geometry=[old.union_all().convex_hull], crs="EPSG:4326")
    hull.assign(oe_annotations_task_id="t1", **times).to_file(folder / "annotation_task_features.geojson")
    hull.assign(**times).to_file(folder / "request.geojson")


def make_cheap(project: Path) -> None:
    """What the template leaves to the partner, set so that a test can afford it."""
    path = project / PROJECT_FILE
    text = path.read_text()
    for section, values in {
        "imagery": {"framing": {"kind": "period", "timesteps": 2, "days": 60, "offset_days": 90}},
        "model": {"patch_size": 8, "window_size": 32},
        "training": {"epochs": 1},
        "map": {"overlap": 0, "tile_size": 64},
        "monitoring": {"windows": 8},
    }.items():
        text = set_keys(text, section, values)
    path.write_text(text)


def test_every_command_runs(tmp_path: Path, world: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_given(tmp_path, world)
    ran = []
    for page in PAGES:
        assert commands(page), page
        for words in commands(page):
            said = [
                found for word in words for found in (map(str, sorted(Path().glob(word))) if "*" in word else [word])
            ]
            if words[0] == "run":  # Prefect's server wants a process of its own
                command = [str(Path(sys.executable).parent / "olmoearth"), *said]
                done = subprocess.run(command, env=command_environment(home), capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            else:
                shown = CliRunner().invoke(app, said)
                assert shown.exit_code == 0, (said, shown.output, shown.exception)
            ran.append(words[0])
            if words[:2] == ["init", "fields"]:
                assert load_project(tmp_path / "fields").config.task.class_names == ["maize", "grass", "rice"]
                make_cheap(tmp_path / "fields")
    assert {"init", "validate", "estimate", "run", "audit", "import", "compare", "drift", "status"} <= set(ran)
    assert load_project(tmp_path / "ponds").config.task.class_names == ["wet", "dry"]
    assert load_project(tmp_path / "plots").config.labels.value_property == "moisture"
    assert str(load_project(tmp_path / "old-crops").config.map.date) == "2023-01-01"
    found = json.loads((tmp_path / "fields" / "comparison" / "comparison.json").read_text())
    assert found["recommendation"]["verdict"] == "none"
    assert "random weights" in found["recommendation"]["sentence"]
