"""The label quality report on real labels: two files that are wrong on purpose are caught, four good ones pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
from shore import run_to_dataset, write_shore

GOOD = [f"labels/water_{day}.geojson" for day in ("2020-02-02", "2020-06-21", "2020-09-14", "2021-07-16")]
MISALIGNED, INCOMPLETE = (
    f"labels_bad/water_{name}.geojson" for name in ("2020-01-13_misaligned", "2020-02-02_incomplete")
)


def make(folder: Path, data: Path, names: list[str], **changes: Any) -> tuple[dict[str, Any], list[str], str]:
    """(labels.json, warnings, the page) of a training set on these label files of the reservoir."""
    settings = {
        "labels.files": [str(data / "reservoir" / name) for name in names],
        "imagery.catalogue": str(data / "reservoir/catalog.json"),
        "imagery.framing": {"kind": "point_in_time", "days": 1},
        "model": {"patch_size": 4, "window_size": 64},
        "dataset": {},
        **changes,
    }
    result = run_to_dataset(write_shore(folder, settings, scenes=[]))
    quality = json.loads((result.folder / "labels.json").read_text())
    return quality, result.manifest.summary["warnings"], (result.folder / "expectations.html").read_text()


def suspicious(quality: dict[str, Any]) -> dict[str, set[tuple[str, str]]]:
    return {
        Path(source).name: {(p["labelled"], p["like"]) for p in found["look_alikes"] if p["suspicious"]}
        for source, found in quality["imagery"].items()
    }


def test_the_good_dates_pass(real_data: Path, tmp_path: Path) -> None:
    quality, warnings, page = make(tmp_path, real_data, GOOD)
    assert warnings == []
    assert quality["remarks"] == []
    assert set.union(*suspicious(quality).values()) == set()
    assert all(found["shift_metres"] == [0, 0] for found in quality["imagery"].values())
    assert all(found["separability"] > 0.85 for found in quality["imagery"].values())
    assert page.count(">agrees<") == 4


def test_bad_among_good_the_bad_ones_are_named(real_data: Path, tmp_path: Path) -> None:
    quality, warnings, page = make(tmp_path, real_data, [GOOD[0], MISALIGNED, INCOMPLETE])
    wrong = {("land", "water")}
    expected = {GOOD[0]: set(), MISALIGNED: wrong, INCOMPLETE: wrong}
    assert suspicious(quality) == {Path(name).name: pairs for name, pairs in expected.items()}
    separable = [found["separability"] > 0.5 for found in quality["imagery"].values()]
    assert separable == [True, False, False]
    told = [w for w in warnings if "labels of water seem to be missing or misplaced" in w]
    assert len(set(told)) == 2
    assert {Path(w.partition(":")[0]).name for w in told} == {Path(name).name for name in (MISALIGNED, INCOMPLETE)}
    near = [p["near"] for found in quality["imagery"].values() for p in found["look_alikes"] if p["suspicious"]]
    assert near[0] > near[1], "outlines that are shifted and coarse miss more along their edges"
    assert all(f"{share:.0%} lie within 80 m of labelled water" in w for share, w in zip(near, told, strict=True))
    assert page.count("seem to be missing or misplaced") == 2 + 2  # beside the file, and among the expectations


def test_a_good_date_seen_through_small_windows(real_data: Path, tmp_path: Path) -> None:
    """Of windows of 32 pixels a quarter of the ground is compared, and 20 m to the south fit better there by chance."""
    quality, warnings, page = make(tmp_path, real_data, GOOD[:1], model={"patch_size": 4, "window_size": 32})
    (found,) = quality["imagery"].values()
    assert found["shift_metres"] == [0, 0]
    assert not any("fit the imagery better" in w for w in warnings)
    assert page.count(">agrees<") == 1


def test_good_labels_that_are_moved_are_caught(real_data: Path, tmp_path: Path) -> None:
    metres = 40
    frame = gpd.read_file(real_data / "reservoir" / GOOD[1])
    frame["start_datetime"] = frame["start_datetime"].astype(str)
    moved = frame.to_crs("EPSG:32631").translate(metres, metres)
    path = tmp_path / "moved.gpkg"
    frame.to_crs("EPSG:32631").set_geometry(moved).to_file(path)
    quality, warnings, page = make(tmp_path, real_data, [], **{"labels.files": [str(path)]})
    (found,) = quality["imagery"].values()
    assert found["shift_metres"] == [-metres, metres]  # back to the west and to the south
    sentence = f"the labels fit the imagery better when moved {metres} m west and {metres} m south"
    assert any(w.endswith(f"moved.gpkg: {sentence}") for w in warnings)
    assert sentence in page
