"""The projects in the repository load, and find their data through the link that their README tells to make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from olmoearth_core.project import load_project

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in (ROOT / "projects").glob("*/project.yaml"))
IMPORTED = ("eurosat", "romania_forest")
"""Their data is imported, not linked: test_imported_projects.py."""


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_project_loads(name: str) -> None:
    project = load_project(ROOT / "projects" / name)
    assert project.config.name == name
    assert len((project.root / "project.yaml").read_text().splitlines()) <= 40
    readme = (project.root / "README.md").read_text()
    assert "olmoearth import" in readme if name in IMPORTED else "ln -sfn" in readme


@pytest.mark.parametrize("name", sorted({*NAMES} - {*IMPORTED}))
def test_its_paths_exist_behind_the_link(name: str, tmp_path: Path, real_data: Path) -> None:
    folder = shutil.copytree(ROOT / "projects" / name, tmp_path / name, ignore=lambda *_: {"source", "data"})
    (folder / "source").symlink_to(real_data / ("alps_clouds" if name == "alps_clouds" else "reservoir"))
    project = load_project(folder)
    labels = project.config.labels
    for path in (*labels.files, *([labels.area] if labels.area else []), project.config.map.area):
        assert path.startswith("source/")
        assert project.path(path).is_file(), path
    assert project.path(project.config.imagery.catalogue).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_git_keeps_neither_the_link_nor_what_is_made(name: str) -> None:
    made = ["source", "data/export/a.tif", "models/a", "tiles/a", "maps/a", ".olmoearth/lock"]
    ignored = subprocess.run(
        ["git", "check-ignore", *(f"projects/{name}/{path}" for path in made)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(ignored.stdout.splitlines()) == len(made)
