"""A map over two UTM zones, from its tiles to what a partner opens."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from smallmap import CLASSES, checksums, infer_run, postprocess_run
from zonemap import MERIDIAN, SPECKS, WHOLE, ZONES, write_degrees, zone_project

from olmoearth_core.assessment.assess import assess
from olmoearth_core.assessment.change import change
from olmoearth_core.assessment.sample import draw, map_files
from olmoearth_core.embeddings.similar import Query, similar
from olmoearth_core.errors import MappingError
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.manifest import MANIFEST
from olmoearth_core.postprocess.collection import write_collection
from olmoearth_core.postprocess.postprocess import postprocess
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.stage import run_stage
from olmoearth_core.stages import STAGES, embed_stage

RASTERS = ("map", "probabilities", "confidence", "observations", "sets")
NAMES = [c["name"] for c in CLASSES]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = zone_project(
        tmp_path_factory.mktemp("zones"), min_area=300, events=["forest"], conformal={"coverage": 0.9}
    )
    infer(infer_run(project, project.root / "tiles"))
    return project


@pytest.fixture(scope="module")
def made(project: Project) -> tuple[Path, dict]:
    out = project.root / "maps" / "whole"
    return out, postprocess(postprocess_run(project, project.root / "tiles", out))


def test_a_map_of_two_zones_and_fifty_tiles_has_a_raster_each(project: Project, made: tuple[Path, dict]) -> None:
    out, summary = made
    plan = read_plan(project.root / "tiles")
    assert plan.zones == ZONES
    assert len(plan.tiles) >= 50
    assert len(json.loads((project.root / "tiles/plan.json").read_text())["tiles"]) == len(plan.tiles)
    expected = {f"{name}_{zone[-5:]}.tif" for name in RASTERS for zone in ZONES}
    expected |= {f"{name}.gti.gpkg" for name in RASTERS}
    expected |= {"map_32631.qml", "map_32632.qml", "map.gti.qml", "item_32631.json", "item_32632.json", "areas.csv"}
    expected |= {"polygons.gpkg", "polygons.parquet", "polygons.fgb", "preview.png", "events.geojson", "events.gpkg"}
    assert set(checksums(out)) == expected
    pixels = 0
    for zone in ZONES:
        tiles = {project.root / "tiles" / f"{tile.name}.tif": plan.box(tile) for tile in plan.tiles_of(zone)}
        with rasterio.open(out / f"map_{zone[-5:]}.tif") as source:
            assert source.crs.to_string() == zone
            assert source.tags()["OLMOEARTH_MAP_ID"] == summary["map_id"]
            found = source.read(1)
            for path, box in tiles.items():
                with rasterio.open(path) as tile:
                    assert np.array_equal(found[box.slices_in(plan.bounds(zone))], tile.read(1))
            pixels += int((found != 255).sum())
    assert pixels == summary["mapped_pixels"]
    assert 0 < summary["area_pixels"] - pixels < 30  # the specks
    metres = gpd.GeoSeries([WHOLE], crs="EPSG:4326").to_crs("EPSG:3035").area[0]
    assert pixels * 100 == pytest.approx(metres, rel=0.005)
    assert sum(area["hectares"] for area in summary["areas"].values()) * 1e4 == pytest.approx(metres, rel=0.005)
    with (out / "areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["pixels"]) for row in rows) == pixels
    assert sum(summary["sets"]["sizes"].values()) == pixels


@pytest.mark.parametrize("name", RASTERS)
def test_one_file_opens_all_zones(made: tuple[Path, dict], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = made
    monkeypatch.chdir("/")  # paths in it are relative to itself
    with (
        rasterio.open(out / f"{name}.gti.gpkg") as index,
        rasterio.open(out / f"{name}_32631.tif") as one,
        rasterio.open(out / f"{name}_32632.tif") as two,
    ):
        assert (index.count, index.dtypes, index.nodata) == (one.count, one.dtypes, one.nodata)
        assert (index.scales, index.offsets) == (one.scales, one.offsets)
        if set(one.scales) != {1.0}:
            assert index.descriptions == one.descriptions
        if name == "map":
            assert index.colormap(1)[0] == one.colormap(1)[0]
        found, transform = index.read(1), index.transform
        known = 0
        for source, side in ((one, -1), (two, 1)):
            pixels = source.read(1)
            rows, columns = np.nonzero(pixels != 255)
            x, y = source.transform @ (columns + 0.5, rows + 0.5)
            degrees = gpd.GeoSeries(gpd.points_from_xy(x, y), crs=source.crs).to_crs("EPSG:4326")
            assert ((degrees.x - MERIDIAN) * side >= 0).mean() > 0.999999
            at = ~transform @ (degrees.x.to_numpy(), degrees.y.to_numpy())
            c, r = (np.floor(k).astype(int) for k in at)
            inside = (r >= 0) & (c >= 0) & (r < found.shape[0]) & (c < found.shape[1])
            same = found[r[inside], c[inside]] == pixels[rows, columns][inside]
            known += int(inside.sum())
            assert same.mean() > 0.75  # nearest pixels of another grid
        assert known > 50_000


@pytest.mark.parametrize("simple", [0, 15])
def test_patches_leave_no_gap_and_no_overlap_where_zones_meet(project: Project, made: tuple[Path, dict], simple: int) -> None:  # fmt: skip  # noqa: E501
    out, summary = made
    if simple:
        config = project.config.model_copy(update={"map": project.config.map.model_copy(update={"simplify": 15.0})})
        out = project.root / "maps" / "simple"
        postprocess(postprocess_run(Project(project.root, config), project.root / "tiles", out))
    patches = gpd.read_parquet(out / "polygons.parquet")
    assert patches.crs.to_epsg() == 4326
    assert len(patches) == len(gpd.read_file(out / "polygons.gpkg")) == len(gpd.read_file(out / "polygons.fgb"))
    assert set(patches.geometry.geom_type) == {"Polygon"}
    assert patches.geometry.is_valid.all()
    # between neighbours the ground is covered once: what the patches add up to is what they cover together
    here = shapely.box(MERIDIAN - 0.02, WHOLE.bounds[1] + 0.001, MERIDIAN + 0.02, WHOLE.bounds[3] - 0.001)
    pieces = shapely.intersection(patches.geometry.to_numpy(), here)
    assert shapely.area(pieces).sum() == pytest.approx(here.area, rel=1e-9)
    assert shapely.area(shapely.union_all(pieces)) == pytest.approx(here.area, rel=1e-9)
    # patches go on over the meridian
    left, _, right, _ = shapely.bounds(patches.geometry.to_numpy()).T
    over = (left < MERIDIAN - 1e-6) & (right > MERIDIAN + 1e-6)
    assert over.any()
    ends = patches[(right == MERIDIAN) | (left == MERIDIAN)]
    for a in ends[shapely.bounds(ends.geometry.to_numpy())[:, 2] == MERIDIAN].itertuples():
        beside = ends[(ends["value"] == a.value) & ends.geometry.touches(a.geometry)]
        assert (shapely.length(shapely.intersection(beside.geometry.to_numpy(), a.geometry)) == 0).all()
    assert patches["area_m2"].sum() == pytest.approx(summary["mapped_pixels"] * 100, rel=0.01)
    if not simple:
        assert patches["area_m2"].to_numpy() == pytest.approx(patches.to_crs("EPSG:3035").area.to_numpy(), rel=2e-3)


def test_events_go_on_over_the_meridian(made: tuple[Path, dict]) -> None:
    out, _ = made
    events = json.loads((out / "events.geojson").read_text())["features"]
    patches = gpd.read_parquet(out / "polygons.parquet")
    assert len(events) == (patches["class"] == "forest").sum() > 0
    assert all(0 < event["properties"]["confidence"] <= 1 for event in events)
    layers = gpd.read_file(out / "events.gpkg", layer="boxes")
    assert len(layers) == len(events)
    assert any(event["bbox"][0] < MERIDIAN < event["bbox"][2] for event in events)


def test_each_zone_is_a_valid_item_of_the_collection(project: Project, made: tuple[Path, dict]) -> None:
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    out, summary = made
    schemas = get_local_schema_cache()
    registry = Registry().with_resources([(uri, Resource.from_contents(s)) for uri, s in schemas.items()])
    schema = next(schema for uri, schema in schemas.items() if uri.endswith("/item.json"))
    for zone in ZONES:
        content = json.loads((out / f"item_{zone[-5:]}.json").read_text())
        assert [error.message for error in Draft7Validator(schema, registry=registry).iter_errors(content)] == []
        item = pystac.Item.from_dict(content)
        assert item.id == f"{summary['map_id']}-{zone[-5:]}"
        assert item.ext.proj.code == zone
        assert item.assets["map"].href == f"./map_{zone[-5:]}.tif"
        assert item.assets["map_index"].href == "./map.gti.gpkg"
        for asset in item.assets.values():
            path = out / asset.href
            assert asset.ext.file.checksum == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
        with rasterio.open(out / f"map_{zone[-5:]}.tif") as source:
            assert item.properties["proj:shape"] == list(source.shape)
        assert (item.bbox[2] <= MERIDIAN) if zone == ZONES[0] else (item.bbox[0] >= MERIDIAN)
    named = {asset["href"] for zone in ZONES for asset in json.loads((out / f"item_{zone[-5:]}.json").read_text())["assets"].values()}  # fmt: skip  # noqa: E501
    assert {f"./{name}" for name in checksums(out)} - named == {"./item_32631.json", "./item_32632.json", "./map.gti.qml"}  # fmt: skip  # noqa: E501
    (out / MANIFEST).write_text("{}")
    collection = pystac.Collection.from_file(str(write_collection(project)))
    assert len(list(collection.get_items())) == 2
    assert collection.extent.spatial.bboxes[0][::2] == pytest.approx([SPECKS[0].bounds[0], SPECKS[1].bounds[2]])
    (out / MANIFEST).unlink()


def test_a_map_of_two_zones_is_sampled_and_assessed(made: tuple[Path, dict], tmp_path: Path) -> None:
    out, summary = made
    design = draw(map_files(out), tmp_path, size=60, least=10)
    assert {raster.crs for raster in design.rasters} == set(ZONES)
    assert {unit.raster for unit in design.units} == {0, 1}
    assert sum(design.hectares) == pytest.approx(sum(a["hectares"] for a in summary["areas"].values()))
    with (tmp_path / "sample.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_id = {unit.id: unit for unit in design.units}
    for row in rows:
        row["reference"] = design.classes[by_id[int(row["id"])].mapped]
    with (tmp_path / "sample.csv").open("w") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    assert assess(tmp_path)["overall_accuracy"]["value"] == 1


def test_two_maps_of_two_zones_are_compared(made: tuple[Path, dict], tmp_path: Path) -> None:
    out, summary = made
    later = tmp_path / "later"
    shutil.copytree(out, later)
    changed = 0
    for path in map_files(later):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as source:
            pixels = source.read(1)
            rows, columns = np.nonzero(pixels == 1)
            pixels[rows[:500], columns[:500]] = 2
            changed += min(500, len(rows))
            source.write(pixels, 1)
    report = change(map_files(out), map_files(later), tmp_path / "change")
    assert sum(kind["pixels"] for kind in report["kinds"].values()) == summary["mapped_pixels"]
    assert report["kinds"]["forest to bare & built"]["pixels"] == changed == 1000
    assert report["changed_hectares"] == pytest.approx(10, rel=2e-3)
    assert set(report["new"]["sha256"]) == {"map_32631.tif", "map_32632.tif"}
    assert [path.name for path in map_files(tmp_path / "change")] == ["map_32631.tif", "map_32632.tif"]
    with rasterio.open(tmp_path / "change/map.gti.gpkg") as index:
        assert index.colormap(1)[0][3] == 255
    assert len(draw(map_files(tmp_path / "change"), tmp_path / "sample", size=50, least=5).units) >= 50
    with pytest.raises(MappingError, match=r"has the zones 32631, .* has 32631, 32632"):
        change(map_files(out)[:1], map_files(later), tmp_path / "refused")
    over = change(map_files(out)[:1], map_files(later), tmp_path / "nearest", resample=True)
    assert 0 < over["kinds"]["forest to bare & built"]["pixels"] < 1000


def test_embeddings_of_two_zones_find_places_in_both(project: Project, tmp_path: Path) -> None:
    result = run_stage(embed_stage(), STAGES, project, Silent())
    assert read_plan(result.folder).zones == ZONES
    middle = (MERIDIAN, (WHOLE.bounds[1] + WHOLE.bounds[3]) / 2)
    query = Query([middle, (MERIDIAN + 0.05, middle[1])], top=60, apart=150)
    found = similar(result.folder, query, tmp_path, Silent())
    assert found["rasters"] == ["similarity_32631.tif", "similarity_32632.tif"]
    places = gpd.read_file(tmp_path / "places.gpkg")
    assert (places.geometry.x < MERIDIAN).any()
    assert (places.geometry.x > MERIDIAN).any()
    metric = places.to_crs("EPSG:32631").geometry.to_numpy()
    pairs = shapely.distance(metric[:, None], metric[None]) + 1e9 * np.eye(len(metric))
    assert pairs.min() > 149
    with rasterio.open(tmp_path / "similarity.gti.gpkg") as index:
        assert (index.read(1) <= 250).any()


def test_equal_tiles_give_equal_bytes(project: Project, made: tuple[Path, dict]) -> None:
    out = project.root / "maps" / "again"
    assert postprocess(postprocess_run(project, project.root / "tiles", out)) == made[1]
    assert checksums(out) == checksums(made[0])


def test_a_map_of_values_has_a_raster_a_zone_and_one_table(tmp_path: Path) -> None:
    task = {"name": "cover", "kind": "regression", "unit": "%", "range": [20, 120]}
    project = zone_project(tmp_path, task=task, tile_size=256)
    corner = shapely.box(MERIDIAN - 0.03, WHOLE.bounds[1], MERIDIAN + 0.03, WHOLE.bounds[1] + 0.006)
    write_degrees(tmp_path / "area.geojson", corner, *SPECKS)
    infer(infer_run(project, tmp_path / "tiles"))
    out = tmp_path / "maps" / "m"
    summary = postprocess(postprocess_run(project, tmp_path / "tiles", out))
    assert {"map_32631.tif", "map_32632.tif", "map.gti.gpkg", "map.gti.qml", "observations.gti.gpkg"} <= set(
        checksums(out)
    )
    known = []
    for zone in ZONES:
        with rasterio.open(out / f"map_{zone[-5:]}.tif") as source:
            stored = source.read(1)
            known.append((stored * source.scales[0] + source.offsets[0])[stored != source.nodata])
    values = np.concatenate(known)
    assert min(map(len, known)) > 100
    assert summary["values"]["pixels"] == len(values) == summary["mapped_pixels"]
    assert summary["values"]["mean"] == pytest.approx(values.mean(), rel=1e-3)
    assert (out / "preview.png").stat().st_size > 5000
