"""Confidence, events and smoother polygons, made by the stage from real tiles."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from rasterio.features import rasterize
from rio_cogeo.cogeo import cog_validate
from smallmap import CLASSES, checksums, clouds, infer_run, postprocess_run, small_project

from olmoearth_core.errors import ProjectError
from olmoearth_core.inference.infer import infer
from olmoearth_core.postprocess.postprocess import postprocess
from olmoearth_core.project import Project, parse_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    project = small_project(root, scl=clouds(), min_area=500, simplify=10, events=["open water"])
    infer(infer_run(project, project.root / "tiles"))
    return project


@pytest.fixture(scope="module")
def made(project: Project) -> Path:
    postprocess(postprocess_run(project, project.root / "tiles", project.root / "maps" / "whole"))
    return project.root / "maps" / "whole"


def test_confidence_is_the_probability_of_the_class_shown(made: Path) -> None:
    assert cog_validate(made / "confidence.tif")[0]
    with rasterio.open(made / "confidence.tif") as file, rasterio.open(made / "probabilities.tif") as source:
        found, stored = file.read(1), source.read()
        assert (file.transform, file.crs, file.nodata) == (source.transform, source.crs, 255)
        assert file.scales == pytest.approx([1 / 250])
        assert file.tags()["OLMOEARTH_MAP_ID"]
    with rasterio.open(made / "map.tif") as file:
        classes = file.read(1)
    known = classes != 255
    assert known.any()
    assert (found[~known] == 255).all()
    shown = np.take_along_axis(stored, np.where(known, classes, 0)[None], axis=0)[0]
    assert (found[known] == shown[known]).all()


def test_each_patch_is_a_point_inside_it_and_a_box_around_it(made: Path) -> None:
    points, boxes = (
        gpd.read_file(made / "events.gpkg", layer="points"),
        gpd.read_file(made / "events.gpkg", layer="boxes"),
    )
    with rasterio.open(made / "map.tif") as file:
        classes, transform = file.read(1), file.transform
    with rasterio.open(made / "confidence.tif") as file:
        confidence = file.read(1) / 250
    assert len(points) == len(boxes) > 0
    assert set(points["class"]) == {"open water"}
    assert set(points.geometry.geom_type) == {"Point"}
    assert boxes.geometry.contains(points.geometry).all()
    polygons = gpd.read_parquet(made / "polygons.parquet")
    forest = polygons[polygons["class"] == "open water"]
    assert sorted(points["area_m2"]) == sorted(forest["area_m2"])
    one = points.iloc[int(points["area_m2"].argmax())]
    column, row = (int(v) for v in ~transform @ (one.geometry.x, one.geometry.y))
    around = shapely.box(*boxes.iloc[int(points["area_m2"].argmax())].geometry.bounds)
    inside = rasterize([around], classes.shape, transform=transform).astype(bool)
    assert inside[row, column]
    assert 0 < one["confidence"] <= confidence[inside & (classes != 255)].max()


def test_the_mean_confidence_of_all_patches_is_that_of_their_pixels(project: Project, tmp_path: Path) -> None:
    from olmoearth_core.postprocess.events import with_confidence
    from olmoearth_core.postprocess.polygons import outline

    folder = project.root / "maps" / "whole"
    names = [c["name"] for c in CLASSES]
    patches = with_confidence(
        outline(folder / "map.tif", names, min_area=0, scratch=tmp_path), folder / "confidence.tif"
    )
    with rasterio.open(folder / "confidence.tif") as file:
        stored = file.read(1)
    pixels = (patches.geometry.area / 100).to_numpy()
    assert (patches["confidence"] * pixels).sum() / pixels.sum() == pytest.approx(
        stored[stored != 255].mean() / 250, abs=1e-4
    )


def test_the_geojson_says_where_when_and_how_sure(made: Path) -> None:
    content = json.loads((made / "events.geojson").read_text())
    points = gpd.read_file(made / "events.gpkg", layer="points").to_crs("EPSG:4326")
    assert len(content["features"]) == len(points)
    for feature, (_, row) in zip(content["features"], points.iterrows(), strict=True):
        west, south, east, north = feature["bbox"]
        x, y = feature["geometry"]["coordinates"]
        assert west < x < east
        assert south < y < north
        assert (x, y) == pytest.approx((row.geometry.x, row.geometry.y), abs=1e-6)
        assert feature["properties"]["class"] == row["class"] == "open water"
        assert feature["properties"]["confidence"] == pytest.approx(row["confidence"])
        assert feature["properties"]["start_datetime"] == "2024-05-01T00:00:00Z"
    item = json.loads((made / "item.json").read_text())
    assert {"events", "events_gpkg", "confidence"} <= set(item["assets"])


def test_again_the_same_bytes_and_no_class_is_no_file(project: Project, made: Path, tmp_path: Path) -> None:
    postprocess(postprocess_run(project, project.root / "tiles", tmp_path / "again"))
    assert checksums(tmp_path / "again") == checksums(made)
    plain = project.config.map.model_copy(update={"events": []})
    without = Project(project.root, project.config.model_copy(update={"map": plain}))
    postprocess(postprocess_run(without, project.root / "tiles", tmp_path / "without"))
    assert set(checksums(made)) - set(checksums(tmp_path / "without")) == {"events.geojson", "events.gpkg"}


def test_a_class_that_is_not_there_is_refused(project: Project) -> None:
    config = project.config.model_dump(mode="json", exclude_none=True)
    config["map"]["events"] = ["oil"]
    with pytest.raises(ProjectError, match=r"map\.events names 'oil'.*open water, forest, bare & built"):
        parse_project(yaml.safe_dump(config))
