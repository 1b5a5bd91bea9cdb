"""The templates: each makes a folder that loads; what cannot be made leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from olmoearth_core.errors import ProjectError, StoreError
from olmoearth_core.project import load_project
from olmoearth_core.templates import find_template, read_template, template_names, templates
from olmoearth_core.templates import write_template as write


def write_template(name: str, folder: Path, *, project_name: str) -> list[Path]:
    return write(find_template(name), folder, project_name=project_name)[0]


def test_the_templates_there_are() -> None:
    wanted = "blank crop-type land-cover burned-area demo forest-loss-driver fuel-moisture mangrove solar-farm water"
    assert set(template_names()) == set(wanted.split())
    assert all(template.about and template.origin == "olmoearth" for template in templates())


@pytest.mark.parametrize("name", template_names())
def test_a_template_makes_a_project_that_loads(name: str, tmp_path: Path) -> None:
    written = write_template(name, tmp_path / "new" / "mangroves", project_name="mangroves")

    project = load_project(tmp_path / "new" / "mangroves")
    assert project.config.name == "mangroves"
    assert [path.relative_to(project.root).as_posix() for path in written] == [
        "project.yaml", "README.md", "labels/.gitkeep",
    ]  # fmt: skip
    assert all(path.is_file() and "PROJECT_NAME" not in path.read_text() for path in written)
    assert len(written[0].read_text().splitlines()) <= 40
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mangroves"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "ponds").mkdir()
    write_template("water", tmp_path / "ponds", project_name="ponds")
    assert load_project(tmp_path / "ponds").config.task.class_names == ["land", "water"]


@pytest.mark.parametrize("name", ["2024", "on", "1e3", "null"])
def test_a_name_that_yaml_would_take_for_something_else(name: str, tmp_path: Path) -> None:
    write_template("blank", tmp_path / name, project_name=name)
    assert load_project(tmp_path / name).config.name == name


def test_an_unknown_template_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"'waters'.*blank, .*land-cover, .*water"):
        write_template("waters", tmp_path / "ponds", project_name="ponds")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["My Ponds", "", "-ponds", "a: b", "ponds\nmap: {}", "p" * 64])
def test_a_name_that_is_none_is_refused_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="name"):
        write_template("water", tmp_path / "ponds", project_name=name)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ProjectError, match=r"not empty \(holds notes.txt\)"):
        write_template("water", tmp_path, project_name="ponds")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "ponds").write_text("mine")
    with pytest.raises(ProjectError, match="is a file"):
        write_template("water", tmp_path / "ponds", project_name="ponds")
    assert (tmp_path / "ponds").read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_template("water", tmp_path / "ponds", project_name="ponds")
    assert not list(tmp_path.iterdir())


def own(folder: Path, yaml: str | None = None) -> Path:
    """A partner's own template."""
    folder.mkdir(parents=True)
    text = find_template("water").texts["project.yaml"] if yaml is None else yaml
    (folder / "project.yaml").write_text(text.replace("epochs: 40", "epochs: 7"))
    (folder / "README.md").write_text("# PROJECT_NAME, the ponds of a district\n")
    (folder / "labels").mkdir()
    (folder / "labels" / "style.qml").write_text("<qgis/>")
    return folder


def test_a_partners_own_templates(tmp_path: Path) -> None:
    folder = own(tmp_path / "shelf" / "ponds")
    found = {t.name: t for t in templates(tmp_path / "shelf")}
    assert (found["ponds"].about, found["ponds"].origin) == ("the ponds of a district", str(folder))
    assert find_template("ponds", tmp_path / "shelf").texts == find_template(f"{folder}/").texts
    files, _filled = write(found["ponds"], tmp_path / "mine", project_name="mine")
    assert [path.relative_to(tmp_path / "mine").as_posix() for path in files] == [
        "project.yaml", "README.md", "labels/style.qml",
    ]  # fmt: skip
    assert load_project(tmp_path / "mine").config.training.epochs == 7
    assert (tmp_path / "mine" / "README.md").read_text() == "# mine, the ponds of a district\n"


def test_own_templates_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no such folder"):
        find_template(str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProjectError, match=r"is no template; .* with a project.yaml"):
        find_template(str(tmp_path / "empty"))
    linked = own(tmp_path / "linked")
    (linked / "secret").symlink_to("/etc/hostname")
    with pytest.raises(ProjectError, match="secret is a link"):
        read_template(linked, "linked")
    pixels = own(tmp_path / "pixels")
    (pixels / "labels" / "a.tif").write_bytes(b"II*\xff\xfe")
    with pytest.raises(ProjectError, match=r"labels/a.tif is no text"):
        read_template(pixels, "pixels")
    fixed = own(tmp_path / "fixed", find_template("water").texts["project.yaml"].replace("PROJECT_NAME", "ponds"))
    with pytest.raises(ProjectError, match="says name: ponds; write name: PROJECT_NAME"):
        write(read_template(fixed, "fixed"), tmp_path / "mine", project_name="mine")
    assert not (tmp_path / "mine").exists()
