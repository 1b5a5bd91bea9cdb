"""One test for each way to tamper: `olmoearth audit --verify` finds it, names it, and says that nothing is verified."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import rasterio
from house import House, bad, build, changed_rows, flipped_bit, gone
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from registry.audit.audit import audit
from registry.audit.report import AuditReport
from registry.mlflow.models import ModelVersion
from registry.registry import open_registry
from registry.workspace import Workspace

EVENTS, ROWS, ANCHORS = "chain of events", "rows against their events", "anchors of the chain"


@pytest.fixture(scope="module")
def anchored(
    finished: Path, models_home: Workspace, registered: ModelVersion, tmp_path_factory: pytest.TempPathFactory
) -> House:
    """A map that left the house with the head of the chain; tests put back what they change."""
    house = build(tmp_path_factory.mktemp("anchored"), finished, models_home, registered)
    with open_registry(house.workspace) as registry:
        registry.anchor(house.project, house.results["postprocess"])
    return house


def verify(house: House, path: Path | None = None) -> AuditReport:
    """`olmoearth audit --verify`."""
    return audit(house.workspace, path or house.map, imagery=True, whole_registry=True)


def named(report: AuditReport, what: str) -> str:
    """All that is said of a check."""
    return " ".join(problem for check in report.checks if check.what == what for problem in check.problems)


def test_what_nobody_touched_is_verified(anchored: House) -> None:
    report = verify(anchored)
    assert (bad(report), report.verified) == ({}, True)
    assert {EVENTS, ROWS, ANCHORS, "provenance statement"} <= {check.what for check in report.checks}


def test_a_flipped_bit_in_a_tile(anchored: House) -> None:
    with flipped_bit(anchored.results["infer"].folder / "1_0.tif"):
        report = verify(anchored)
    assert bad(report) == {"tiles": "differs"}
    assert named(report, "tiles") == "1_0.tif: content differs from its checksum"


def test_a_cog_edited_in_place(anchored: House) -> None:
    before = anchored.map.read_bytes()
    try:
        with rasterio.open(anchored.map, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
            pixels = raster.read()
            pixels[0, 0, 0] = (pixels[0, 0, 0] + 1) % 3
            raster.write(pixels)
        report = verify(anchored)
    finally:
        anchored.map.write_bytes(before)
    assert {"this file", "products"} <= set(bad(report))
    assert "map.tif: content differs" in named(report, "products")
    assert not report.verified


def test_weights_swapped_in_the_artifact_store(anchored: House) -> None:
    (weights,) = Path(anchored.model.source).glob("artifacts/*/weights.safetensors")
    with flipped_bit(weights):
        report = verify(anchored)
    assert bad(report) == {"model version (MLflow)": "differs"}
    assert "weights.safetensors" in named(report, "model version (MLflow)")


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE evaluations SET scores = '{\"miou\": 0.99}'", "evaluations 1: the row is not as"),
        ("UPDATE base_encoders SET licence = 'free'", "base_encoders 1: the row is not as"),
        ("UPDATE runs SET who = 'somebody else' WHERE stage = 'finetune'", "runs 3: the row is not as"),
        ("UPDATE scene_assets SET href = 'x' WHERE name = 'B02' AND scene_id = 1", "scene_assets 1/B02/"),
        ("UPDATE tiles SET bytes = 1 WHERE name = '0_0.tif'", "tiles 1/0_0.tif: the row is not as event"),
        ("DELETE FROM tiles WHERE name = '0_0.tif'", "tiles 1/0_0.tif: the row is gone; event"),
        ("DELETE FROM evaluations", "evaluations 1: the row is gone"),
        ("DELETE FROM label_files", "label_files 1/labels/forest.geojson: the row is gone"),
        ("INSERT INTO projects (name, created) VALUES ('new', '2026-01-01')", "projects 2: no event wrote this row"),
    ],
)
def test_a_row_changed_by_sql(anchored: House, statement: str, row: str) -> None:
    with changed_rows(anchored, statement):
        report = verify(anchored)
    assert bad(report)[ROWS] == "differs"
    assert row in named(report, ROWS)
    assert not report.verified


def test_an_event_removed_from_the_middle(anchored: House) -> None:
    with changed_rows(anchored, "DELETE FROM events WHERE position = 2"):
        report = verify(anchored)
    assert bad(report)[EVENTS] == "differs"
    assert "event 2 was removed" in named(report, EVENTS)
    assert not report.verified


def test_an_event_removed_from_the_end_before_the_last_anchor(anchored: House) -> None:
    """Together with all it wrote, and the head set back: only what left the house knows of it."""
    engine = create_engine(anchored.workspace.registry_url)
    with engine.connect() as connection:
        cut, wrote = connection.execute(
            text("SELECT position, id FROM events WHERE body LIKE '%\"map\"%'")
        ).first() or (0, 0)
    engine.dispose()
    rows = [
        f"DELETE FROM {table} WHERE event = {wrote}" for table in ("map_scenes", "tiles", "products", "maps", "runs")
    ]
    head = f"UPDATE chains SET position = {cut - 1}, hash = (SELECT hash FROM events WHERE position = {cut - 1})"
    with ExitStack() as harm:
        for statement in ("DELETE FROM anchors", *rows, f"DELETE FROM events WHERE position >= {cut}", head):
            harm.enter_context(changed_rows(anchored, statement))
        report = verify(anchored)
        (weights,) = anchored.results["finetune"].folder.glob("weights.safetensors")
        of_the_model = verify(anchored, weights)
    assert report.verdict == "unknown", "nobody knows the map any more"
    assert bad(of_the_model)[ANCHORS] == "differs"
    assert f"event {cut}, of the map {anchored.map.parent.name}, was in the chain" in named(of_the_model, ANCHORS)
    assert not of_the_model.verified
    assert verify(anchored).verified


def test_labels_changed_under_the_same_name(anchored: House) -> None:
    labels = anchored.project.root / "labels" / "forest.geojson"
    with flipped_bit(labels):
        report = verify(anchored)
        of_the_labels = verify(anchored, labels)
    assert named(report, "inputs of preprocess") == "labels/forest.geojson: changed since"
    assert "labels/forest.geojson: changed since" in report.sentence
    assert not of_the_labels.verified


def test_imagery_that_is_another_now_is_told_and_the_map_stays_what_it_is(anchored: House) -> None:
    band = anchored.project.root / "imagery" / "A" / "B03.tif"
    assert [check.status for check in verify(anchored).checks if check.what == "imagery"] == ["ok"]
    with flipped_bit(band):
        report = verify(anchored)
    assert bad(report) == {"imagery": "changed"}
    assert str(band) in named(report, "imagery")
    with gone(band):
        told = next(check.detail for check in verify(anchored).checks if check.what == "imagery")
    assert "1 are not here" in told
    away = band.parents[1].rename(band.parents[1].with_name("away"))
    try:
        report = verify(anchored)
    finally:
        away.rename(band.parents[1])
    assert bad(report)["imagery"] == "changed"
    assert "none of" in report.sentence


def test_tags_of_another_chain(anchored: House) -> None:
    sidecar = anchored.map.with_name("map.tif.aux.xml")
    before = sidecar.read_text()
    try:
        sidecar.write_text(before.replace('_HEAD">', '_HEAD">0'))
        report = verify(anchored)
    finally:
        sidecar.write_text(before)
    assert bad(report) == {"tags of the chain": "differs"}
    assert not report.verified


def test_the_command_line_names_it(anchored: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cli.app import app

    monkeypatch.setenv("OLMOEARTH_HOME", str(anchored.workspace.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", anchored.workspace.tracking_uri)
    done = CliRunner().invoke(app, ["audit", str(anchored.map), "--verify"])
    assert (done.exit_code, "VERIFIED" in done.output) == (0, True)
    several = CliRunner().invoke(app, ["audit", str(anchored.map), anchored.map.parent.name, "--verify", "--json"])
    assert several.exit_code == 0
    assert [[c["what"] for c in told["checks"]].count("imagery") for told in json.loads(several.stdout)] == [1, 1]
    with changed_rows(anchored, "UPDATE runs SET wall_seconds = 1 WHERE stage = 'infer'"):
        done = CliRunner().invoke(app, ["audit", str(anchored.map), "--verify"])
    assert done.exit_code == 1
    assert "\nNOT VERIFIED  " in done.output
    assert "runs 4: the row is not as event 4 (infer of small) wrote it" in done.output


def test_the_registry_alone(anchored: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing named; a head that was kept, and one that never was."""
    from flows.cli.app import app

    monkeypatch.setenv("OLMOEARTH_HOME", str(anchored.workspace.home))
    done = CliRunner().invoke(app, ["audit", "--verify", "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["verified"]) == (0, True)
    head = f"{told['head']['position']}:{told['head']['hash']}"
    done = CliRunner().invoke(app, ["audit", "--verify", "--head", head])
    assert (done.exit_code, head in done.output.replace("\n", "")) == (0, True)
    done = CliRunner().invoke(app, ["audit", "--verify", "--head", f"{told['head']['position']}:{'0' * 64}"])
    assert done.exit_code == 1
    assert "the head that was kept: event 6 was another when this was written" in done.output
    for wrong in (["audit"], ["audit", "--verify", "--head", "17"], ["audit", "map.tif", "--head", head]):
        assert CliRunner().invoke(app, wrong).exit_code == 2
