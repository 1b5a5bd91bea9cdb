"""What is wrong with labels, known without imagery; and bad input that is told feature by feature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shore import DATE, SIZE, Label, halves, square, write_labels, write_shore

from olmoearth_core.labels.labels import check_labels, read_labels
from olmoearth_core.labels.quality import LabelFacts, label_facts
from olmoearth_core.labels.targets import count_pixels
from olmoearth_core.labels.windows import windows_of
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project


def look(project: Project) -> LabelFacts:
    labels = read_labels(project)
    windows = windows_of(project, labels)
    return label_facts(project, labels, windows, *count_pixels(labels, windows, Silent()))


def shore(folder: Path, labels: list[Label], **changes: Any) -> Project:
    return write_shore(folder, changes, scenes=[], labels=labels)


def test_good_labels_have_no_remarks(tmp_path: Path) -> None:
    found = look(shore(tmp_path, halves(DATE)))
    assert found.remarks == ()
    assert found.facts["extent"]["covered"] == pytest.approx(1, abs=1e-3)
    assert found.facts["classes"]["land"] == {"labels": 1, "windows": 28, "pixels": 4608, "share": 0.5}
    assert found.facts["conflicts"] == {"pixels": 0, "share": 0.0, "windows": {}}


def test_doubles_are_named_however_they_are_drawn(tmp_path: Path) -> None:
    once = square(0, 0, 400, 400)
    turned = shapely.Polygon(list(once.exterior.coords)[2:] + list(once.exterior.coords)[1:3])
    labels = [*halves(DATE), (once, "land", DATE), (turned, "land", DATE), (once, "land", "2024-06-01")]
    found = look(shore(tmp_path, labels))
    assert [r.message for r in found.remarks] == [
        "1 of 5 labels are there more than once (same geometry, class and date): feature 3"
    ]
    assert found.facts["files"]["labels/shore.geojson"]["doubles"] == {"count": 1, "features": [3]}


def test_one_place_with_two_classes(tmp_path: Path) -> None:
    once = square(100, 100, 300, 300)
    found = look(
        shore(tmp_path, [(once, "land", DATE), (once, "water", DATE), (square(500, 0, 900, 900), "land", DATE)])
    )
    assert found.facts["files"]["labels/shore.geojson"]["contradictions"]["features"] == [0, 1]
    assert found.facts["conflicts"]["pixels"] == 400
    assert sum(found.facts["conflicts"]["windows"].values()) == 400
    assert "share their geometry and date with a label of another class" in found.remarks[0].message


def test_specks(tmp_path: Path) -> None:
    specks: list[Label] = [(square(x, 5, x + 4, 9), "water", DATE) for x in (20, 60, 100)]
    few = look(shore(tmp_path, [*halves(DATE), *specks[:1]]))
    assert few.remarks == ()
    assert few.facts["files"]["labels/shore.geojson"]["specks"] == {"count": 1, "features": [2]}
    (many,) = look(shore(tmp_path, [*halves(DATE), *specks])).remarks
    assert "3 of 5 labels are smaller than half a pixel" in many.message


def test_labels_that_crowd_in_one_place(tmp_path: Path) -> None:
    apart: list[Label] = [
        (square(x, y, x + 10, y + 10), "water", DATE) for x in range(0, 900, 170) for y in (300, 500, 700, 900)
    ]
    found = look(shore(tmp_path, [*apart, (square(0, 0, 150, 150), "land", DATE)]))
    assert [remark.where for remark in found.remarks] == ["labels.files"]
    assert "of the labelled pixels lie in 3 of 2" in found.remarks[0].message


def test_labels_far_from_the_map(tmp_path: Path) -> None:
    """Longitude and latitude the wrong way round, for instance."""
    project = shore(tmp_path, halves(DATE))
    write_labels(tmp_path / "area.geojson", [(square(0, 250_000, SIZE, 250_000 + SIZE), "far", None)])
    (remark,) = look(project).remarks
    assert remark.where == "map.area"
    assert (
        "100% of the labelled windows lie more than 100 km from the area to map (the nearest 249 km)" in remark.message
    )


def test_every_degenerate_polygon_is_named(tmp_path: Path) -> None:
    write_shore(tmp_path, scenes=[])
    rings = {
        1: [[3.0, 42.0], [3.01, 42.01], [3.01, 42.0], [3.0, 42.01], [3.0, 42.0]],  # crosses itself
        2: [[3.0, 42.0], [3.01, 42.01], [3.02, 42.02], [3.0, 42.0]],  # has no area
        3: [[3.0, 42.0], [3.0, 42.0], [3.0, 42.0], [3.0, 42.0]],  # is a point
        4: [[3.0, 42.0], [3.01, 42.0], [3.01, 42.01], [3.005, 42.01], [3.005, 42.02], [3.005, 42.01], [3.0, 42.0]],
    }
    good = [[3.0, 42.0], [3.01, 42.0], [3.01, 42.01], [3.0, 42.0]]
    features = [
        {
            "type": "Feature",
            "properties": {"class": "land", "start_datetime": DATE},
            "geometry": {"type": "Polygon", "coordinates": [rings.get(k, good)]},
        }
        for k in range(6)
    ]
    path = tmp_path / "labels/shore.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    _, problems = check_labels(load_project(tmp_path))
    assert [problem.message.split(" has a broken geometry")[0] for problem in problems] == [
        f"feature {k}" for k in (1, 2, 3, 4)
    ]


def points(folder: Path, *places: tuple[float, float], **labels: Any) -> Project:
    project = write_shore(folder, {"labels": {"files": ["labels/a.csv"], "date": DATE}, **labels}, scenes=[])
    rows = [f"{lon},{lat},{('land', 'water')[k % 2]}" for k, (lon, lat) in enumerate(places)]
    (folder / "labels/a.csv").write_text("\n".join(["longitude,latitude,class", *rows]))
    return project


def test_polar_labels_need_a_polar_grid(tmp_path: Path) -> None:
    places = [(-45.0, 85.5), (-44.0, 85.51)]
    _, (problem,) = check_labels(points(tmp_path, *places))
    assert "lies in no UTM zone (80 S to 84 N). Set imagery.crs" in problem.message
    labels = read_labels(points(tmp_path, *places, **{"imagery.crs": "EPSG:3413"}))
    assert labels.grid.crs == "EPSG:3413"
    assert np.isfinite(labels.bounds).all()


def test_labels_across_two_zones_and_the_antimeridian_lie_on_one_grid(tmp_path: Path) -> None:
    for places in ([(5.9, 45.0), (6.1, 45.0)], [(179.95, -17.0), (-179.95, -17.0)]):
        labels = read_labels(points(tmp_path, *places))
        left, _, right, _ = labels.frame.total_bounds
        assert 10_000 < right - left < 20_000
        assert len(windows_of(load_project(tmp_path), labels)) == 2
