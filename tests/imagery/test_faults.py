"""An export from a STAC API on this machine that fails as real ones do comes out as if nothing had failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rasters import LEFT, TOP, StacScene, sentinel2_layers, write_catalogue
from stacsite import FAULTS, Site, serve

from olmoearth_core.errors import CatalogueError, TransientError
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.footprint import lonlat_outline
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project
from olmoearth_core.stage import StageResult, run_stage
from olmoearth_core.stages import STAGES

PROJECT = """
name: small
task: {{classes: [{{name: land, color: "#aaaaaa"}}, {{name: water, color: "#0000ff"}}]}}
labels: {{files: [labels.geojson]}}
imagery:
  catalogue: {catalogue}
  collections: [test]
  framing: {{kind: period, timesteps: 3, days: 30}}
  access: {{first_pause: 0.001, timeout: 0.3, connections: {connections}}}
dataset: {{}}
model: {{patch_size: 4, window_size: 16}}
training: {{}}
map: {{area: labels.geojson, date: 2024-05-01}}
"""
BANDS = ("B02", "B03", "B08", "B05", "B01", "SCL")


@pytest.fixture(scope="module")
def imagery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagery")
    days = [f"2024-{month:02}-{day:02}" for month in (5, 6, 7) for day in (3, 12, 21)]
    scenes = [StacScene(f"S{i}", day, sentinel2_layers(i, size=1920, bands=BANDS)) for i, day in enumerate(days)]
    write_catalogue(folder, scenes)
    return folder


def feature(left: float, bottom: float) -> dict[str, Any]:
    x, y = LEFT + left, TOP - 1920 + bottom
    ring = lonlat_outline(Grid("EPSG:32631").around((x, y, x + 40, y + 40)))
    properties = {"class": "water", "start_datetime": "2024-05-01"}
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def run_export(folder: Path, catalogue: str, connections: int = 8) -> StageResult:
    folder.mkdir(exist_ok=True)
    (folder / "project.yaml").write_text(PROJECT.format(catalogue=catalogue, connections=connections))
    labels = [feature(200, 100), feature(1700, 1500), feature(900, 900)]
    (folder / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": labels}))
    return run_stage(STAGES["export"], STAGES, load_project(folder), Silent())


def everything(result: StageResult) -> dict[str, bytes]:
    return {p.relative_to(result.folder).as_posix(): p.read_bytes() for p in result.folder.rglob("*.*")}


def pixels(result: StageResult) -> dict[str, bytes]:
    """All that an export leaves but its scene list, which names the server's port."""
    return {name: content for name, content in everything(result).items() if not name.endswith(".json")}


def test_a_tenth_of_the_requests_failing_changes_nothing(tmp_path: Path, imagery: Path) -> None:
    with serve(Site(imagery)) as site:
        whole = run_export(tmp_path / "whole", f"{site.url}/stac")
        calm = site.requests
        # the same address again, so that even the scene list is the same
        site.share = 0.1
        faulty = run_export(tmp_path / "faulty", f"{site.url}/stac")
    assert site.faults >= 2 * len(FAULTS)  # each kind more than once
    assert site.requests > 2 * calm
    assert (faulty.manifest.summary["scenes"], faulty.manifest.summary["failed_assets"]) == (9, [])
    assert everything(faulty) == everything(whole)


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_survived(tmp_path: Path, imagery: Path, kind: str) -> None:
    local = run_export(tmp_path / "local", str(imagery / "catalog.json"))
    with serve(Site(imagery, share=0.04, kinds=(kind,), seed=3)) as site:
        remote = run_export(tmp_path / "remote", f"{site.url}/stac")
    assert site.faults
    assert pixels(remote) == pixels(local)


def test_a_dead_asset_costs_its_observation_and_is_listed(tmp_path: Path, imagery: Path) -> None:
    with serve(Site(imagery, dead=frozenset({"S1/B08.tif", "S2/SCL.tif"}))) as site:
        result = run_export(tmp_path / "project", f"{site.url}/stac")
    failures = result.manifest.summary["failed_assets"]
    assert [(f["scene"], f["asset"]) for f in failures] == [("S1", "B08"), ("S2", "mask")]
    assert "B08.tif: there is no such file (HTTP status 404)" in failures[0]["reason"]
    assert result.manifest.summary["scenes"] == 8  # without its classification a scene shows its clouds


@pytest.mark.parametrize("kind", ["503", "stall", "cut", "short"])
def test_an_outage_is_told_and_what_was_copied_is_kept(tmp_path: Path, imagery: Path, kind: str) -> None:
    with serve(Site(imagery)) as site:
        catalogue = f"{site.url}/files/catalog.json"
        project = tmp_path / "project"
        site.kinds = (kind,)
        run_export(tmp_path / "other", catalogue)
        (project / "scenes").mkdir(parents=True)
        for path in (tmp_path / "other" / "scenes").glob("*.json"):
            (project / "scenes" / path.name).write_bytes(path.read_bytes())
        site.share = 1.0
        with pytest.raises(TransientError, match=r"cannot be read at the moment: .*\(5 attempts\).*same command"):
            run_export(project, catalogue)
        site.share = 0.0
        assert pixels(run_export(project, catalogue)) == pixels(run_export(tmp_path / "other", catalogue))


def test_a_host_is_not_asked_for_more_at_once_than_it_may(tmp_path: Path, imagery: Path) -> None:
    with serve(Site(imagery)) as site:
        run_export(tmp_path / "project", f"{site.url}/files/catalog.json", connections=2)
    assert 1 <= site.most_at_once <= 2


def test_no_server_is_told_in_a_sentence_and_soon(tmp_path: Path, imagery: Path) -> None:
    with serve(Site(imagery)) as site:
        pass
    with pytest.raises(CatalogueError, match=r"/stac: cannot be reached: 127\.0\.0\.1:\d+ does not answer .*online\?"):
        run_export(tmp_path / "project", f"{site.url}/stac")
