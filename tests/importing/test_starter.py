"""The project.yaml that an import writes: framing by the labels, colours by the names; its comments say so."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from foreign import LEFT, TOP, make_cube, values, write_netcdf, write_tiff

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.frame import Span, frame_of
from olmoearth_core.importing.importing import Labelling, import_data
from olmoearth_core.importing.labelling import parse_measured
from olmoearth_core.importing.palette import KNOWN, TOLD_APART, colours
from olmoearth_core.importing.source import Options
from olmoearth_core.project import load_project

YEAR = [date(2024, 1, 5) + timedelta(days=10 * k) for k in range(36)]
JUNE = date(2024, 6, 10)


@pytest.mark.parametrize(
    ("days", "spans", "text", "why"),
    [
        ([JUNE], {(JUNE, JUNE)}, "{kind: point_in_time, days: 1}", "all imagery is of 2024-06-10"),
        (YEAR, (), "{kind: period, timesteps: 12, days: 30}", "labels say no dates"),
        (YEAR, {(YEAR[3], YEAR[3])}, "{kind: point_in_time, days: 1}", "one look at 1 day around it"),
        (YEAR, {(JUNE, JUNE)}, "{kind: point_in_time, days: 7}", "one look at 7 days around it"),
        (YEAR, {(date(2022, 1, 1),) * 2}, "{kind: point_in_time, days: 31}", "one look at 31 days around it"),
        (YEAR, {(date(2024, 4, 1), date(2024, 6, 29))}, "{kind: period, timesteps: 3, days: 30}", "true for 90 days"),
        (YEAR, {(date(2024, 1, 1), date(2024, 12, 31))}, "{kind: period, timesteps: 12, days: 30}", "for 366 days"),
        (YEAR, {(JUNE, JUNE + timedelta(days=9))}, "{kind: period, timesteps: 1, days: 10}", "true for 10 days"),
    ],
)
def test_framing_follows_from_what_labels_are_true_for(days: list[date], spans: set[Span], text: str, why: str) -> None:
    frame = frame_of(days, spans)
    assert frame.text == text
    assert why in frame.why


def test_a_map_of_one_look_is_of_the_day_with_most_scenes() -> None:
    assert frame_of([*YEAR, JUNE, JUNE], {(JUNE, JUNE)}).anchor == JUNE
    assert frame_of(YEAR, {(JUNE, JUNE)}).anchor == YEAR[-1]


def write_survey(path: Path, rows: list[dict[str, Any]]) -> Path:
    shapes = [shapely.box(LEFT + 20 + 50 * i, TOP - 120, LEFT + 60 + 50 * i, TOP - 20) for i in range(len(rows))]
    gpd.GeoDataFrame(rows, geometry=shapes, crs="EPSG:32631").to_crs("EPSG:4326").to_file(path)
    return path


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"start_datetime": "2024-02-10"}, "point_in_time"),
        ({"start_datetime": "2024-02-10T00:00:00Z", "end_datetime": "2024-02-10T23:59:59Z"}, "point_in_time"),
        ({"start_datetime": "2024-01-01", "end_datetime": "2024-03-30"}, "period"),
    ],
)
def test_the_labels_of_a_partner_decide_the_framing(row: dict[str, str], kind: str, tmp_path: Path) -> None:
    cube = make_cube({"B2": values(1, 3, 48, 48)}, ("2024-01-01", "2024-02-10", "2024-03-15"))
    source = write_netcdf(tmp_path / "place.nc", cube)
    survey = write_survey(tmp_path / "survey.geojson", [{"class": c, **row} for c in ("open water", "rice", "maize")])
    made = import_data([source], tmp_path / "p" / "in", labelling=Labelling([survey]), project=tmp_path / "p")
    config = load_project(tmp_path / "p").config
    assert config.imagery.framing.kind == kind
    assert "  # labels are true for" in made.text
    assert "  # colours follow the names" in made.text
    assert "  # the ground of all imagery (3 scenes); draw your own for less" in made.text
    assert {c.name: c.color for c in config.task.classes}["open water"] == "#2c7fb8"


def test_patches_of_many_days_get_one_look_each_and_the_area_says_that_they_lie_apart(tmp_path: Path) -> None:
    for k in range(6):
        write_tiff(tmp_path / "in" / f"patch_{k}.tif", values(k, 2, 16, 16), left=LEFT + 400 * k)
    rows = [f"patch_{k}.tif,{('forest', 'lake')[k % 2]},2024-{1 + 2 * k:02d}-01" for k in range(6)]
    (tmp_path / "in" / "labels.csv").write_text("\n".join(["file,class,date", *rows]) + "\n")
    made = import_data([tmp_path / "in"], tmp_path / "p" / "src", Options(bands=("B02", "B03")), project=tmp_path / "p")
    assert load_project(tmp_path / "p").config.imagery.framing.model_dump() == {"kind": "point_in_time", "days": 1}
    assert "(6 scenes), in 6 pieces that lie apart, all of which are mapped" in made.text


def test_colours_follow_well_known_names() -> None:
    found = dict(
        zip(names := ["SeaLake", "River", "Forest", "maybe", "no forest", "forest road"], colours(names), strict=True)
    )
    assert (found["SeaLake"], found["River"]) == KNOWN[0][1][:2]
    assert found["Forest"] == KNOWN[1][1][0]
    assert found["forest road"] == "#636363"
    assert {found["maybe"], found["no forest"]} <= set(TOLD_APART)


def test_colours_of_many_classes_all_differ() -> None:
    names = [*(f"class {k}" for k in range(120)), *(f"forest {k}" for k in range(120))]
    assert len(set(colours(names))) == 240
    assert colours(names) == colours(names)
    assert set(colours("abcdefgh")) == set(TOLD_APART)


@pytest.mark.parametrize("limits", ["0,1e308", "0,1e-300", "1e9,1000000001"])
def test_a_range_that_a_model_cannot_bear_is_refused(limits: str) -> None:
    with pytest.raises(SourceError, match=rf"--range {limits}: expected numbers from -1e\+15 to 1e\+15"):
        parse_measured("height", limits, "m", classes=False)
