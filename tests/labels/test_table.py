"""Labels in CSV tables, as spreadsheets and field apps write them, and as they go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasters import CRS
from shore import write_shore

from olmoearth_core.errors import LabelError
from olmoearth_core.labels.labels import Labels, check_labels, read_labels

ROWS = [("3.0005", "42.3601", "land"), ("3.0007", "42.3602", "water")]


def read(folder: Path, content: str | bytes, changes: dict[str, Any] | None = None) -> Labels:
    project = write_shore(
        folder, {"labels": {"files": ["labels/a.csv"], "date": "2024-05-01", **(changes or {})}}, scenes=[]
    )
    path = folder / "labels/a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(project)


def refusal(folder: Path, content: str | bytes, changes: dict[str, Any] | None = None) -> str:
    with pytest.raises(LabelError) as caught:
        read(folder, content, changes)
    return str(caught.value)


def degrees(labels: Labels) -> np.ndarray:
    back = labels.frame.to_crs("EPSG:4326").geometry.to_numpy()
    return np.asarray(shapely.get_coordinates(back).round(6))


@pytest.mark.parametrize("names", [("longitude", "latitude"), ("LON", "Lat"), ("lng", "lat")])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_longitude_and_latitude_with_any_delimiter(tmp_path: Path, names: tuple[str, str], delimiter: str) -> None:
    lines = [delimiter.join([*names, "class"]), *(delimiter.join(row) for row in ROWS), ""]
    labels = read(tmp_path, "\n".join(lines))
    assert degrees(labels).tolist() == [[3.0005, 42.3601], [3.0007, 42.3602]]
    assert labels.frame["class_index"].tolist() == [0, 1]
    assert labels.frame["feature"].tolist() == [0, 1]


def test_decimals_with_a_comma_a_mark_at_the_start_and_columns_in_another_order(tmp_path: Path) -> None:
    text = '﻿class;start_datetime;lat;lon\r\nland;2023-07-01;42,3601;3,0005\r\n"water";2023-07-02;"42,3602";3,0007\r\n'
    labels = read(tmp_path, text)
    assert degrees(labels).tolist() == [[3.0005, 42.3601], [3.0007, 42.3602]]
    assert [str(day) for day in labels.frame["date"]] == ["2023-07-01", "2023-07-02"]


def test_x_and_y_in_labels_crs(tmp_path: Path) -> None:
    labels = read(tmp_path, "x,y,class\n500100,4690000.5,land\n", {"crs": CRS})
    assert shapely.get_coordinates(labels.frame.geometry.to_numpy()).tolist() == [[500100, 4690000.5]]
    assert "states no CRS. Set labels.crs" in refusal(tmp_path, "x,y,class\n500100,4690000,land\n")
    assert "labels.crs 'EPSG:1' is no CRS" in refusal(tmp_path, "x,y,class\n1,2,land\n", {"crs": "EPSG:1"})
    assert "look like degrees" in refusal(tmp_path, "x,y,class\n3,42,land\n", {"crs": CRS})


def test_wkt(tmp_path: Path) -> None:
    text = 'wkt,class\n"POLYGON ((3 42, 3.01 42, 3.01 42.01, 3 42))",land\nPOINT (3 42),water\n'
    labels = read(tmp_path, text, {"crs": "EPSG:4326"})
    assert labels.frame.geometry.geom_type.tolist() == ["Polygon", "Point"]
    message = refusal(tmp_path, "wkt,class\nPOINT (3 42),land\nPOINT (3,water\n", {"crs": "EPSG:4326"})
    assert message.startswith("labels/a.csv: row 3 ")
    message = refusal(tmp_path, 'wkt,class\nPOINT (3 42),land\n"POINT 3",water\n', {"crs": "EPSG:4326"})
    assert "row 3 has the wkt 'POINT 3', which is no geometry" in message


def test_every_wrong_row_is_named(tmp_path: Path) -> None:
    text = "longitude,latitude,class\n3,42,land\nwest,42,land\n3,,water\n3,42\n3,42,ice\n1e999,42,land\n"
    write_shore(tmp_path, {"labels": {"files": ["labels/a.csv"], "date": "2024-05-01"}}, scenes=[])
    with pytest.raises(LabelError):
        read(tmp_path, text)
    from olmoearth_core.project import load_project

    _, problems = check_labels(load_project(tmp_path))
    found = sorted(problem.message for problem in problems)
    assert found[0].startswith("row 3 has the longitude 'west'; expected a number")
    assert any(m.startswith("row 4 has no latitude") for m in found)
    assert any("has 2 fields where the head has 3: '3,42'" in m for m in found)
    assert any("has the class 'ice'; allowed are land, water" in m for m in found)
    assert any("has the longitude '1e999'; expected a number" in m for m in found)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not a table that can be read"),
        ("longitude,latitude,class\n", "holds no rows"),
        ("place,class\nhere,land\n", "no column says where a label is; its columns are: place, class"),
        ("longitude,latitude,class,class\n3,42,land,land\n", "the column class is there more than once"),
        ("longitude,latitude,kind\n3,42,land\n", "has no property 'class'; its properties are: longitude, latitude"),
        ("longitude,latitude,class\n3,42,f\xf6rest\n".encode("latin-1"), "Save it as CSV in UTF-8"),
        ("longitude,latitude,class\n500000,4690000,land\n", "look like metres"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str | bytes, word: str) -> None:
    message = refusal(tmp_path, content)
    assert message.startswith("labels/a.csv: ")
    assert word in message


def test_a_value_map_and_values_without_a_class(tmp_path: Path) -> None:
    text = "longitude,latitude,class\n3,42,12\n3.001,42,80\n3.002,42,bog\n3.003,42,land\n"
    classes = {"land": "50-100", "water": [12, "sea"]}
    message = refusal(tmp_path, text, {"classes": classes})
    assert "row 4 has the class 'bog'; allowed are land, water (task.classes) and what labels.classes maps" in message
    labels = read(tmp_path, text, {"classes": classes, "unmapped": "ignore"})
    assert labels.frame["class_index"].tolist() == [1, 0, 0]
    assert labels.frame["feature"].tolist() == [0, 1, 3]


def test_files_of_different_crs_lie_together(tmp_path: Path) -> None:
    changes = {"files": ["labels/a.csv", "labels/shore.geojson"], "crs": "EPSG:3857"}
    labels = read(tmp_path, "x,y,class\n334000,5214000,land\n", changes)
    assert labels.frame["source"].value_counts().to_dict() == {"labels/shore.geojson": 2, "labels/a.csv": 1}
    assert labels.grid.crs == CRS
    assert labels.frame.crs == CRS
