"""`olmoearth validate`: each kind of bad luck is one finding, and nothing is read but labels and catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shore import DATE, SIZE, clear_scene, halves, square, write_labels, write_shore

from olmoearth_core.imagery import read
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.validate import Finding, validate


def find(project: Project) -> list[Finding]:
    return validate(project, Silent())


def only(project: Project) -> Finding:
    (finding,) = find(project)
    return finding


def change_labels(folder: Path, change: Any) -> None:
    path = folder / "labels/shore.geojson"
    content = json.loads(path.read_text())
    change(content["features"])
    path.write_text(json.dumps(content))


def test_a_good_project_has_no_findings_and_no_pixel_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a pixel was asked for")

    monkeypatch.setattr(read.AssetReader, "read", refuse)
    monkeypatch.setattr(read.AssetReader, "header", refuse)
    assert find(write_shore(tmp_path)) == []
    assert len(list((tmp_path / "scenes").glob("*.json"))) == 2  # frozen for the stages


def test_labels_in_metres_that_are_called_degrees(tmp_path: Path) -> None:
    project = write_shore(tmp_path)

    def change(features: list[dict[str, Any]]) -> None:
        features[0]["geometry"]["coordinates"] = [
            [[500_040, 4_690_000], [500_400, 4_690_000], [500_400, 4_690_020], [500_040, 4_690_000]]
        ]

    change_labels(tmp_path, change)
    finding = only(project)
    assert (finding.severity, finding.where) == ("error", "labels/shore.geojson")
    assert "look like metres" in finding.message


def test_broken_geometry_and_unknown_class_are_told_together(tmp_path: Path) -> None:
    project = write_shore(tmp_path)

    def change(features: list[dict[str, Any]]) -> None:
        a, b, c, *_ = features[0]["geometry"]["coordinates"][0]
        features[0]["geometry"]["coordinates"] = [[a, c, b, [b[0], c[1] + 0.001], a]]
        features[1]["properties"]["class"] = "ice"

    change_labels(tmp_path, change)
    messages = [finding.message for finding in find(project)]
    assert len(messages) == 2
    assert "feature 0 has a broken geometry: Self-intersection" in messages[0]
    assert "feature 1 has the class 'ice'; allowed are land, water" in messages[1]


def test_many_problems_of_one_file_are_summed_up(tmp_path: Path) -> None:
    labels = [(square(0, 0, 99, 99), "ice", DATE)] * 40
    findings = find(write_shore(tmp_path, labels=labels))
    assert len(findings) == 11
    assert findings[-1].message.startswith("30 more problems like these")


def test_every_label_file_is_looked_at(tmp_path: Path) -> None:
    project = write_shore(tmp_path, {"labels.files": ["labels/a.geojson", "labels/shore.geojson", "labels/b.geojson"]})
    assert [f.where for f in find(project)] == ["labels/a.geojson", "labels/b.geojson"]


def test_a_class_with_one_sample(tmp_path: Path) -> None:
    labels = [(square(0, 0, 290, SIZE), "land", DATE), (square(330, 300, 350, 320), "water", DATE)]
    finding = only(write_shore(tmp_path, labels=labels))
    assert finding.severity == "error"
    assert "class 'water' is in 1 of 21 training windows; dataset.min_samples asks for 2" in finding.message


def test_a_rare_class_and_contradicting_labels_are_warnings(tmp_path: Path) -> None:
    labels = [
        (square(0, 0, 900, SIZE), "land", DATE),
        (square(920, 100, 930, 800), "water", DATE),
        (square(0, 0, 100, 100), "water", DATE),
    ]
    findings = find(write_shore(tmp_path, labels=labels))
    assert {f.severity for f in findings} == {"warning"}
    assert "class 'water' has 0.8" in findings[0].message
    assert "overlap on 100 pixels" in findings[1].message


def test_too_few_blocks(tmp_path: Path) -> None:
    finding = only(write_shore(tmp_path, {"dataset.split": {"block_size": 5000}}))
    assert (finding.severity, finding.where) == ("warning", "dataset.split.block_size")


def test_labels_outside_the_imagery(tmp_path: Path) -> None:
    far = square(4000, 0, 5000, SIZE)
    finding = only(write_shore(tmp_path, labels=[*halves(DATE), (far, "land", DATE)]))
    assert finding.severity == "warning"
    assert "1 of 3 labels lie outside the imagery (features 2)" in finding.message


def test_a_file_outside_the_imagery_is_an_error(tmp_path: Path) -> None:
    project = write_shore(tmp_path, {"labels.files": ["labels/shore.geojson", "labels/far.geojson"]})
    write_labels(tmp_path / "labels/far.geojson", [(square(3000, 0, 5000, SIZE), "land", DATE)])
    (finding,) = [f for f in find(project) if f.severity == "error"]
    assert finding.where == "labels/far.geojson"


def test_everything_outside_the_imagery(tmp_path: Path) -> None:
    far = [(square(90_000 + x, 0, 90_480 + x, SIZE), name, DATE) for x, name in ((0, "land"), (480, "water"))]
    finding = only(write_shore(tmp_path, labels=far))
    assert finding.where == "imagery.catalogue"
    assert "no scene" in finding.message


def test_a_label_date_without_a_scene(tmp_path: Path) -> None:
    finding = only(write_shore(tmp_path, labels=halves(DATE, "2023-01-01")))
    assert (finding.severity, finding.where) == ("warning", "imagery.framing")
    assert "the labels of 1 of 2 dates (2023-01-01)" in finding.message


def test_a_missing_catalogue_is_told_once(tmp_path: Path) -> None:
    finding = only(write_shore(tmp_path, {"imagery.catalogue": "gone/catalog.json"}))
    assert (finding.severity, finding.where) == ("error", "imagery.catalogue")
    assert "gone/catalog.json" in finding.message


def test_a_map_area_that_is_missing_or_elsewhere(tmp_path: Path) -> None:
    project = write_shore(tmp_path)
    (tmp_path / "area.geojson").unlink()
    assert only(project).where == "map.area"
    write_labels(tmp_path / "area.geojson", [(square(90_000, 0, 99_000, 9000), "far", None)])
    finding = only(project)
    assert finding.severity == "error"
    assert "no scene" in finding.message
    write_labels(tmp_path / "area.geojson", [(square(480, 0, 1440, SIZE), "half", None)])
    finding = only(project)
    assert (finding.severity, finding.where) == ("warning", "map.area")
    assert "of the area is outside the imagery" in finding.message


def test_months_without_a_scene_on_the_map(tmp_path: Path) -> None:
    framing = {"kind": "period", "timesteps": 3, "days": 30}
    project = write_shore(tmp_path, {"imagery.framing": framing}, scenes=[clear_scene("A", "2024-05-10")])
    finding = only(project)
    assert (finding.severity, finding.where) == ("warning", "map.date")
    assert "2 of 3 timesteps around 2024-05-01" in finding.message


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        ("2024-05-01T00:00:00Z", "2024-05-31T00:00:00Z", ""),
        ("2023-05-01T00:00:00Z", "2023-05-31T00:00:00Z", "requests in area.geojson are for other times"),
        ("soon", "2023-05-31T00:00:00Z", "expected times like 2024-05-01T00:00:00Z"),
    ],
)
def test_an_area_that_was_requested_for_other_times(tmp_path: Path, start: str, end: str, told: str) -> None:
    project = write_shore(tmp_path)
    path = tmp_path / "area.geojson"
    content = json.loads(path.read_text())
    for feature in content["features"]:
        feature["properties"] |= {"oe_start_time": start, "oe_end_time": end}
    path.write_text(json.dumps(content))
    findings = find(project)
    assert [finding.severity for finding in findings] == (["warning"] if told else [])
    assert all(told in finding.message for finding in findings)


def test_the_reservoir(real_data: Path, tmp_path: Path) -> None:
    days = ("2020-06-21", "2020-09-14")
    changes = {
        "labels.files": [str(real_data / f"reservoir/labels/water_{day}.geojson") for day in days],
        "imagery.catalogue": str(real_data / "reservoir/catalog.json"),
        "map": {"area": str(real_data / "reservoir/area.geojson"), "date": "2021-07-16"},
        "model": {"patch_size": 4, "window_size": 64},
    }
    finding = only(write_shore(tmp_path / "bare", changes))
    assert (finding.severity, finding.where) == ("warning", "imagery.cloud_mask")
    assert "2 of 2 scenes of sentinel2_l2a carry no quality asset (SCL)" in finding.message
    for answer in ("none", "s2cloudless"):
        assert find(write_shore(tmp_path / answer, {**changes, "imagery.cloud_mask": answer})) == []
