"""Tiles that fail: tried again, then named, while the rest goes on; and tried anew when somebody says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from smallmap import checksums, clouds, infer_run, small_project

from olmoearth_core.errors import ImageryError, MappingError
from olmoearth_core.inference import worker as worker_module
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.job import ATTEMPTS
from olmoearth_core.inference.journals import failed_tiles, forget_failed
from olmoearth_core.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project(tmp_path_factory.mktemp("project"), scl=clouds())


@pytest.fixture(scope="module")
def whole(project: Project) -> dict[str, str]:
    """The tiles of a run in which nothing failed."""
    infer(infer_run(project, project.root / "whole"))
    return checksums(project.root / "whole")


class Faults:
    """Composing a strip fails for as long as it is said, where the strip reaches far to the west."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.met = times, error, 0
        self.real, self.west = worker_module.compose, None

    def __call__(self, scenes: Any, box: Any, *given: Any, **named: Any) -> Any:
        self.west = min(box.column, box.column if self.west is None else self.west)
        if box.column == self.west and self.left > 0:
            self.left, self.met = self.left - 1, self.met + 1
            raise self.error
        return self.real(scenes, box, *given, **named)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def begin(times: int, error: Exception) -> Faults:
        made = Faults(times, error)
        monkeypatch.setattr(worker_module, "compose", made)
        return made

    return begin


@pytest.mark.parametrize("error", [ImageryError("the server is tired"), MemoryError(), OSError("reset by peer")])
def test_a_fault_that_passes_costs_nothing(
    project: Project, whole: dict[str, str], tmp_path: Path, faults: Any, error: Exception
) -> None:
    met = faults(1, error)
    infer(infer_run(project, tmp_path))
    assert met.met == 1
    assert checksums(tmp_path) == whole


def test_a_tile_that_fails_for_good_is_named_and_the_rest_is_kept_and_tried_again_when_told(
    project: Project, whole: dict[str, str], tmp_path: Path, faults: Any
) -> None:
    met = faults(10**6, ImageryError("the server is gone."))
    with pytest.raises(
        MappingError, match=r"tiles could not be mapped in 3 attempts.*the server is gone.*--retry-failed"
    ):
        infer(infer_run(project, tmp_path))
    failed = failed_tiles(tmp_path / ".scratch")
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tif")}
    assert failed
    assert len(kept) == len([name for name in whole if name.endswith(".tif")]) - len(failed)
    assert met.met >= ATTEMPTS * len(failed)

    tried = met.met
    with pytest.raises(MappingError, match="--retry-failed"):  # not tried again unasked
        infer(infer_run(project, tmp_path))
    assert met.met == tried

    met.left = 0
    assert sorted(forget_failed(tmp_path / ".scratch")) == sorted(failed)
    infer(infer_run(project, tmp_path))
    assert checksums(tmp_path) == whole
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept


def test_a_defect_of_ours_is_no_fault_of_a_tile(project: Project, tmp_path: Path, faults: Any) -> None:
    faults(1, ValueError("shapes do not fit"))
    with pytest.raises(ValueError, match="shapes do not fit"):
        infer(infer_run(project, tmp_path))
