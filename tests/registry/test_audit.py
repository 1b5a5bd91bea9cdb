"""The audit: lineage from the file alone; every kind of tampering is found, nothing foreign is ever verified."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import smallrun
from house import House, bad, changed_rows, flipped_bit, gone

from olmoearth_core.digest import sha256_file
from olmoearth_core.project import load_project
from registry.audit.again import AGAIN
from registry.audit.audit import audit
from registry.context import RunContext
from registry.errors import AuditError
from registry.mlflow.models import ModelVersion, get_model, register_model
from registry.registry import open_registry
from registry.versioning.dvc_store import content_hash
from registry.workspace import Workspace


def test_an_untouched_map_is_verified(house: House) -> None:
    report = house.audit()
    assert bad(report) == {}
    assert report.verified
    assert report.found_by == "checksum"
    assert report.map is not None
    assert report.model is not None
    assert report.dataset is not None
    assert report.runs is not None
    assert report.map.id == house.map.parent.name
    assert [(scene.id, scene.acquired.date().isoformat()) for scene in report.map.scenes] == [
        ("A", "2024-05-11"),
        ("B", "2024-06-12"),
    ]
    assert report.map.tiles == 2
    assert (report.model.name, report.model.version, report.model.encoder) == ("small", "1", "v1.1-nano")
    assert report.model.base == "random weights, seed 0"
    assert report.dataset.dvc_hash == content_hash(house.results["preprocess"].folder)
    assert set(report.dataset.labels) == {"labels/forest.geojson"}
    assert [run.stage for run in report.runs] == ["postprocess", "infer", "finetune", "preprocess", "export"]
    assert report.runs[2].device_seconds == 1.5
    assert report.runs[0].code_commit is not None
    checked = {check.what for check in report.checks}
    assert {"this file", "tags", "lineage", "products", "tiles", "model files", "model version (MLflow)"} < checked
    assert {"dataset", "export", "registry: scenes"} < checked
    values = json.loads(json.dumps(report.to_json()))
    assert values["verified"] is True
    assert values["map"]["date"] == "2024-05-01"
    assert values["map"]["scenes"][0]["acquired"].startswith("2024-05-11T")


def test_a_copy_elsewhere_is_verified(house: House, tmp_path: Path) -> None:
    report = house.audit(Path(shutil.copy(house.map, tmp_path / "published.tif")))
    assert report.verified
    assert report.found_by == "checksum"


def test_another_product_is_verified(house: House) -> None:
    assert house.audit(house.map.with_name("areas.csv")).verified


def test_stripped_tags(house: House, tmp_path: Path) -> None:
    copy = tmp_path / "stripped.tif"
    with rasterio.open(house.map) as source:
        colours = source.colormap(1)
        with rasterio.open(copy, "w", **{**source.profile, "compress": "deflate"}) as target:
            target.write(source.read())
            target.write_colormap(1, colours)
    report = house.audit(copy)
    assert report.found_by == "pixels"
    assert report.verified
    assert "its tags were stripped" in report.checks[0].detail


def test_stripped_tags_and_one_other_pixel(house: House, tmp_path: Path) -> None:
    copy = tmp_path / "edited.tif"
    with rasterio.open(house.map) as source:
        colours, pixels = source.colormap(1), source.read()
        pixels[0, 3, 3] = 2 - pixels[0, 3, 3] // 2
        with rasterio.open(copy, "w", **source.profile) as target:
            target.write(pixels)
            target.write_colormap(1, colours)
    report = house.audit(copy)
    assert report.verdict == "unknown"
    assert report.map is None
    assert "neither its checksum nor its pixels" in report.sentence


def test_an_edited_map_keeps_its_tags(house: House, tmp_path: Path) -> None:
    copy = Path(shutil.copy(house.map, tmp_path / "map.tif"))
    with rasterio.open(copy, "r+") as raster:
        pixels = raster.read()
        pixels[0, 5, 5] = (pixels[0, 5, 5] + 1) % 3
        raster.write(pixels)
    report = house.audit(copy)
    assert report.verdict == "differs"
    assert report.found_by == "tags"
    assert bad(report) == {"this file": "differs"}
    assert "it was edited, or its tags were forged" in report.checks[0].detail
    assert report.sentence.startswith("Not verified")


def test_forged_tags_on_another_raster(house: House, tmp_path: Path) -> None:
    forged = Path(shutil.copy(house.results["infer"].folder / "0_0.tif", tmp_path / "forged.tif"))
    with rasterio.open(house.map) as real, rasterio.open(forged, "r+") as raster:
        raster.update_tags(**real.tags())
    report = house.audit(forged)
    assert report.verdict == "differs"
    assert report.checks[0].status == "differs"


@pytest.mark.parametrize("name", ["OLMOEARTH_MODEL", "OLMOEARTH_PROVENANCE", "OLMOEARTH_PROJECT"])
def test_one_forged_tag(house: House, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copy(house.map, tmp_path / "map.tif"))
    with rasterio.open(copy, "r+") as raster:
        raster.update_tags(**{name: "0" * 64})
    report = house.audit(copy)
    assert bad(report) == {"tags": "differs"}
    assert name in report.checks[1].problems[0]


def test_the_id_of_a_map_that_is_not_here(house: House, tmp_path: Path) -> None:
    copy = Path(shutil.copy(house.map, tmp_path / "map.tif"))
    with rasterio.open(copy, "r+") as raster:
        pixels = raster.read()
        raster.write(pixels[:, ::-1])
        raster.update_tags(OLMOEARTH_MAP_ID="elsewhere-2024-05-01-12345678")
    report = house.audit(copy)
    assert report.verdict == "unknown"
    assert "says that it is the map elsewhere-2024-05-01-12345678" in report.sentence


def test_a_map_of_another_workspace(house: House, tmp_path: Path) -> None:
    report = audit(Workspace.at(tmp_path / "home"), house.map)
    assert report.verdict == "unknown"
    assert not report.verified
    assert "another workspace" in report.sentence
    assert str(tmp_path / "home" / "registry.db") in report.sentence


@pytest.mark.parametrize(
    ("thing", "words"), [("a" * 5000, "cannot be a file or a name"), ("/dev/zero", "neither a file nor a folder")]
)
def test_what_can_be_nothing_is_told_in_one_sentence(house: House, thing: str, words: str) -> None:
    with pytest.raises(AuditError, match=words) as refused:
        house.audit(thing)
    assert len(str(refused.value)) < 250


def test_a_file_that_is_no_raster(house: House, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_text("no raster")
    report = house.audit(path)
    assert report.verdict == "unknown"
    assert f"{path}: not a raster" in report.sentence


def test_half_a_raster(house: House, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(house.map.read_bytes()[:-1500])
    assert not house.audit(path).verified


def test_a_raster_of_somebody_else(house: House, tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", dtype="uint8", count=1, height=8, width=8) as raster:
            raster.update_tags(OLMOEARTH="not ours")
    report = house.audit(path)
    assert (report.verdict, report.checks) == ("unknown", [])
    assert "a raster without the platform's tags" in report.sentence


def test_half_a_raster_with_tags(house: House, tmp_path: Path) -> None:
    """The tags can be read, the pixels cannot."""
    path = tmp_path / "map.tif"
    with rasterio.open(house.map) as source:
        profile = {**source.profile, "width": 512, "height": 512, "compress": None, "tiled": False}
        with rasterio.open(path, "w", **profile) as raster:
            raster.update_tags(**source.tags())
            raster.write(np.ones((1, 512, 512), np.uint8))
    path.write_bytes(path.read_bytes()[:-4000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = house.audit(path)
    assert not report.verified
    assert report.verdict in ("differs", "unknown")


def test_no_file(house: House, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"nothing\.tif: no such file"):
        house.audit(tmp_path / "nothing.tif")


def _artifact(house: House) -> Path:
    (weights,) = Path(house.model.source).glob("artifacts/*/weights.safetensors")
    return weights


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (lambda h: h.map.with_name("probabilities.tif"), "products"),
        (lambda h: h.results["infer"].folder / "1_0.tif", "tiles"),
        (lambda h: h.results["infer"].folder / "model.json", "tiles"),
        (lambda h: h.results["finetune"].folder / "weights.safetensors", "model files"),
        (_artifact, "model version (MLflow)"),
        (lambda h: h.results["preprocess"].folder / "cubes.zarr" / "a" / "0.0", "dataset"),
        (lambda h: h.results["export"].folder / "A" / "B02.tif", "export"),
    ],
)
def test_a_flipped_bit_is_named(house: House, where: Callable[[House], Path], what: str) -> None:
    path = where(house)
    with flipped_bit(path):
        report = house.audit()
    assert bad(report) == {what: "differs"}
    (check,) = [check for check in report.checks if check.what == what]
    assert check.problems == [f"{path.name}: content differs from its checksum"] or path.name in check.problems[0]
    assert not report.verified


@pytest.mark.parametrize(
    ("stage", "what"), [("infer", "tiles"), ("finetune", "model files"), ("postprocess", "products")]
)
def test_a_manifest_that_was_changed(house: House, stage: str, what: str) -> None:
    path = house.results[stage].folder / "manifest.json"
    before = path.read_text()
    manifest = json.loads(before)
    name = sorted(manifest["outputs"])[0]
    manifest["outputs"][name]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    try:
        report = house.audit()
    finally:
        path.write_text(before)
    assert bad(report)[what] == "differs"


def test_a_manifest_whose_settings_were_changed(house: House) -> None:
    path = house.results["finetune"].folder / "manifest.json"
    before = path.read_text()
    path.write_text(before.replace('"weight_decay": 0.01', '"weight_decay": 0.02'))
    assert path.read_text() != before
    try:
        report = house.audit()
    finally:
        path.write_text(before)
    assert bad(report) == {"stage key of finetune": "differs"}


def test_what_is_gone_is_missing_not_verified(house: House) -> None:
    with gone(house.results["infer"].folder / "0_0.tif"):
        report = house.audit()
    assert bad(report) == {"tiles": "missing"}
    assert report.verdict == "incomplete"
    assert "cannot be checked here: tiles" in report.sentence


def test_what_is_not_kept_any_more_is_named_and_the_map_stays_verified(house: House) -> None:
    with open_registry(house.workspace) as registry:
        run = next(run for run in registry.runs("small") if run.stage == "postprocess")
    assert run.code_sha256 is not None
    assert run.store is not None
    kept = Path(run.store) / run.code_sha256[:2] / run.code_sha256[2:]
    whole = house.audit()
    assert [check.detail for check in whole.checks if check.what == AGAIN] == [
        "complete: 9 things that its runs read or were made by are kept"
    ]
    with gone(kept):
        report = house.audit()
        (check,) = [check for check in report.checks if check.what == AGAIN]
        assert (check.status, report.verified) == ("changed", True)
        digest = run.code_sha256
        assert check.problems == [
            f"the platform's code of {stage}: {digest} is not kept any more" for stage in ("infer", "postprocess")
        ]
    with flipped_bit(kept):
        (check,) = [check for check in house.audit().checks if check.what == AGAIN]
        assert "other bytes; it is damaged" in check.problems[0]


def test_a_model_version_deleted_in_mlflow(house: House, tmp_path: Path) -> None:
    project = smallrun.small_project(tmp_path / "brief", name="brief")
    results = smallrun.run(project)
    model = register_model(house.workspace, project, results["finetune"])
    path = results["postprocess"].folder / "map.tif"
    from mlflow import MlflowClient

    client = MlflowClient(house.workspace.tracking_uri, house.workspace.tracking_uri)
    with changed_rows(house, "SELECT 1"):
        with open_registry(house.workspace) as registry:
            registry.record(project, results["postprocess"], RunContext.here(project))
        assert house.audit(path).verified
        client.delete_model_version("brief", model.version)
        report = house.audit(path)
        assert bad(report) == {"model version (MLflow)": "missing"}
        shutil.rmtree(project.root / "models")
        assert set(bad(house.audit(path))) >= {"model files", "model version (MLflow)"}


def test_the_dataset_before_the_last_is_verified_from_dvc(
    house: House, tmp_path: Path, registered: ModelVersion
) -> None:
    """A newer dataset version took its place in the folder; DVC's cache still has the one behind the map."""
    copy = load_project(shutil.copytree(house.project.root, tmp_path / "small", symlinks=True))
    text = (copy.root / "project.yaml").read_text()
    (copy.root / "project.yaml").write_text(text.replace("dataset: {}", "dataset: {min_valid: 0.5}"))
    changed = load_project(copy.root)
    newer = smallrun.run(changed, "preprocess")["preprocess"]
    assert not newer.skipped
    hidden = house.project.root.rename(house.project.root.with_name("away"))
    try:
        path = copy.root / house.map.relative_to(house.project.root)
        report = house.audit(path)
        assert bad(report) == {}
        (check,) = [check for check in report.checks if check.what == "dataset"]
        assert "DVC's store" in check.detail
        dataset = report.dataset
        assert dataset is not None
        assert dataset.dvc_hash is not None
        listing = copy.root / ".dvc/cache/files/md5" / dataset.dvc_hash[:2] / dataset.dvc_hash[2:]
        victim = json.loads(listing.read_text())[1]["md5"]
        with flipped_bit(copy.root / ".dvc/cache/files/md5" / victim[:2] / victim[2:]):
            assert bad(house.audit(path)) == {"dataset": "differs"}
        shutil.rmtree(copy.root / ".dvc" / "cache")
        assert bad(house.audit(path)) == {"dataset": "missing", "export (DVC)": "changed"}
    finally:
        hidden.rename(house.project.root)


def test_labels_saved_with_other_white_space(house: House, tmp_path: Path) -> None:
    """The export runs again under another key and makes the same bytes: the map is still sound."""
    project = load_project(shutil.copytree(house.project.root, tmp_path / "small", symlinks=True))
    labels = project.root / "labels" / "forest.geojson"
    labels.write_text(json.dumps(json.loads(labels.read_text()), indent=4))
    export = smallrun.run(project, "export")["export"]
    before = house.results["export"].manifest
    assert (export.skipped, export.manifest.outputs_digest) == (False, before.outputs_digest)
    path = project.root / house.map.relative_to(house.project.root)
    assert bad(house.audit(path)) == {"stage key of export": "differs"}, "nobody recorded that key"
    with changed_rows(house, "SELECT 1"):
        with open_registry(house.workspace) as registry:
            registry.record(project, export, RunContext.here(project))
        report = house.audit(path)
    assert report.runs is not None
    assert report.runs[-1].key == export.manifest.key != before.key
    assert report.verified, report.sentence


def test_input_files_that_changed_are_told_and_the_map_stays_verified(house: House) -> None:
    labels = house.project.root / "labels" / "forest.geojson"
    (scenes, *_) = (house.project.root / "scenes").glob("*.json")
    told = {check.what for check in house.audit().checks if check.what.startswith("inputs")}
    assert told == {"inputs of export", "inputs of preprocess", "inputs of infer", "inputs of postprocess"}
    with flipped_bit(labels):
        report = house.audit()
    assert bad(report) == {"inputs of export": "changed", "inputs of preprocess": "changed"}
    assert report.verified
    assert "labels/forest.geojson: changed since" in report.sentence
    with gone(house.project.root / "area.geojson"):
        report = house.audit()
    assert bad(report) == {"inputs of infer": "changed", "inputs of postprocess": "changed"}
    assert report.verified
    assert "area.geojson: gone" in report.sentence
    with gone(scenes.parent):
        assert bad(house.audit()) == {"inputs of export": "changed", "inputs of infer": "changed"}


def test_inputs_beside_a_shapefile_and_a_local_checkpoint(tmp_path: Path) -> None:
    """The names that core's stages give them lead back to the files."""
    from olmoearth_core.progress import Silent
    from olmoearth_core.stage import Stage
    from olmoearth_core.stages import STAGES, label_files
    from registry.inputs import check_inputs
    from registry.tables.schema import Run

    project = smallrun.small_project(tmp_path / "shape")
    for suffix in (".shp", ".dbf", ".prj"):
        (project.root / f"my labels{suffix}").write_text(suffix)
    (project.root / "base").mkdir()
    (project.root / "base" / "weights.pth").write_text("weights")
    text = (project.root / "project.yaml").read_text().replace("labels/forest.geojson", "my labels.shp")
    text = text.replace("  patch_size: 4", "  patch_size: 4\n  weights: base")
    (project.root / "project.yaml").write_text(text)
    project = load_project(project.root)

    def asked(stage: Stage) -> Run:
        files = stage.files(project, Silent())
        inputs = {name: sha256_file(path) for name, path in files.items()}
        return Run(stage=stage.name, inputs=inputs, settings=stage.settings(project))

    # the shapefile is none: the table of blocks, which is made of labels, is left out
    labels, weights = asked(replace(STAGES["preprocess"], files=label_files)), asked(STAGES["finetune"])
    assert (len(labels.inputs), len(weights.inputs)) == (3, 1)
    for run, name, file in (
        (labels, "my labels.shp .dbf", "my labels.dbf"),
        (weights, "weights/weights.pth", "base/weights.pth"),
    ):
        check = check_inputs(run, [tmp_path / "elsewhere", project.root])
        assert check is not None
        assert check.status == "ok"
        with flipped_bit(project.root / file):
            check = check_inputs(run, [project.root])
        assert check is not None
        assert check.problems == [f"{name}: changed since"]


def test_the_maker_of_what_was_found_is_unknown(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command line states no commit, user or host of outputs that were there already."""
    from typer.testing import CliRunner

    from flows.cli.app import app

    monkeypatch.setenv("OLMOEARTH_HOME", str(house.workspace.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", house.workspace.tracking_uri)
    said = CliRunner().invoke(app, ["audit", str(house.map), str(house.map.with_name("areas.csv"))]).output
    assert "2 of 2 verified." in said
    said = CliRunner().invoke(app, ["audit", str(house.map)]).output
    assert f" on {platform.node()}, code " in said
    late = Workspace.at(tmp_path / "home", tracking_uri=house.workspace.tracking_uri)
    found = replace(house.results["postprocess"], skipped=True)
    with open_registry(late) as registry:
        registry.record(house.project, found, RunContext.here(house.project))
    monkeypatch.setenv("OLMOEARTH_HOME", str(late.home))
    said = CliRunner().invoke(app, ["audit", str(house.map)]).output
    assert "\nVERIFIED  Verified" in said
    assert said.count("found complete; maker unknown") == 5
    assert "None" not in said


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE tiles SET sha256 = 'x' WHERE name = '0_0.tif'", "registry: tiles"),
        ("DELETE FROM tiles WHERE name = '0_0.tif'", "registry: tiles"),
        ("UPDATE products SET sha256 = 'x' WHERE name = 'areas.csv'", "registry: products"),
        ("DELETE FROM map_scenes WHERE scene_id = 1", "registry: scenes"),
        ("UPDATE scenes SET acquired = '2020-01-01 00:00:00.000000' WHERE id = 2", "registry: scenes"),
        ("DELETE FROM dataset_scenes WHERE scene_id = 1", "registry: scenes of the dataset"),
        ("UPDATE model_versions SET weights_sha256 = 'x'", "registry: weights"),
        ("UPDATE model_versions SET digest = 'x'", "lineage"),
        ("UPDATE runs SET settings = '{}' WHERE stage = 'finetune'", "stage key of finetune"),
        ("UPDATE runs SET inputs = '{}' WHERE stage = 'infer'", "lineage"),
        ("UPDATE runs SET digest = 'x' WHERE stage = 'preprocess'", "lineage"),
        ("UPDATE maps SET model_id = NULL", "lineage"),
    ],
)
def test_a_changed_row_is_named(house: House, statement: str, what: str) -> None:
    with changed_rows(house, statement):
        report = house.audit()
    assert what in bad(report)
    assert not report.verified
    assert house.audit().verified


def test_an_audit_changes_nothing(house: House) -> None:
    folders = (house.project.root, Path(house.model.source))
    before = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    house.audit()
    after = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_no_torch_is_imported(house: House) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from registry.audit.audit import audit\n"
        "from registry.workspace import Workspace\n"
        "workspace = Workspace.at(Path(sys.argv[1]), tracking_uri=sys.argv[2])\n"
        "report = audit(workspace, Path(sys.argv[3]))\n"
        "assert report.verified, report\n"
        "assert 'torch' not in sys.modules\n"
    )
    arguments = [str(house.workspace.home), house.workspace.tracking_uri, str(house.map)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_champion_is_the_model_of_the_map(house: House) -> None:
    report = house.audit()
    assert report.model is not None
    assert get_model(house.workspace, report.model.name).weights_sha256 == report.model.weights_sha256
