"""What names a tile: area, scenes and rules, by content; and what is told of a map before it is made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from rasters import CRS, Layer, StacScene, open_scenes, write_catalogue
from smallmap import checksums, infer_run, small_project
from zonemap import zone_project

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import Grid, Lattice
from olmoearth_core.imagery.extent import outline_on
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.imagery.version import SAMPLE, SAMPLES, declared_version, sampled_digest
from olmoearth_core.inference.area import Area, load_areas
from olmoearth_core.inference.cutting import in_pieces
from olmoearth_core.inference.infer import infer, make_plan
from olmoearth_core.inference.keys import FILLED, parts_over
from olmoearth_core.inference.outlook import map_outlook, timesteps_with_scenes
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.inference.reuse import reused_tiles
from olmoearth_core.manifest import Manifest, describe_outputs, write_manifest
from olmoearth_core.models.cost import workload_of
from olmoearth_core.models.model_folder import read_card
from olmoearth_core.progress import Silent

GRID = Grid(CRS)


def ragged(vertices: int) -> shapely.Polygon:
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radius = 9000 * (1 + 0.05 * np.sin(31 * angle))
    return shapely.Polygon(np.stack([500_000 + radius * np.cos(angle), 4_690_000 + radius * np.sin(angle)], axis=1))


def area_of(*polygons: shapely.Polygon) -> Area:
    return Area(GRID, in_pieces(polygons, 10.0), shapely.MultiPolygon(polygons))


def test_the_area_over_a_tile_is_the_same_however_it_is_drawn_and_cut() -> None:
    whole = ragged(5000)
    area = area_of(whole)
    assert len(area.parts) > 10
    boxes = list(Lattice(64, 64).boxes(area.bounds))
    parts = parts_over(area, boxes)
    masks = [area.mask(box) for box in boxes]
    assert [part == FILLED for part in parts] == [mask.all() for mask in masks]
    empty = [len(part) == 1 and part != FILLED for part in parts]
    assert all(not mask.any() for mask, none in zip(masks, empty, strict=True) if none)
    turned = np.roll(shapely.get_coordinates(whole)[:-1], 1234, axis=0)[::-1]
    assert parts_over(area_of(shapely.Polygon(turned)), boxes).count(FILLED) == parts.count(FILLED)


def test_an_area_that_changed_in_one_place_is_the_same_elsewhere() -> None:
    former, bite = ragged(900), shapely.box(508_000, 4_689_000, 510_000, 4_691_000)
    boxes = list(Lattice(64, 64).boxes(area_of(former).bounds))
    before, after = (parts_over(area_of(p), boxes) for p in (former, shapely.difference(former, bite)))
    masks = [(area_of(p).mask(box)) for p in (former, shapely.difference(former, bite)) for box in boxes]
    changed = {k for k in range(len(boxes)) if before[k] != after[k]}
    assert {k for k in range(len(boxes)) if (masks[k] != masks[k + len(boxes)]).any()} <= changed
    assert 0 < len(changed) < len(boxes) / 10


def test_the_outline_of_a_raster_holds_it_in_every_crs() -> None:
    source = SourceGrid("EPSG:32632", (10, 0, 300_000, 0, -10, 5_000_040), 10_980, 10_980)
    own = outline_on(source, Grid("EPSG:32632"))
    assert own is not None
    assert own.bounds == (300_000, 5_000_040 - 109_800, 409_800, 5_000_040)
    other = outline_on(source, Grid("EPSG:32631"))
    assert other is not None
    corners = np.random.default_rng(0).uniform((300_000, 4_890_240), (409_800, 5_000_040), (2000, 2))
    x, y = shapely.get_coordinates(Grid("EPSG:32631").project(shapely.MultiPoint(corners), "EPSG:32632")).T
    assert shapely.contains_xy(other, x, y).all()
    assert other.area == pytest.approx(own.area, rel=0.02)


def test_the_version_of_a_scene_follows_its_bytes_and_nothing_else(tmp_path: Path) -> None:
    pixels = np.arange(1, 40_001, dtype=np.uint16).reshape(200, 200)

    def version(**properties: str) -> str:
        scene = StacScene("A", "2024-05-01", {"B02": Layer(pixels)}, properties=properties)
        return open_scenes(write_catalogue(tmp_path / "c", [scene])).scenes[0].version

    first = version()
    assert first
    assert version(updated="2026-01-01T00:00:00Z") == first
    pixels[150, 3] += 1
    assert version() != first


def test_large_files_are_told_apart_by_samples(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * SAMPLES * SAMPLE)
    path = tmp_path / "a"
    path.write_bytes(content)
    first = sampled_digest(path)
    for changed in (b"x" + content[1:], content[:-1] + b"x", content + b"x"):
        path.write_bytes(changed)
        assert sampled_digest(path) != first
    assert sampled_digest(tmp_path / "none") == ""


def test_elsewhere_a_version_is_the_checksums_or_what_the_item_says() -> None:
    item = {"properties": {"updated": "2024-01-01"}, "assets": {"B02": {"file:checksum": "1220ab"}, "B03": {}}}
    checksum, said = declared_version(item, ["B02"]), declared_version(item, ["B02", "B03"])
    item["properties"]["updated"] = "2025-01-01"
    assert declared_version(item, ["B02"]) == checksum
    assert declared_version(item, ["B02", "B03"]) != said
    assert declared_version({"properties": {}, "assets": {"B02": {}}}, ["B02"]) == ""


def test_a_refresh_over_two_zones_computes_what_the_scene_touches_in_both(tmp_path: Path) -> None:
    project = zone_project(tmp_path / "p")
    for name in ("first", "second"):
        run = replace(infer_run(project, project.root / "tiles" / name), key=f"{name:<64}")
        summary = infer(run)
        shutil.rmtree(run.scratch)
        made = {"stage": "infer", "stage_version": 1, "key": run.key, "settings": {}, "inputs": {}}
        write_manifest(run.out, Manifest(**made, outputs=describe_outputs(run.out), summary=summary))
        if name == "first":
            corner = Layer(np.full((300, 300), 2000, np.uint16))
            layers = {band: replace(corner, left=_left(), top=_top()) for band in ("B02", "B03", "B04", "B08")}
            mask = replace(corner, pixels=np.full((300, 300), 4, np.uint8), left=_left(), top=_top())
            _add(project.root / "imagery", StacScene("C", "2024-05-20", {**layers, "SCL": mask}, cloud_cover=0))
            freeze_map_scenes(project, Silent(), refresh=True)
    plan = read_plan(project.root / "tiles" / "second")
    taken = reused_tiles(project, f"{'second':<64}")
    of = {zone: [tile.name in taken for tile in plan.tiles_of(zone)] for zone in plan.zones}
    assert len(of) == 2
    assert all(any(taken) and not all(taken) for taken in of.values()), "in both zones some, and not all"
    shutil.copytree(project.root, tmp_path / "q", ignore=shutil.ignore_patterns("tiles", ".olmoearth"))
    full = replace(infer_run(replace(project, root=tmp_path / "q"), tmp_path / "q" / "tiles" / "full"), key="3" * 64)
    infer(full)
    assert checksums(full.out) == checksums(project.root / "tiles" / "second")


def _left() -> float:
    from zonemap import LEFT

    return LEFT + 10 * 120


def _top() -> float:
    from zonemap import TOP

    return TOP - 10 * 150


def _add(folder: Path, scene: StacScene) -> None:
    import json

    catalogue = json.loads((folder / "catalog.json").read_text())
    write_catalogue(folder, [scene])
    catalogue["links"].append({"rel": "item", "href": f"./{scene.id}/{scene.id}.json", "type": "application/geo+json"})
    (folder / "catalog.json").write_text(json.dumps(catalogue))


def test_what_is_estimated_is_what_is_planned(tmp_path: Path) -> None:
    project = small_project(tmp_path, overlap=0.25)
    areas = load_areas(project.path("area.geojson"), "area.geojson", crs=None, resolution=10)
    plan = make_plan(project.config, areas, read_card(tmp_path / "models" / "small"), torch.device("cpu"))
    outlook = map_outlook(project, workload_of(project), "cpu")
    assert (outlook.tiles, outlook.windows) == (len(plan.tiles), plan.windows)
    assert outlook.computed == sum(tile.windows for tile in plan.tiles)
    assert outlook.at_once == plan.batch_sizes[-1]
    assert timesteps_with_scenes(project) == 2, "nothing was searched: all of them"
    freeze_map_scenes(project, Silent())
    shutil.rmtree(tmp_path / "imagery" / "B")
    write_catalogue(
        tmp_path / "imagery", [StacScene("A", "2024-05-11", {"B02": Layer(np.ones((120, 120), np.uint16))})]
    )
    freeze_map_scenes(project, Silent(), refresh=True)
    assert timesteps_with_scenes(project) == 1


def test_an_area_that_cannot_be_mapped_is_not_estimated(tmp_path: Path) -> None:
    specks = shapely.MultiPolygon([shapely.box(x, y, x + 0.01, y + 0.01) for x, y in ((0.5, 35.0), (5.5, 63.0))])
    project = small_project(tmp_path)
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(specks))
    with pytest.raises(MappingError, match=r"area\.geojson: its parts lie so far apart"):
        map_outlook(project, workload_of(project), "cpu")
