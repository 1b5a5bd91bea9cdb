"""Embeddings on real rasters with a real encoder: what is stored, that tiles do not show, and finding alike places."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import Transformer
from rasterio.warp import transform_bounds
from rasters import CRS, TOP
from rio_cogeo.cogeo import cog_validate
from smallmap import clouds, infer_run, metres, small_project, square
from typer.testing import CliRunner

from flows.cli import app as command_line
from flows.cli.app import app
from olmoearth_core.embeddings.code import decode, encode
from olmoearth_core.embeddings.embed import embed
from olmoearth_core.embeddings.similar import Query, read_points, similar
from olmoearth_core.embeddings.tile import patch_box
from olmoearth_core.errors import MappingError, ProjectError, StoreError
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import available_bands, read_scenes
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.models import build_encoder
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult, run_stage
from olmoearth_core.stages import STAGES, embed_stage
from registry.registry import open_registry
from registry.workspace import Workspace


def embedded(project: Project, dtype: str = "int8") -> StageResult:
    return run_stage(embed_stage(dtype=dtype), STAGES, project, Silent())


def degrees(column: float, row: float) -> tuple[float, float]:
    """Longitude and latitude of a place counted in pixels from the imagery's upper left."""
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(*metres(column, row))
    return float(lon), float(lat)


def mosaic(result: StageResult) -> dict[tuple[float, float], np.ndarray]:
    """Centre of a patch in metres -> its stored numbers, over all tiles."""
    found = {}
    for path in sorted(result.folder.glob("*.tif")):
        with rasterio.open(path) as source:
            stored = source.read()
            for row, column in zip(*np.nonzero(stored[0] != -128), strict=True):
                found[source.xy(row, column)] = stored[:, row, column]
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds())


@pytest.fixture(scope="module")
def result(project: Project) -> StageResult:
    return embedded(project)


@given(arrays(np.float64, (16, 2, 3), elements=st.floats(-1, 1).filter(lambda v: v == 0 or abs(v) > 1e-3)))
def test_a_direction_comes_back_from_bytes_nearly_as_it_was(vectors: np.ndarray) -> None:
    vectors[0] += 2  # no vector without length
    unit = vectors / np.linalg.norm(vectors, axis=0)
    unit[:, 0, 0] = np.nan
    back = decode(encode(unit, "int8"))
    assert np.isnan(back[:, 0, 0]).all()
    known = ~np.isnan(unit[0])
    cosine = (back * unit).sum(axis=0)[known]
    assert (cosine > 0.9995).all()
    exact = decode(encode(unit, "float16"))
    assert ((exact * unit).sum(axis=0)[known] > 0.999999).all()


def test_a_patch_is_what_the_encoder_sees_there(tmp_path: Path) -> None:
    """Without overlap each patch lies in one window: its embedding is that window's feature, made a direction."""
    project = small_project(tmp_path, area=square(16, 16, 64, 64), overlap=0.0)
    result = embedded(project, "float16")
    config, scenes = project.config, read_scenes(result.folder / "scenes.json", project.root)
    bands = {"sentinel2_l2a": available_bands(scenes, "sentinel2_l2a")}
    plan = read_plan(result.folder)
    tile = next(tile for tile in plan.tiles if tile.windows >= 4)
    box = plan.box(tile)
    first_column, first_row = -(-box.column // 16) * 16, -(-box.row // 16) * 16
    window = Grid(CRS, 10).box(first_column, first_row, 16, 16)
    with AssetReader() as reader:
        cube = compose(
            scenes,
            window,
            config.imagery.framing.spans(config.map.date),
            modality="sentinel2_l2a",
            bands=bands["sentinel2_l2a"],
            composite=config.imagery.composite,
            cloud_mask=config.imagery.cloud_mask,
            reader=reader,
        )
    with torch.inference_mode():
        features = build_encoder("v1.1-nano", seed=0).eval().encode(
            {"sentinel2_l2a": cube.data[None]}, cube.dates[None], {"sentinel2_l2a": cube.valid[None]},
            patch_size=4, bands=bands,
        ).map()[0].numpy()  # fmt: skip
    expected = features / np.linalg.norm(features, axis=0)
    with rasterio.open(result.folder / f"{tile.name}.tif") as source:
        stored = decode(source.read())
    patches, inside = patch_box(window, 4), patch_box(box, 4)
    rows, columns = patches.slices_in(inside)
    here = stored[:, rows, columns]
    known = np.isfinite(here[0])
    assert known.any()
    assert np.abs(here - expected)[:, known].max() < 2e-3


def test_tiles_do_not_show(project: Project, result: StageResult, tmp_path: Path) -> None:
    """Other tiles give the same bytes for every patch."""
    shutil.copytree(project.root, tmp_path / "other", ignore=shutil.ignore_patterns(".olmoearth", "embeddings"))
    text = (tmp_path / "other/project.yaml").read_text()
    (tmp_path / "other/project.yaml").write_text(text.replace("tile_size: 64", "tile_size: 512"))
    other = embedded(load_project(tmp_path / "other"))
    one, two = mosaic(result), mosaic(other)
    assert len(list(result.folder.glob("*.tif"))) > len(list(other.folder.glob("*.tif")))
    assert set(one) == set(two)
    assert all((one[place] == two[place]).all() for place in one)
    assert len(one) == result.manifest.summary["patches"]


def test_files_are_cogs_that_say_what_they_are(result: StageResult) -> None:
    paths = sorted(result.folder.glob("*.tif"))
    for path in paths:
        valid, errors, _ = cog_validate(path)
        assert valid, errors
    with rasterio.open(paths[0]) as source:
        assert source.count == 128
        assert source.dtypes[0] == "int8"
        assert source.nodata == -128
        assert source.res == (40, 40)
        assert (TOP - source.bounds.top) % 40 == 0 or source.bounds.top % 40 == 0
        assert source.tags()["OLMOEARTH_ENCODER"] == "v1.1-nano"
    about = json.loads((result.folder / "embeddings.json").read_bytes())
    assert about["dimensions"] == 128
    assert about["weights"]["source"] == "random"


def test_they_are_valid_stac(result: StageResult) -> None:
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    schemas = get_local_schema_cache()
    registry = Registry().with_resources([(uri, Resource.from_contents(s)) for uri, s in schemas.items()])
    paths = sorted(result.folder.glob("item_*.json"))
    assert len(paths) == len(read_plan(result.folder).tiles) > 1
    for kind, path in (("item", paths[0]), ("collection", result.folder / "collection.json")):
        schema = next(schema for uri, schema in schemas.items() if uri.endswith(f"/{kind}.json"))
        content = json.loads(path.read_text())
        assert [error.message for error in Draft7Validator(schema, registry=registry).iter_errors(content)] == []
    items = list(pystac.Collection.from_file(str(result.folder / "collection.json")).get_items())
    assert len(items) == len(paths)
    for item in items:
        asset = item.assets["embeddings"]
        path = Path(asset.get_absolute_href() or "")
        assert asset.ext.file.checksum == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
        with rasterio.open(path) as source:
            assert item.properties["proj:shape"] == list(source.shape)
            assert item.ext.proj.transform == list(source.transform)[:6]
            assert len(asset.extra_fields["bands"]) == source.count
            corners = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
        assert item.bbox == pytest.approx(corners, abs=1e-6)


def test_what_is_finished_is_kept_after_a_kill(project: Project, result: StageResult) -> None:
    """A lost tile alone is computed anew, to the same bytes; asked again, nothing is done."""
    before = {path.name: path.read_bytes() for path in result.folder.glob("*.tif")}
    assert embedded(project).skipped
    lost = sorted(before)[0]
    times = {name: (result.folder / name).stat().st_mtime_ns for name in before}
    (result.folder / lost).write_bytes(b"rotten")
    again = embedded(project)
    assert not again.skipped
    assert {path.name: path.read_bytes() for path in again.folder.glob("*.tif")} == before
    kept = [name for name in before if (again.folder / name).stat().st_mtime_ns == times[name]]
    assert set(kept) == set(before) - {lost}


def test_the_fine_tuned_encoder_is_the_models(project: Project, result: StageResult, tmp_path: Path) -> None:
    """The small model was never trained: its encoder sees what the one it began with sees."""
    run = infer_run(project, tmp_path / "tuned")
    made = embed(run, "int8")
    assert made == result.manifest.summary
    seeded = project.config.model_copy(update={"training": project.config.training.model_copy(update={"seed": 3})})
    (tmp_path / "base").mkdir()
    base = replace(run, out=tmp_path / "base", upstream={}, project=Project(project.root, seeded))  # smallmap's seed
    embed(base, "int8")
    about = json.loads((run.out / "embeddings.json").read_bytes())
    assert about["weights"]["source"] == "finetune"
    assert len(about["weights"]["sha256"]) == 64
    for path in base.out.glob("*.tif"):
        with rasterio.open(path) as one, rasterio.open(run.out / path.name) as other:
            there, here = decode(one.read()), decode(other.read())
        known = np.isfinite(there[0])
        assert (known == np.isfinite(here[0])).all()
        assert known.any()
        assert ((there * here).sum(axis=0)[known] > 0.999).all()  # the model looks in its own precision


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ProjectError, match="float16"):
        embed_stage(dtype="int4")


def test_places_like_an_example_are_found(tmp_path: Path) -> None:
    """The imagery holds one pattern twice: an example of the first finds the second, and what is unlike is left out."""
    import smallmap

    project = small_project(tmp_path, area=square(0, 0, 112, 112), overlap=0.0)
    field = tmp_path / "imagery"
    for path in field.rglob("*.tif"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as source:
            pixels = source.read(1)
            if pixels.max() > 100:  # not the classification
                left, top = source.transform.c, source.transform.f
                row, column = round((smallmap.TOP - top) / 10), round((smallmap.LEFT - left) / 10)
                assert (row, column) == (0, 0)
                pixels[64:80, 64:80] = pixels[16:32, 16:32]
                source.write(pixels, 1)
    result = embedded(project)
    plan = read_plan(result.folder)
    # a whole window of each copy: the lattice is absolute, so the copies must lie on it alike
    origin = plan.box(plan.tiles[0])
    shift = (-(-origin.column // 16) * 16 - origin.column, -(-origin.row // 16) * 16 - origin.row)
    example = degrees(24, 24)
    found = similar(result.folder, Query([example], top=5, apart=100), tmp_path / "similar", Silent())
    places = gpd.read_file(tmp_path / "similar/places.gpkg")
    assert found["places"] == len(places) == 5
    assert places.crs.to_epsg() == 4326
    assert places["similarity"].is_monotonic_decreasing
    assert places["similarity"][0] == pytest.approx(1, abs=1e-3)
    metric = places.to_crs(CRS)
    near = metric.distance(shapely.Point(*metres(24, 24)))
    assert near[0] < 40
    if shift == (0, 0):
        copy = metric.distance(shapely.Point(*metres(72, 72)))
        assert copy[1] < 40
    apart = [a.distance(b) for i, a in enumerate(metric.geometry) for b in metric.geometry[:i]]
    assert min(apart) >= 100
    with rasterio.open(tmp_path / "similar" / found["rasters"][0]) as source:
        row, column = source.index(*metres(24, 24))
        assert source.read(1)[row, column] == 250
    unlike = Query([example], [degrees(90, 20)], top=5, apart=100)
    similar(result.folder, unlike, tmp_path / "fewer", Silent())
    with rasterio.open(tmp_path / "fewer" / found["rasters"][0]) as source:
        row, column = source.index(*metres(90, 20))
        assert source.read(1)[row, column] == 0
    assert (tmp_path / "fewer/similarity.png").stat().st_size > 5000


def test_bad_examples_are_named(result: StageResult, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="at least one point"):
        similar(result.folder, Query([]), tmp_path, Silent())
    with pytest.raises(MappingError, match=r"0, 0 .* lies outside"):
        similar(result.folder, Query([(0.0, 0.0)]), tmp_path, Silent())
    with pytest.raises(MappingError, match="holds no embeddings"):
        similar(tmp_path, Query([(0.0, 0.0)]), tmp_path, Silent())
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MappingError, match=r"no\.csv"):
        read_points(tmp_path / "no.csv")
    copy = tmp_path / "copy"
    shutil.copytree(result.folder, copy)
    for path in copy.glob("*.tif"):
        path.unlink()
    with pytest.raises(StoreError, match="olmoearth embed"):
        similar(copy, Query([degrees(100, 105)]), tmp_path / "out", Silent())


def test_the_commands(project: Project, result: StageResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`olmoearth embed` tells the registry; `olmoearth similar` takes its folder."""
    assert command_line
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path / "home"))
    made = CliRunner().invoke(app, ["embed", str(project.root), "--json"])
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    folder = project.root / told["folder"]
    with open_registry(Workspace.from_environment()) as registry:
        digests = {run.digest for run in registry.runs("small") if run.stage == "embed"}
    assert told["outputs_digest"] in digests
    x, y = sorted(mosaic(result))[40]
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)
    found = CliRunner().invoke(app, ["similar", str(folder), "--like", f"{lon},{lat}", "--json", "--top", "3"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["places"] == 3
    wrong = CliRunner().invoke(app, ["similar", str(folder), "--like", "95"])
    assert wrong.exit_code == 2
    assert "longitude,latitude" in wrong.output


def test_where_in_its_window_a_patch_lies_does_not_make_it_alike(tmp_path: Path) -> None:
    """The encoder tells a patch's place in its window; on ground of one kind no grid of windows shows."""
    project = small_project(tmp_path, area=square(0, 0, 112, 112), overlap=0.0)
    result = embedded(project)
    x, y = sorted(mosaic(result))[300]
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)
    found = similar(result.folder, Query([(lon, lat)]), tmp_path / "similar", Silent())
    with rasterio.open(tmp_path / "similar" / found["rasters"][0]) as source:
        scores, left, top = source.read(1).astype(float), source.bounds.left, source.bounds.top
    scores[scores == 255] = np.nan
    rows = (np.arange(scores.shape[0]) - round(top / 40)) % 4
    columns = (np.arange(scores.shape[1]) + round(left / 40)) % 4
    by_place = [np.nanmean(scores[rows == r][:, columns == c]) for r in range(4) for c in range(4)]
    assert np.std(by_place) < 0.25 * np.nanstd(scores)
