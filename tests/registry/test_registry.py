"""Recording: every stage's result becomes the rows it should, once, on SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import smallrun
from sqlalchemy import func, select, text

from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult
from registry.assessing import record_assessment
from registry.chain.verify_chain import check_rows, read_chain
from registry.context import RunContext
from registry.errors import DatabaseError
from registry.mlflow.models import ModelVersion, list_models
from registry.registry import Registry, open_registry
from registry.tables import schema
from registry.versioning.dvc_store import content_hash
from registry.workspace import Workspace

TABLES = ("projects", "runs", "dataset_versions", "model_versions", "maps", "scenes", "tiles", "products")
BESIDE = ("label_sets", "label_files", "scene_assets", "base_encoders", "evaluations")
LINKS = ("dataset_scenes", "map_scenes")


@pytest.fixture
def registry(models_home: Workspace, database_url: str) -> Iterator[Registry]:
    """An empty registry; MLflow is shared by all tests."""
    with open_registry(replace(models_home, registry_url=database_url)) as opened:
        yield opened


@pytest.fixture
def computed(results: dict[str, StageResult]) -> dict[str, StageResult]:
    """The results as the run that computed them gave them."""
    return {name: replace(result, skipped=False) for name, result in results.items()}


def counts(registry: Registry) -> dict[str, int]:
    """Rows by table."""
    with registry.database.engine.connect() as connection:
        return {
            name: connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in (*TABLES, *BESIDE, *LINKS)
        }


def record_all(
    registry: Registry, project: Project, results: dict[str, StageResult], model: ModelVersion
) -> dict[str, schema.Run]:
    """Tell the registry of every stage, as the door does."""
    runs = {}
    for name, result in results.items():
        context = RunContext.here(project)
        runs[name] = registry.record(project, result, context, model=model if name == "finetune" else None)
    return runs


FULL = {
    "projects": 1,
    "runs": 5,
    "dataset_versions": 1,
    "model_versions": 1,
    "maps": 1,
    "scenes": 2,
    "tiles": 2,
    "products": 3,
    "label_sets": 1,
    "label_files": 1,
    "scene_assets": 10,
    "base_encoders": 1,
    "evaluations": 1,
    "dataset_scenes": 2,
    "map_scenes": 2,
}


def test_a_lifecycle_becomes_rows(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion
) -> None:
    runs = record_all(registry, project, computed, registered)
    assert counts(registry) == FULL

    (dataset,) = registry.datasets("small")
    assert dataset.digest == computed["preprocess"].manifest.outputs_digest
    assert dataset.dvc_hash == content_hash(computed["preprocess"].folder)
    (model,) = registry.models("small")
    assert (model.mlflow_name, model.mlflow_version) == ("small", "1")
    assert model.weights_sha256 == registered.weights_sha256
    assert model.base["source"] == "random"
    assert model.metrics["test"]["miou"] == 0.5
    assert model.dataset is not None
    assert model.dataset.digest == dataset.digest
    (made,) = registry.maps("small")
    assert made.name == computed["postprocess"].folder.name
    assert made.date.isoformat() == "2024-05-01"
    assert made.model is not None
    assert made.model.digest == model.digest
    assert {p.name: p.sha256 for p in made.products} == {
        name: output.sha256 for name, output in computed["postprocess"].manifest.outputs.items()
    }
    run = runs["finetune"]
    assert run.status == "computed"
    assert run.device_seconds == 1.5
    assert run.started is not None
    assert run.finished is not None
    assert run.started < run.finished
    assert runs["export"].bytes_read == 1000
    assert run.code_commit is not None
    assert registry.models("nobody") == []
    with registry.database.read() as session:
        scenes = list(session.scalars(select(schema.Scene).order_by(schema.Scene.name)))
    assert [(s.name, s.modality, s.cloud_cover) for s in scenes] == [
        ("A", "sentinel2_l2a", 5),
        ("B", "sentinel2_l2a", 8),
    ]
    assert {s.catalogue for s in scenes} == {str(project.root / "imagery" / "catalog.json")}


def test_telling_twice_leaves_one_row(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion
) -> None:
    contexts = {name: RunContext.here(project) for name in computed}
    runs = [
        {
            name: registry.record(project, result, contexts[name], model=registered).id
            for name, result in computed.items()
        }
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert counts(registry) == FULL


def test_a_skipped_stage_adds_nothing(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion
) -> None:
    record_all(registry, project, computed, registered)
    record_all(registry, project, {name: replace(r, skipped=True) for name, r in computed.items()}, registered)
    assert counts(registry) == FULL
    assert {run.status for run in registry.runs("small")} == {"computed"}


def test_a_model_that_mlflow_lost_is_registered_again(
    registry: Registry, project: Project, computed: dict[str, StageResult], tmp_path: Path
) -> None:
    workspace = replace(registry.workspace, home=tmp_path, tracking_uri=f"sqlite:///{tmp_path / 'lost.db'}")
    again = Registry(workspace, registry.database)
    for result in computed.values():
        again.record(project, result, RunContext.here(project))
    before = counts(registry)
    elsewhere = replace(workspace, tracking_uri=f"sqlite:///{tmp_path / 'new.db'}")
    assert list_models(elsewhere) == []
    found = replace(computed["finetune"], skipped=True)
    Registry(elsewhere, registry.database).record(project, found, RunContext.here(project))
    (model,) = list_models(elsewhere)
    assert (model.version, model.aliases) == ("1", ("champion",))
    assert counts(registry) == before
    assert registry.models()[0].mlflow_version == "1"


def test_what_was_made_before_is_found(
    registry: Registry, project: Project, results: dict[str, StageResult], registered: ModelVersion
) -> None:
    """Told of the map alone, the registry takes down all that led to it."""
    registry.record(project, results["postprocess"], RunContext.here(project))
    assert counts(registry) == FULL
    for run in registry.runs("small"):
        assert (run.status, run.started, run.invocation) == ("found", None, "")
        assert (run.code_commit, run.environment_sha256, run.who, run.host) == (None,) * 4, "others may have made it"
        assert run.wall_seconds is not None, "what it cost lies in the project"
    (made,) = registry.maps()
    assert made.model is not None
    assert made.model.mlflow_version == "1"


def test_computing_again_is_a_second_run(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion
) -> None:
    record_all(registry, project, computed, registered)
    shutil.rmtree(computed["infer"].folder)
    again = smallrun.run(project, "infer")["infer"]
    assert not again.skipped
    registry.record(project, again, RunContext.here(project))
    assert counts(registry) == {**FULL, "runs": 6}


def test_two_processes_tell_the_same(
    registry: Registry, project: Project, results: dict[str, StageResult], registered: ModelVersion
) -> None:
    registry.record(project, results["finetune"], RunContext.here(project), model=registered)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from olmoearth_core.project import load_project\n"
        "from registry.context import RunContext\n"
        "from registry.outputs import find_output\n"
        "from registry.registry import found_result, open_registry\n"
        "from registry.workspace import Workspace\n"
        "folder, home, url, digest = sys.argv[1:]\n"
        "project, workspace = load_project(Path(folder)), Workspace.at(Path(home), registry_url=url)\n"
        "result = found_result(project, find_output(project.root, 'postprocess', digest))\n"
        "with open_registry(workspace) as registry:\n"
        "    registry.record(project, result, RunContext.here(project))\n"
    )
    url = registry.workspace.registry_url
    digest = results["postprocess"].manifest.outputs_digest
    command = [sys.executable, "-c", code, str(project.root), str(registry.workspace.home), url, digest]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert counts(registry) == FULL


def test_a_fault_halfway_leaves_no_half_lineage(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion
) -> None:
    """The table of tiles is gone when the map is written: then neither the map nor its run is there."""
    before = {name: result for name, result in computed.items() if name != "postprocess"}
    record_all(registry, project, before, registered)
    with registry.database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE tiles RENAME TO elsewhere"))
    with pytest.raises(DatabaseError, match="tiles"):
        registry.record(project, computed["postprocess"], RunContext.here(project))
    with registry.database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO tiles"))
    assert counts(registry) == {**FULL, "runs": 4, "maps": 0, "tiles": 0, "products": 0, "map_scenes": 0}
    registry.record(project, computed["postprocess"], RunContext.here(project))
    assert counts(registry) == FULL


def test_ten_thousand_tiles_are_one_statement_after_another(registry: Registry) -> None:
    """More rows than a statement takes parameters."""
    from datetime import UTC, datetime

    from registry.tables.database import add_missing

    now = datetime.now(UTC)
    scenes: list[dict[str, Any]] = [
        {"catalogue": "c", "modality": "sentinel2_l2a", "name": f"s{k}", "acquired": now, "cloud_cover": None}
        for k in range(10_000)
    ]
    with registry.database.write() as session:
        add_missing(session, schema.Scene, scenes)
        add_missing(session, schema.Scene, scenes[:20])
        assert session.scalar(select(func.count()).select_from(schema.Scene)) == 10_000


def test_a_project_that_moved_is_the_same(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion
) -> None:
    record_all(registry, project, computed, registered)
    moved = load_project(Path(shutil.move(project.root, project.root.parent / "moved")))
    record_all(registry, moved, smallrun.run(moved), registered)
    assert counts(registry) == FULL


def test_an_assessment_belongs_to_the_map_that_was_sampled(
    registry: Registry, project: Project, computed: dict[str, StageResult], registered: ModelVersion, tmp_path: Path
) -> None:
    (tmp_path / "sample.json").write_text("{}")
    (tmp_path / "sample.csv").write_text("id,reference\n1,forest\n")
    map_file = computed["postprocess"].manifest.outputs["map.tif"].sha256
    estimates: dict[str, Any] = {"map_id": "m", "design": {"units": 1}, "rasters": [{"sha256": map_file}]}
    tell = (registry.workspace, tmp_path, tmp_path / "sample.csv", estimates)
    assert record_assessment(*tell) is None, "nobody told of the map yet"
    record_all(registry, project, computed, registered)
    assert [record_assessment(*tell) for _ in range(2)] == [computed["postprocess"].folder.name] * 2
    with registry.database.read() as session:
        (found,) = session.scalars(select(schema.Assessment))
        assert (found.units, found.estimates) == (1, estimates)
        assert check_rows(session, read_chain(session)).status == "ok"
    nobody = Workspace.at(tmp_path / "nobody")
    assert record_assessment(nobody, *tell[1:]) is None
    assert not nobody.home.exists(), "none is made to say no"
