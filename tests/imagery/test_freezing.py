"""What a project asks a catalogue for, and the answer that is kept: scene lists are frozen until somebody refreshes."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import shapely
from rasters import StacScene, edit_item, small, write_catalogue
from shapely.geometry import box, mapping

from olmoearth_core.errors import CatalogueError
from olmoearth_core.framing import Timestep
from olmoearth_core.imagery.scene import read_scenes
from olmoearth_core.imagery.search import (
    freeze_label_scenes,
    freeze_map_scenes,
    merge_spans,
    search_area,
)
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project


def test_many_dates_are_few_spans() -> None:
    def month(m: int, days: int = 30) -> Timestep:
        start = date(2024, m, 1)
        return Timestep(start, date.fromordinal(start.toordinal() + days))

    steps = [month(5), month(1), month(1), month(2, 10), month(5, 3)]
    assert merge_spans(steps) == (
        (date(2024, 1, 1), date(2024, 1, 31)),
        (date(2024, 2, 1), date(2024, 2, 11)),
        (date(2024, 5, 1), date(2024, 5, 31)),
    )
    touching = [Timestep(date(2024, 1, 1), date(2024, 1, 31)), Timestep(date(2024, 1, 31), date(2024, 2, 2))]
    assert merge_spans(touching) == ((date(2024, 1, 1), date(2024, 2, 2)),)


def test_a_search_area_holds_its_parts_and_forgets_details() -> None:
    parts = [box(3.01, 42.01, 3.02, 42.02), box(3.11, 42.01, 3.12, 42.02)]
    area = search_area(parts)
    assert all(area.contains(part) for part in parts)
    assert area.area == pytest.approx(2 * 0.05**2)
    assert area == search_area([box(3.03, 42.01, 3.04, 42.02), parts[1]])  # a label moved within its cell
    wide = search_area([box(-60, -30, -40, 0)])
    assert wide.contains(box(-60, -30, -40, 0))
    assert shapely.count_coordinates(wide) < 300


PROJECT = """
name: small
task: {classes: [{name: land, color: "#aaaaaa"}, {name: water, color: "#0000ff"}]}
labels: {files: [labels.geojson]}
imagery: {catalogue: imagery/catalog.json, framing: {kind: point_in_time, days: 10}}
dataset: {}
model: {patch_size: 4, window_size: 16}
training: {}
map: {area: area.geojson, date: 2024-05-20}
"""


def label(west: float, day: str) -> dict[str, Any]:
    geometry = mapping(box(west, 42.356, west + 0.001, 42.357))
    return {"type": "Feature", "properties": {"class": "water", "start_datetime": day}, "geometry": geometry}


def write_features(path: Path, *features: dict[str, Any]) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    scenes = [StacScene(name, f"2024-05-{name}", small()) for name in ("03", "12", "22")]
    write_catalogue(tmp_path / "imagery", scenes)
    (tmp_path / "project.yaml").write_text(PROJECT)
    write_features(tmp_path / "labels.geojson", label(3.005, "2024-05-02"), label(3.006, "2024-05-14"))
    write_features(tmp_path / "area.geojson", label(3.005, ""))
    return load_project(tmp_path)


def test_a_search_is_frozen_and_found_again(project: Project) -> None:
    path = freeze_label_scenes(project, Silent())
    assert path.parent == project.root / "scenes"
    assert [scene.id for scene in read_scenes(path, project.root).scenes] == ["03", "12"]
    assert str(project.root) not in path.read_text()
    content = path.read_bytes()
    (project.root / "imagery" / "catalog.json").unlink()
    assert freeze_label_scenes(project, Silent()) == path
    assert path.read_bytes() == content
    with pytest.raises(CatalogueError, match="no such catalogue file"):  # another query: nothing frozen for it yet
        freeze_map_scenes(project, Silent())
    path.write_text("{")
    with pytest.raises(CatalogueError, match="Remove the file"):
        freeze_label_scenes(project, Silent())


def test_a_refresh_replaces_the_list_by_an_answer_only(project: Project) -> None:
    path = freeze_map_scenes(project, Silent())
    content = path.read_bytes()
    edit_item(project.root / "imagery", "22", lambda item: item["properties"].update({"eo:cloud_cover": 42}))
    assert freeze_map_scenes(project, Silent(), refresh=True) == path
    assert read_scenes(path, project.root).scenes[0].cloud_cover == 42
    assert path.read_bytes() != content
    (project.root / "imagery" / "catalog.json").unlink()
    with pytest.raises(CatalogueError):
        freeze_map_scenes(project, Silent(), refresh=True)
    assert read_scenes(path, project.root).scenes[0].cloud_cover == 42


def test_the_map_has_a_search_of_its_own(project: Project) -> None:
    path = freeze_map_scenes(project, Silent())
    assert path.name.startswith("map-")
    assert [scene.id for scene in read_scenes(path, project.root).scenes] == ["22"]


def test_a_label_more_at_the_same_place_and_date_asks_nothing_new(project: Project) -> None:
    path = freeze_label_scenes(project, Silent())
    labels = [label(3.005, "2024-05-02"), label(3.006, "2024-05-14"), label(3.0061, "2024-05-14")]
    write_features(project.root / "labels.geojson", *labels)
    assert freeze_label_scenes(project, Silent()) == path
    write_features(project.root / "labels.geojson", *labels, label(3.005, "2024-05-22"))
    other = freeze_label_scenes(project, Silent())
    assert other != path
    assert len(read_scenes(other, project.root).scenes) == 3
