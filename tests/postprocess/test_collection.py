"""The catalogue of a project's maps."""

from __future__ import annotations

import json
from pathlib import Path

import pystac
import pytest
from smallmap import infer_run, postprocess_run, small_project

from olmoearth_core.inference.infer import infer
from olmoearth_core.manifest import MANIFEST
from olmoearth_core.postprocess.collection import write_collection
from olmoearth_core.postprocess.postprocess import postprocess


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two finished maps and one that is not."""
    project = small_project(tmp_path_factory.mktemp("project"))
    infer(infer_run(project, project.root / "tiles"))
    first = project.root / "maps" / "small-2024-05-01-abcd1234"
    postprocess(postprocess_run(project, project.root / "tiles", first))
    for place, day in (("small-2024-09-01-abcd1234", "2024-09-01"), ("unfinished", "2030-01-01")):
        item = json.loads((first / "item.json").read_text())
        item["id"] = place
        item["properties"] |= {"datetime": f"{day}T00:00:00Z", "end_datetime": "2024-10-30T23:59:59Z"}
        (project.root / "maps" / place).mkdir()
        (project.root / "maps" / place / "item.json").write_text(json.dumps(item))
    for place in ("small-2024-05-01-abcd1234", "small-2024-09-01-abcd1234"):
        (project.root / "maps" / place / MANIFEST).write_text("{}")
    assert write_collection(project) == project.root / "maps" / "collection.json"
    return project.root / "maps"


def test_it_is_valid_stac(maps: Path) -> None:
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    content = json.loads((maps / "collection.json").read_text())
    schemas = get_local_schema_cache()
    registry = Registry().with_resources([(uri, Resource.from_contents(s)) for uri, s in schemas.items()])
    schema = next(schema for uri, schema in schemas.items() if uri.endswith("/collection.json"))
    assert [error.message for error in Draft7Validator(schema, registry=registry).iter_errors(content)] == []


def test_each_finished_map_is_found_through_it(maps: Path) -> None:
    collection = pystac.Collection.from_file(str(maps / "collection.json"))
    assert [item.id for item in collection.get_items()] == ["small-2024-05-01-abcd1234", "small-2024-09-01-abcd1234"]
    first = next(iter(collection.get_items()))
    assert Path(first.assets["map"].get_absolute_href() or "").exists()
    assert collection.extent.temporal.to_dict()["interval"] == [["2024-05-01T00:00:00Z", "2024-10-30T23:59:59Z"]]
    boxes = collection.extent.spatial.bboxes
    assert len(boxes) == 3
    assert boxes[0] == pytest.approx(first.bbox)


def test_a_project_without_a_map_has_none(tmp_path: Path) -> None:
    assert write_collection(small_project(tmp_path)) is None
    assert not (tmp_path / "maps").exists()
