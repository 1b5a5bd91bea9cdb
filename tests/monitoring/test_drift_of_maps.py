"""Drift of maps: low without a shift, high where brightness or season moved; how projects stand, from their folders."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from mapped import AUTUMN, BRIGHT, SAME, ask, make_measured, scene
from scipy.stats import ks_2samp
from shore import DATE, write_shore

from olmoearth_core.errors import MappingError, ProjectError
from olmoearth_core.monitoring.distance import psi
from olmoearth_core.monitoring.drift import DriftReport, Moved, drift, last_drift
from olmoearth_core.monitoring.overview import overview
from olmoearth_core.project import Project, load_project


def of(project: Project, day: str) -> DriftReport:
    [name] = [path.name for path in (project.root / "maps").iterdir() if path.name.startswith(f"shore-{day}")]
    return drift(project, name)


def most(report: DriftReport, about: str) -> float:
    return max(one.psi for one in report.moved if one.about == about)


def test_without_a_shift_there_is_no_drift(mapped: Project) -> None:
    for day in (DATE, SAME):
        report = of(mapped, day)
        assert report.drifted == []
        assert report.sentence == f"{report.map_id}: no drift."
        assert most(report, "imagery") < 0.1
        assert most(report, "embeddings") < 0.4
        # half land, half water: of 24 windows each the share of land, and with it KS, varies by 0.14 (one deviation)
        assert all(one.ks < 0.28 for one in report.moved if one.ks is not None)
        assert report.windows == 24


def test_brightness_and_season_are_drift(mapped: Project) -> None:
    bright, autumn = of(mapped, BRIGHT), of(mapped, AUTUMN)
    assert bright.beyond("imagery")
    assert autumn.beyond("imagery")
    assert max(one.ks or 0 for one in bright.moved) > 0.4
    assert most(bright, "imagery") > 10 * most(of(mapped, SAME), "imagery")
    assert most(bright, "embeddings") > most(of(mapped, SAME), "embeddings")
    assert {one.against for one in autumn.moved} >= {"the training set", "held-out windows", f"the map of {BRIGHT}"}
    assert "sentinel2_l2a B0" in bright.sentence
    assert bright.moved[0].psi / bright.moved[0].limit == max(one.psi / one.limit for one in bright.moved)


@pytest.mark.verify  # a training and three maps; what is read of a map: tests/postprocess/test_value_map.py
def test_measured_values_drift_too(tmp_path: Path) -> None:
    project = make_measured(tmp_path)
    same, autumn = of(project, SAME), of(project, AUTUMN)
    values = {one.against: one for one in same.moved if one.about == "predictions"}
    assert values.keys() == {"held-out windows", f"the map of {DATE}"}
    assert {one.name for one in values.values()} == {"moisture"}
    assert not any(one.beyond for one in values.values())
    before, after = (dict(_of_values(report)) for report in (same, autumn))
    assert after["held-out windows"].psi > 5 * before["held-out windows"].psi
    assert after["held-out windows"].ks > before["held-out windows"].ks + 0.1
    assert autumn.beyond("predictions")
    assert "% -> " in after[f"the map of {SAME}"].found

    # PSI and KS against an earlier map are those of all values of both, whatever was drawn
    old, new = (_values_of(project, day) for day in (SAME, AUTUMN))
    told = after[f"the map of {SAME}"]
    assert (told.psi, told.ks) == pytest.approx((psi(old, new), ks_2samp(old, new).statistic), abs=1e-3)


def _of_values(report: DriftReport) -> list[tuple[str, Moved]]:
    return [(one.against, one) for one in report.moved if one.about == "predictions"]


def _values_of(project: Project, day: str) -> np.ndarray:
    (path,) = project.root.glob(f"maps/shore-{day}-*/map.tif")
    with rasterio.open(path) as source:
        stored = source.read(1)
        values: np.ndarray = stored[stored != source.nodata] * source.scales[0] + source.offsets[0]
    return values


def test_what_was_measured_is_kept_until_something_changes(mapped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    report = of(mapped, BRIGHT)
    assert last_drift(mapped, report.map_id) == report
    assert DriftReport.from_json(report.to_json()) == report
    scenes = mapped.root / "imagery"
    shutil.move(scenes, scenes.with_name("away"))  # nothing is read again
    try:
        assert of(mapped, BRIGHT) == report
    finally:
        shutil.move(scenes.with_name("away"), scenes)
    wide = ask(
        mapped, DATE, monitoring={"imagery": 50.0, "embeddings": 50.0, "predictions": 50.0, "between_maps": 50.0}
    )
    try:
        assert of(wide, BRIGHT).drifted == []
    finally:
        ask(mapped, DATE, monitoring={"imagery": 0.25, "embeddings": 0.75, "predictions": 1.0, "between_maps": 0.25})


def test_a_tile_that_is_gone_is_named(mapped: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mapped.root, copy, copy_function=shutil.copy2)
    shutil.rmtree(copy / ".olmoearth")  # nothing is kept that was measured before
    for tile in copy.glob("tiles/*/*.tif"):
        tile.unlink()
    with pytest.raises(MappingError, match=r"\.tif: this tile of the map cannot be read.*`olmoearth run`"):
        of(load_project(copy), BRIGHT)


def test_a_map_that_is_none_is_refused(mapped: Project, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="'x' is no map of shore; its maps are shore-2024-05-01"):
        drift(mapped, "x")
    with pytest.raises(ProjectError, match="has no map yet"):
        drift(write_shore(tmp_path, scenes=[scene("A", DATE)]))


def test_how_a_project_stands(mapped: Project, tmp_path: Path) -> None:
    fresh = overview(write_shore(tmp_path / "new", scenes=[scene("A", DATE)]))
    assert (fresh.due, fresh.failures, fresh.last_map) == (["export (never run)"], [], None)

    copy = tmp_path / "mapped"
    shutil.copytree(mapped.root, copy, copy_function=shutil.copy2)
    project = load_project(copy)
    report = of(project, AUTUMN)
    stands = overview(project)
    assert stands.due == []
    assert stands.last_map == report.map_id
    assert (stands.map_date, stands.newest_label) == (dt.date.fromisoformat(AUTUMN), dt.date.fromisoformat(DATE))
    assert (stands.drift, stands.drifted) == (report.sentence, True)

    labels = copy / "labels" / "shore.geojson"
    labels.write_text(labels.read_text().replace('"land"', '"water"', 1))
    assert overview(project).due == ["export (labels/shore.geojson changed)"]
    labels.write_text(labels.read_text().replace('"water"', '"land"', 1))
    changed = ask(project, DATE, training={"epochs": 4})
    assert overview(changed).due == ["finetune (training changed in project.yaml)"]
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=40)
    aged = ask(project, DATE, training={"epochs": 3}, monitoring={"max_map_age": 365, "max_model_age": 400},
               retraining={"cron": "0 4 1 * *"})  # fmt: skip
    assert [due.partition(" (")[0] for due in overview(aged, later).due] == [
        "a newer map",
        "newer labels",
        "retraining",
    ]
    (copy / ".olmoearth" / "work" / "finetune-abc").mkdir(parents=True)
    [failure] = overview(aged).failures
    assert failure.startswith("finetune: began and did not finish (")
