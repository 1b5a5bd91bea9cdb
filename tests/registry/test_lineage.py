"""Lineage both ways, from anything: what a thing is, what made it, what was made from it; as text, page and PROV."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rasterio
import smallrun
from house import House, bad, changed_rows, gone
from rasterio.windows import Window
from typer.testing import CliRunner

from flows.cli.app import app
from olmoearth_core.digest import sha256_file
from registry.audit.audit import audit, lineage
from registry.audit.graph import lineage_graph, svg
from registry.audit.prov import prov_document
from registry.audit.report import AuditReport
from registry.audit.report_html import page
from registry.context import RunContext
from registry.registry import open_registry
from registry.tables import schema
from registry.tables.database import add_missing
from registry.workspace import Workspace


def digest(house: House, stage: str) -> str:
    return house.results[stage].manifest.outputs_digest


def dvc_hash(house: House) -> str:
    with open_registry(house.workspace) as registry:
        (dataset,) = registry.datasets("small")
    return str(dataset.dvc_hash)


WAYS: dict[str, tuple[Callable[[House], str | Path], str, str]] = {
    "map id": (lambda h: h.map.parent.name, "map", "name"),
    "folder of a map": (lambda h: h.map.parent, "map", "checksum"),
    "table of areas": (lambda h: h.map.with_name("areas.csv"), "map", "checksum"),
    "sha256 of a product": (lambda h: sha256_file(h.map), "map", "name"),
    "tile": (lambda h: h.results["infer"].folder / "1_0.tif", "map", "checksum"),
    "folder of tiles": (lambda h: h.results["infer"].folder, "map", "checksum"),
    "model": (lambda _: "small/1", "model", "name"),
    "model, as MLflow names it": (lambda _: "models:/small/1", "model", "name"),
    "model by alias": (lambda _: "small@champion", "model", "name"),
    "weights": (lambda h: h.results["finetune"].folder / "weights.safetensors", "model", "checksum"),
    "model card": (lambda h: h.results["finetune"].folder / "card.json", "model", "checksum"),
    "folder of a model": (lambda h: h.results["finetune"].folder, "model", "checksum"),
    "MLflow's folder": (lambda h: Path(h.model.source), "model", "checksum"),
    "beginning of a dataset's digest": (lambda h: digest(h, "preprocess")[:12], "dataset", "name"),
    "DVC's hash": (dvc_hash, "dataset", "name"),
    "folder of a dataset": (lambda h: h.results["preprocess"].folder, "dataset", "checksum"),
    "folder of an export": (lambda h: h.results["export"].folder, "dataset", "checksum"),
    "labels": (lambda h: h.project.root / "labels" / "forest.geojson", "labels", "checksum"),
    "labels by name": (lambda _: "labels/forest.geojson", "labels", "name"),
    "scene": (lambda _: "A", "scene", "name"),
    "base encoder": (lambda _: "v1.1-nano", "encoder", "name"),
}


@pytest.mark.parametrize("way", WAYS)
def test_entry_by_anything(house: House, way: str) -> None:
    thing, kind, found_by = WAYS[way]
    report = lineage(house.workspace, thing(house))
    assert report.subject is not None, report.sentence
    assert (report.subject.kind, report.subject.found_by) == (kind, found_by)
    assert report.verdict == "recorded"
    assert report.touched is not None
    maps = [line.id for line in report.touched.maps]
    assert maps == ([] if kind == "map" else [house.map.parent.name])
    if kind in ("map", "model", "dataset"):
        assert report.runs is not None
        assert report.runs[-1].stage == "export"
        assert report.dataset is not None


@pytest.mark.parametrize(
    "way", ["tile", "model", "folder of a model", "MLflow's folder", "DVC's hash", "labels", "scene"]
)
def test_an_audit_verifies_what_made_the_thing(house: House, way: str) -> None:
    thing, kind, _ = WAYS[way]
    report = audit(house.workspace, thing(house))
    assert bad(report) == {}
    made_by_us = kind not in ("labels", "scene")
    assert report.verdict == ("verified" if made_by_us else "recorded")
    checked = {check.what for check in report.checks}
    assert ("dataset" in checked) == made_by_us
    assert ("model version (MLflow)" in checked) == (kind in ("map", "model"))


def test_a_copy_of_a_model_folder_is_verified_where_it_lies(house: House, tmp_path: Path) -> None:
    copy = shutil.copytree(house.results["finetune"].folder, tmp_path / "given away")
    with gone(house.results["finetune"].folder):
        assert audit(house.workspace, copy).verified
        (copy / "metrics.json").write_text("{}")
        report = audit(house.workspace, copy)
    assert bad(report) == {"model files": "differs"}


def test_a_scene_that_was_withdrawn(house: House) -> None:
    """It was learned from and mapped: dataset, model and map are touched, the map by what it shows."""
    report = lineage(house.workspace, "B")
    assert report.scenes is not None
    assert {asset.name for asset in report.scenes[0].assets} >= {"B02", "B03", "B04", "B08"}
    touched = report.touched
    assert touched is not None
    assert [line.digest for line in touched.datasets] == [digest(house, "preprocess")]
    assert [(line.name, line.version) for line in touched.models] == [("small", "1")]
    assert [(line.id, line.model, line.through) for line in touched.maps] == [
        (house.map.parent.name, "small/1", "imagery")
    ]


def test_labels_reach_every_map_made_with_them(house: House, tmp_path: Path) -> None:
    """Two projects read the same file."""
    project = smallrun.small_project(tmp_path / "second", name="second")
    results = smallrun.run(project)
    with changed_rows(house, "SELECT 1"):
        with open_registry(house.workspace) as registry:
            registry.record(project, results["postprocess"], RunContext.here(project))
        report = lineage(house.workspace, project.root / "labels" / "forest.geojson")
        assert report.labels is not None
        assert {file.project for file in report.labels} == {"small", "second"}
        assert report.touched is not None
        assert {line.project for line in report.touched.maps} == {"small", "second"}
        assert {line.through for line in report.touched.maps} == {"model"}
        assert audit(house.workspace, results["postprocess"].folder / "map.tif").verified
    from mlflow import MlflowClient

    MlflowClient(house.workspace.tracking_uri, house.workspace.tracking_uri).delete_registered_model("second")


def test_a_stac_item_is_known_by_what_it_says(house: House, tmp_path: Path) -> None:
    """Published elsewhere it has other links and so other bytes: that it is unchanged cannot be said."""
    tags = rasterio.open(house.map).tags()
    properties = {f"olmoearth:{name}": tags[f"OLMOEARTH_{name.upper()}"] for name in ("project", "provenance", "model")}
    item = {"type": "Feature", "stac_version": "1.1.0", "id": house.map.parent.name, "properties": properties}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    report = lineage(house.workspace, path)
    assert report.map is not None
    assert report.map.id == house.map.parent.name
    assert bad(report) == {"this file": "differs"}
    path.write_text(json.dumps({**item, "properties": {**properties, "olmoearth:model": "0" * 64}}))
    assert bad(lineage(house.workspace, path)) == {"this file": "differs", "tags": "differs"}
    path.write_text(json.dumps({**item, "id": "another"}))
    report = lineage(house.workspace, path)
    assert report.verdict == "unknown"
    assert "says that it is the map another" in report.sentence


def cut(source: Path, target: Path, window: Window, change: Callable[[Any], None] = lambda _: None) -> Path:
    """A piece of a raster with the tags of the whole."""
    with rasterio.open(source) as raster:
        pixels, tags, transform = raster.read(window=window), raster.tags(), raster.window_transform(window)
        profile = {**raster.profile, "width": window.width, "height": window.height, "transform": transform}
    change(pixels)
    with rasterio.open(target, "w", **profile) as piece:
        piece.write(pixels)
        piece.update_tags(**tags)
    return target


def spoil(pixels: Any) -> None:
    pixels[0, 2, 2] = (pixels[0, 2, 2] + 1) % 3


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_piece_that_was_cut_out(house: House, tmp_path: Path) -> None:
    piece = cut(house.map, tmp_path / "piece.tif", Window(10, 4, 20, 12))
    report = audit(house.workspace, piece)
    assert report.verified, report.sentence
    assert report.checks[0].detail.startswith("a piece of map.tif")
    assert "columns 10 to 29, rows 4 to 15" in report.checks[0].detail
    edited = audit(house.workspace, cut(house.map, tmp_path / "edited.tif", Window(10, 4, 20, 12), spoil))
    assert bad(edited) == {"this file": "differs"}
    elsewhere = cut(house.map, tmp_path / "moved.tif", Window(10, 4, 20, 12))
    with rasterio.open(elsewhere, "r+") as raster:
        raster.transform = rasterio.Affine(10, 0, raster.transform.c + 10, 0, -10, raster.transform.f)
    assert bad(audit(house.workspace, elsewhere)) == {"this file": "differs"}
    with gone(house.map.parent.parent):  # nothing to compare it with: neither believed nor called forged
        report = audit(house.workspace, piece)
    assert bad(report)["this file"] == "missing"
    assert report.verdict == "incomplete"


@pytest.mark.parametrize(
    "thing", ["nowhere/map.tif", "small/99", "other@champion", "0123456789abcdef", "", "a ' OR 1=1 --"]
)
def test_a_name_that_nobody_knows(house: House, thing: str) -> None:
    for look in (lineage, audit):
        report = look(house.workspace, thing)
        assert (report.verdict, report.checks, report.subject) == ("unknown", [], None)
        assert report.sentence.startswith(f"{thing}: no such file, and the registry of this workspace")


def test_a_folder_of_something_else(house: House, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a browser extension"}')
    report = audit(house.workspace, tmp_path)
    assert report.verdict == "unknown"
    assert "a folder, but no map, tiles, model, dataset or export" in report.sentence


def test_a_map_of_another_workspace(house: House, tmp_path: Path) -> None:
    report = audit(Workspace.at(tmp_path / "home"), house.map)
    assert report.verdict == "unknown"
    assert "is of another workspace" in report.sentence


def test_without_any_file_the_lineage_is_told_and_nothing_is_verified(house: House, tmp_path: Path) -> None:
    """Another machine: the registry, one file, and neither project nor MLflow."""
    copy = Path(shutil.copy(house.map, tmp_path / "published.tif"))
    alone = Workspace.at(tmp_path / "home", registry_url=house.workspace.registry_url)
    with gone(house.project.root):
        report = audit(alone, copy)
    assert report.verdict == "incomplete"
    assert set(bad(report)) == {
        *("products", "tiles", "model files", "dataset", "export", "model version (MLflow)"),
        *(f"inputs of {stage}" for stage in ("export", "preprocess", "infer", "postprocess")),
    }
    assert report.map is not None
    assert report.model is not None
    assert report.dataset is not None
    assert len(report.runs or []) == 5
    assert not (tmp_path / "home").exists(), "an audit leaves no empty MLflow behind"


def test_aliases_that_moved_behind_the_registry(house: House) -> None:
    """The map stays what it was made from: it is a note beside the verdict."""
    row: dict[str, Any] = {"request": "r", "project_id": 1, "model_id": 1, "action": "promote", "alias": "champion"}
    row |= {"who": "me", "why": "best so far", "gates": {}, "intended": datetime(2026, 1, 1, tzinfo=UTC)}

    def after(version: str, state: str) -> AuditReport:
        with changed_rows(house, "SELECT 1"):
            with open_registry(house.workspace) as registry, registry.database.write() as session:
                add_missing(session, schema.Promotion, [{**row, "to_version": version, "state": state}])
            return house.audit()

    agreed = after("1", "confirmed")
    assert bad(agreed) == {}
    assert "aliases (MLflow)" in {check.what for check in agreed.checks}
    assert agreed.model is not None
    assert [(one.who, one.why) for one in agreed.model.promotions] == [("me", "best so far")]
    moved = after("2", "confirmed")
    assert bad(moved) == {"aliases (MLflow)": "changed"}
    assert moved.verified
    (problem,) = next(check.problems for check in moved.checks if check.what == "aliases (MLflow)")
    assert problem.startswith("champion: MLflow says version 1; me meant version 2")
    assert "nobody confirmed it" in str(after("1", "intended").checks)
    assert "aliases (MLflow)" not in {check.what for check in after("2", "failed").checks}


def test_a_promotion_that_nobody_made(house: House) -> None:
    columns = "request, project_id, model_id, action, alias, to_version, who, why, gates, state, intended"
    values = "'r', 1, 1, 'promote', 'champion', '1', 'the board', 'it is best', '{}', 'confirmed', '2026-01-01'"
    with changed_rows(house, f"INSERT INTO promotions ({columns}) VALUES ({values})"):
        report = house.audit()
    assert bad(report) == {"rows against their events": "differs"}
    assert "promotions 1: no event wrote this row" in str(report.checks)


def test_what_dvc_lost_is_told_while_the_folder_still_has_it(house: House) -> None:
    with gone(house.project.root / ".dvc" / "cache"):
        report = house.audit()
    assert bad(report) == {"dataset (DVC)": "changed", "export (DVC)": "changed"}
    assert report.verified
    assert "holds" in next(check.detail for check in report.checks if check.what == "dataset (DVC)")


def test_prov_is_read_by_others(house: House) -> None:
    """By the reference implementation of W3C PROV, and every name that a relation speaks of is declared."""
    from prov.model import ProvActivity, ProvAgent, ProvDocument, ProvEntity, ProvRelation

    for thing in (house.map.parent.name, "small/1", "A", "labels/forest.geojson", "v1.1-nano"):
        told = prov_document(lineage(house.workspace, thing))
        document = ProvDocument.deserialize(content=json.dumps(told), format="json")
        names = {str(r.identifier) for r in document.get_records((ProvEntity, ProvActivity, ProvAgent))}
        relations = document.get_records(ProvRelation)
        assert relations
        for relation in relations:
            for role, value in relation.formal_attributes:
                if value is not None and role.localpart not in ("time", "starttime", "endtime"):
                    assert str(value) in names, (relation, role)
        again = ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
        assert again == document
    whole = prov_document(lineage(house.workspace, house.map.parent.name))
    assert len(whole["activity"]) == 5
    kinds = [re.compile(r"olmoearth:([a-z]+)-"), re.compile(r"olmoearth:run-([a-z]+)-")]
    used = {
        " ".join(kind.findall(one[f"prov:{end}"])[0] for kind, end in zip(kinds, ("entity", "activity"), strict=True))
        for one in whole["used"].values()
    }
    read = {"labels export", "scene export", "export preprocess", "labels preprocess", "dataset finetune"}
    assert used == read | {"encoder finetune", "model infer", "scene infer", "tiles postprocess"}


def test_the_page_needs_nothing_from_outside(house: House) -> None:
    report = house.audit()
    html = page(report, when=datetime(2026, 1, 2, tzinfo=UTC), by="0.1.0", registry="postgresql://me:***@host/db")
    assert "<script" not in html
    assert not re.search(r"(src|href)=[\"']?(?!data:)", html)
    assert not re.search(r"url\((?!data:)", html)
    for expected in ("Verified", house.map.parent.name, "Scores", "overall accuracy"):
        assert expected in html
    for check in report.checks:
        assert check.what in html
    drawing = html[html.index("<svg") : html.index("</svg>") + 6]
    ET.fromstring(drawing)


def test_what_a_page_shows_cannot_run(house: House, tmp_path: Path) -> None:
    """A file's name and what a file says of itself are other people's."""
    path = Path(shutil.copy(house.map, tmp_path / "<script>alert(1)<.tif"))
    html = page(house.audit(path), when=datetime.now(UTC), by="0", registry="<b>")
    assert "<script" not in html
    assert "<b>" not in html


def test_the_drawing_counts_what_it_cannot_show(house: House) -> None:
    from dataclasses import replace

    report = lineage(house.workspace, "A")
    assert report.touched is not None
    maps = [replace(report.touched.maps[0], id=f"map-{k}") for k in range(40)]
    graph = lineage_graph(replace(report, touched=replace(report.touched, maps=maps)))
    assert [node.title for node in graph.columns[-1]][-1] == "and 34 maps"
    assert len(graph.columns[-1]) == 7
    ET.fromstring(svg(graph))


def run(house: House, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str]:
    monkeypatch.setenv("OLMOEARTH_HOME", str(house.workspace.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", house.workspace.tracking_uri)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout


def test_the_commands(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, said = run(house, monkeypatch, "lineage", "A")
    assert code == 0
    assert said.startswith("RECORDED")
    assert "1 map(s) made from it" in said
    assert house.map.parent.name in said
    files = ("--html", tmp_path / "a.html", "--prov", tmp_path / "a.json")
    code, said = run(house, monkeypatch, "audit", house.map, *files)
    assert code == 0
    assert said.startswith("VERIFIED")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "a.json").read_text())["activity"]
    code, said = run(house, monkeypatch, "audit", house.map, "--verify")
    assert code == 0
    assert "chain of events: " in said
    code, said = run(house, monkeypatch, "audit", "A", "--json")
    assert code == 1, "nothing was verified"
    assert json.loads(said)["verdict"] == "recorded"
    code, said = run(house, monkeypatch, "lineage", "nothing.tif", "--json")
    assert code == 1
    assert json.loads(said)["verdict"] == "unknown"
