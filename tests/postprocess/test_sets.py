"""The layer of prediction sets, made by the stage from the probabilities of real tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rio_cogeo.cogeo import cog_validate
from smallmap import CLASSES, clouds, infer_run, postprocess_run, small_project

from olmoearth_core.errors import MappingError, ProjectError
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.plan import PLAN, read_plan, write_plan
from olmoearth_core.postprocess.postprocess import postprocess
from olmoearth_core.project import Project, parse_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = small_project(tmp_path_factory.mktemp("project"), scl=clouds(), conformal={"coverage": 0.9})
    infer(infer_run(project, project.root / "tiles"))
    return project


def test_the_sets_are_what_the_probabilities_do_not_rule_out(project: Project, tmp_path: Path) -> None:
    summary = postprocess(postprocess_run(project, project.root / "tiles", tmp_path))
    sets = read_plan(project.root / "tiles").model.sets
    assert sets is not None
    with rasterio.open(tmp_path / "sets.tif") as file, rasterio.open(tmp_path / "probabilities.tif") as source:
        found, stored = file.read(), source.read()
        assert file.descriptions == ("classes in the set", *(f"may be {c['name']}" for c in CLASSES))
        assert file.nodata == 255
        assert file.tags()["OLMOEARTH_COVERAGE"] == "0.9"
        assert file.tags()["OLMOEARTH_MAP_ID"] == summary["map_id"]
        assert (file.transform, file.crs) == (source.transform, source.crs)
    with rasterio.open(tmp_path / "map.tif") as file:
        classes = file.read(1)
    assert cog_validate(tmp_path / "sets.tif")[0]
    known = classes != 255
    assert ((found == 255) == ~known).all()
    needed = np.rint(sets.needed(0.9) * 250)
    for k in range(3):
        assert ((found[k + 1] == 1) == (known & ((stored[k] >= needed[k]) | (stored[k] == stored.max(axis=0))))).all()
    assert (found[0][known] == found[1:].sum(axis=0)[known]).all()
    assert (np.take_along_axis(found[1:], np.where(known, classes, 0)[None], axis=0)[0][known] == 1).all()
    counted = {size: int((found[0] == int(size)).sum()) for size in ("1", "2", "3")}
    assert summary["sets"] == {"coverage": 0.9, "sizes": counted}
    assert sum(counted.values()) == summary["mapped_pixels"]
    assert len([size for size in counted.values() if size]) > 1
    item = json.loads((tmp_path / "item.json").read_text())
    assert len(item["assets"]["sets"]["bands"]) == 4
    assert not list((tmp_path).glob("**/sets-flat*"))


def test_a_model_without_them_is_refused_before_anything_is_made(project: Project, tmp_path: Path) -> None:
    plan = read_plan(project.root / "tiles")
    before = (project.root / "tiles" / PLAN).read_bytes()
    try:
        write_plan(
            plan.model_copy(update={"model": plan.model.model_copy(update={"sets": None})}), project.root / "tiles"
        )
        with pytest.raises(MappingError, match=r"map\.conformal.*olmoearth finetune"):
            postprocess(postprocess_run(project, project.root / "tiles", tmp_path))
    finally:
        (project.root / "tiles" / PLAN).write_bytes(before)
    assert not list(tmp_path.glob("*.tif"))


def test_a_regression_has_no_sets(project: Project) -> None:
    config = project.config.model_dump(mode="json", exclude_none=True)
    config["task"] = {"kind": "regression", "name": "height", "unit": "m", "range": [0.0, 30.0]}
    with pytest.raises(ProjectError, match=r"map\.conformal is for maps of classes"):
        parse_project(yaml.safe_dump(config))
