"""Templates filled in from a partner's own label files: classes, colours, area and dates; nothing else moves."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core.errors import CoreError
from olmoearth_core.importing.labelling import Measured
from olmoearth_core.labels.labels import read_labels
from olmoearth_core.project import Project, load_project, parse_project
from olmoearth_core.templates import Answers, find_template, template_names, write_template
from olmoearth_core.templates.fill import fill

LEFT, TOP = 500_000, 4_690_000


def survey(path: Path, rows: list[dict[str, Any]], *, apart: float = 400) -> Path:
    """Stripes of 100 m by 2 km in a row, in UTM 31 North."""
    shapes = [shapely.box(LEFT + apart * i, TOP, LEFT + apart * i + 100, TOP + 2000) for i in range(len(rows))]
    gpd.GeoDataFrame(rows, geometry=shapes, crs="EPSG:32631").to_file(path)
    return path


def fields(path: Path) -> Path:
    crops = ("rice", "maize", "open water", "rice", "tea: green")
    return survey(path, [{"crop": crop, "start_datetime": f"202{i}-02-01"} for i, crop in enumerate(crops)])


def made(folder: Path, template: str, answers: Answers) -> tuple[Project, str]:
    write_template(find_template(template), folder, project_name=folder.name, answers=answers)
    return load_project(folder), (folder / "project.yaml").read_text()


def test_classes_area_and_dates_come_from_the_file(tmp_path: Path) -> None:
    labels = fields(tmp_path / "my fields.gpkg")
    project, text = made(tmp_path / "crops", "crop-type", Answers([labels], class_property="crop"))
    config = project.config
    assert config.task.class_names == ["maize", "open water", "rice", "tea: green"]
    colours = {c.name: c.color for c in config.task.classes}
    assert colours["maize"] == "#f2c14e", "the template's own"
    assert colours["open water"] == "#2c7fb8", "what its name says"
    assert len(set(colours.values())) == 4
    assert (config.labels.files, config.labels.class_property) == (["labels/my fields.gpkg"], "crop")
    assert (config.map.date, config.map.area) == (date(2024, 2, 1), "labels/area.geojson")
    area = gpd.read_file(project.root / "labels/area.geojson").to_crs("EPSG:32631")
    assert area.area.sum() == pytest.approx(1700 * 2000, rel=0.001), "the outline of all fields"
    assert len(read_labels(project).frame) == 5
    assert config.dataset.split.block_size == 320, "a quarter of the labels' extent, in whole windows"
    assert config.dataset.min_samples == 5
    for told in ("# add, remove, rename", "# sets.tif: which crops", "# 1 for fields of less"):
        assert told in text, "what the template says stays"


@pytest.mark.parametrize("name", [n for n in template_names() if n not in ("demo", "fuel-moisture")])
def test_every_template_of_classes_takes_labels(name: str, tmp_path: Path) -> None:
    before = parse_project(find_template(name).texts["project.yaml"].replace("PROJECT_NAME", "x"))
    project, _ = made(tmp_path / "mine", name, Answers([fields(tmp_path / "f.geojson")], class_property="crop"))
    after = project.config
    assert (after.task.kind, after.labels.windows) == (before.task.kind, before.labels.windows)
    assert (after.imagery, after.model, after.training) == (before.imagery, before.model, before.training)
    assert set(after.map.events) <= set(after.task.class_names)
    assert len(read_labels(project).frame) == 5


def test_measured_values(tmp_path: Path) -> None:
    rows = [{"lfmc": 80.0 + i, "seen": f"2023-05-0{i + 1}"} for i in range(4)]
    labels = survey(tmp_path / "plots.gpkg", rows)
    answers = Answers([labels], value_property="lfmc", date_property="seen")
    project, _ = made(tmp_path / "fuel", "fuel-moisture", answers)
    config = project.config
    assert (config.task.name, config.task.range, config.task.unit) == ("live_fuel_moisture", (0, 400), "%")
    assert (config.labels.value_property, config.labels.date_property) == ("lfmc", "seen")
    assert config.map.date == date(2023, 5, 4)
    assert len(read_labels(project).frame) == 4
    answers = Answers([labels], measured=Measured("lfmc", (0.0, 120.0), "m"), date_property="seen")
    other, _ = made(tmp_path / "height", "blank", answers)
    assert (other.config.task.kind, other.config.task.range, other.config.task.unit) == ("regression", (0, 120), "m")


def test_what_the_partner_says_has_the_word(tmp_path: Path) -> None:
    labels = survey(tmp_path / "f.geojson", [{"class": name} for name in ("1", "2", "3")])
    area = survey(tmp_path / "county.gpkg", [{"name": "a"}])
    answers = Answers(
        [labels],
        classes={"wet": [1, 2], "dry": [3]},
        label_day=date(2022, 3, 1),
        area=area,
        day=date(2023, 3, 1),
        catalogue="planetary-computer",
    )
    project, _ = made(tmp_path / "wet", "water", answers)
    config = project.config
    assert config.task.class_names == ["wet", "dry"]
    assert config.labels.date == date(2022, 3, 1)
    assert (config.map.date, config.imagery.catalogue) == (date(2023, 3, 1), "planetary-computer")
    assert gpd.read_file(project.root / config.map.area).to_crs("EPSG:32631").area.sum() == pytest.approx(2e5, rel=0.01)
    assert read_labels(project).frame["class_index"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("template", "rows", "answers", "words"),
    [
        ("water", [{"kind": "a"}], {}, "has no property 'class'; it has: kind. Give --class-property"),
        ("water", [{"class": "a"}, {"class": "b"}], {}, "says no dates .*--label-date"),
        ("water", [{"class": "a"}], {"label_day": date(2024, 1, 1)}, "only the class a found"),
        ("fuel-moisture", [{"lfmc": 1.0}], {}, "has no property 'value'.*--value"),
        ("water", [{"lfmc": 1.0}], {"value_property": "lfmc"}, "which values are possible, for example --range"),
        ("water", [{"class": "a"}], {"area": Path("/gone.geojson")}, "gone.geojson: no such file"),
        ("water", [{"class": "a"}], {"catalogue": __file__}, "is no STAC catalogue"),
        ("water", [{"class": "a"}], {"catalogue": "erth-search"}, "no such catalogue; expected earth-search"),
    ],
)
def test_what_cannot_be_filled_in_leaves_nothing(
    template: str, rows: list[dict[str, Any]], answers: dict[str, Any], words: str, tmp_path: Path
) -> None:
    labels = survey(tmp_path / "f.geojson", rows)
    with pytest.raises(CoreError, match=words):
        made(tmp_path / "mine", template, Answers([labels], **answers))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.geojson"]


def test_a_catalogue_is_named_as_the_project_sees_it(tmp_path: Path) -> None:
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / "catalog.json").write_text('{"stac_version": "1.0.0"}')
    template = find_template("water").texts["project.yaml"].replace("PROJECT_NAME", "x")
    for named in (tmp_path / "imagery", tmp_path / "imagery" / "catalog.json"):
        text = fill(template, Answers(catalogue=str(named)), tmp_path / "mine").text
        assert parse_project(text).imagery.catalogue == "../imagery/catalog.json"
    far = fill(template, Answers(catalogue=str(tmp_path / "imagery")), tmp_path / "a" / "b" / "mine").text
    assert parse_project(far).imagery.catalogue == str(tmp_path / "imagery" / "catalog.json")


NAMES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=30)


@settings(max_examples=25)
@given(st.lists(NAMES, min_size=2, max_size=6, unique_by=str.strip), st.sampled_from(["water", "forest-loss-driver"]))
def test_any_class_names_that_a_project_may_have_survive(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], template: str
) -> None:
    folder = tmp_path_factory.mktemp("names")
    path = folder / "f.csv"
    quoted = [name.replace('"', '""') for name in names]
    lines = [f'{i},{40 + i / 100},"{name}",2024-01-01' for i, name in enumerate(quoted)]
    path.write_text("\n".join(["longitude,latitude,class,start_datetime", *lines]) + "\n", encoding="utf-8", newline="")
    try:
        project, _ = made(folder / "mine", template, Answers([path]))
    except CoreError:  # blank or unprintable names are refused
        assert [p.name for p in folder.iterdir()] == ["f.csv"]
        return
    assert sorted(project.config.task.class_names) == sorted({name.strip() for name in names})
