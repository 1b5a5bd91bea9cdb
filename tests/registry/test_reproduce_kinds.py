"""Maps of every kind made again bit for bit: measured values, several zones, by a champion that is not the latest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import smallrun
from madeagain import MIXED
from shapely.geometry import box
from smallmap import checksums, save_small_model, small_project, square, write_area
from zonemap import MERIDIAN, SOUTH, SPECKS, write_degrees, zone_project

from flows.champion import with_model
from flows.reproduce import reproduce
from olmoearth_core.manifest import MANIFEST
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.settings_edit import set_keys
from olmoearth_core.stage import StageResult, StageRun, run_stage
from olmoearth_core.store import write_json
from registry.audit.audit import audit
from registry.context import RunContext
from registry.mlflow.models import get_model
from registry.mlflow.promotions import promote, settle
from registry.registry import Registry, open_registry
from registry.reproduce.lay_out import Wish
from registry.workspace import Workspace

COVER = {"name": "cover", "kind": "regression", "unit": "%", "range": [20, 120]}


def _finetune(run: StageRun) -> dict[str, Any]:
    save_small_model(run.out, run.project, seed=run.project.config.training.seed)
    (run.out / MANIFEST).unlink()  # the runner's to write
    write_json(run.out / "metrics.json", {"chosen_by": "test", "test": {}})
    write_json(run.out / "history.json", [])
    return {}


STAGES = {**MIXED, "finetune": replace(smallrun.SMALL["finetune"], run=_finetune)}


def _record(project: Project, workspace: Workspace, registry: Registry, *names: str) -> StageResult:
    """Run stages as the door does, by the model that is to map, and tell MLflow and the registry."""
    for name in names:
        seen = with_model(project, name, workspace)
        result = replace(run_stage(STAGES[name], STAGES, seen, Silent()), skipped=False)
        registry.record(seen, result, RunContext.here(project))
    return result


def _values(folder: Path) -> Project:
    project = small_project(folder, area=square(10, 10, 90, 70), task=COVER)
    write_area(folder / "labels.geojson", square(8, 8, 40, 40), value=40, start_datetime="2024-05-01")
    return project


def _zones(folder: Path) -> Project:
    """Pixels of both zones in an area that is small, and specks that keep it from being one zone's."""
    project = zone_project(folder, tile_size=512)
    here = box(MERIDIAN - 0.03, SOUTH + 0.01, MERIDIAN + 0.03, SOUTH + 0.016)
    write_degrees(folder / "area.geojson", here, *SPECKS)
    write_degrees(folder / "labels.geojson", here)
    labels = (folder / "labels.geojson").read_text().replace('"oe_start_time"', '"class": "forest", "start_datetime"')
    (folder / "labels.geojson").write_text(labels)
    return project


def _again(workspace: Workspace, made: StageResult, into: Path) -> None:
    found = reproduce(str(made.folder.name), into, Wish(), "current", Silent())
    assert (found.verdict, found.reasons) == ("equal", []), (found.sentence, found.reasons)
    assert {one.outcome for one in (*found.tiles, *found.products)} == {"equal"}
    assert checksums(into / "made" / "map") == {n: o.sha256 for n, o in made.manifest.outputs.items()}


@pytest.mark.parametrize("make", [_values, _zones])
def test_it_comes_out_bit_for_bit_also_by_a_champion(
    make: Any, models_home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", models_home.tracking_uri)
    workspace, folder = Workspace.from_environment(), tmp_path / "again"
    project = make(tmp_path / "project")
    settings = project.root / "project.yaml"
    named = settings.read_text().replace("name: small\n", f"name: {make.__name__.strip('_')}\n")

    def set_to(seed: int, model: str) -> Project:
        text = set_keys(set_keys(named, "training", {"seed": seed}), "map", {"model": model})
        settings.write_text(text)
        return load_project(project.root)

    with open_registry(workspace) as registry:
        first = _record(set_to(3, "latest"), workspace, registry, *STAGES)
        settle(registry, first.manifest.summary["map_id"].rpartition("-")[0])
        _again(workspace, first, folder / "latest")
        if make is _zones:
            assert len([n for n in first.manifest.outputs if n.startswith("map_") and n.endswith(".tif")]) == 2
            return
        # a second model is trained and promoted, a third is the latest: the second maps
        name = load_project(project.root).config.name
        _record(set_to(5, "champion"), workspace, registry, "finetune")
        promote(registry, get_model(workspace, name, "2"), why="a test", gates={})
        _record(set_to(7, "champion"), workspace, registry, "finetune")
        second = _record(set_to(7, "champion"), workspace, registry, "infer", "postprocess")
        assert second.manifest.outputs["map.tif"].sha256 != first.manifest.outputs["map.tif"].sha256
        told = audit(workspace, str(second.folder / "map.tif"))
        assert told.model is not None
        assert told.model.version == "2"
        _again(workspace, second, folder / "champion")
