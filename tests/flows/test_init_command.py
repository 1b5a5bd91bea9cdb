"""`olmoearth init` and `templates` as a partner calls them: whole or not at all, a git + DVC repository of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partner import Run, command_environment
from shore import write_shore
from typer.testing import CliRunner

from flows.cli.app import app
from flows.starting import fetch_template, keep_template, start_project
from olmoearth_core.errors import CoreError, ProjectError
from olmoearth_core.project import load_project
from olmoearth_core.templates import Answers, find_template
from registry.errors import RegistryError, VersioningError
from registry.workspace import Workspace


def own_template(folder: Path) -> Path:
    """A partner's own template, in a git repository."""
    (folder / "ponds").mkdir(parents=True)
    text = find_template("water").texts["project.yaml"].replace("epochs: 40", "epochs: 7")
    (folder / "ponds" / "project.yaml").write_text(text)
    (folder / "ponds" / "README.md").write_text("# PROJECT_NAME: the ponds of a district\n")
    identity = ("-c", "user.name=P", "-c", "user.email=p@localhost")
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "ponds"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def test_a_new_project_is_whole(tmp_path: Path, olmoearth: Run) -> None:
    given = write_shore(tmp_path / "given").root
    shore = given / "labels" / "shore.geojson"
    made = olmoearth("init", "shore", "--labels", shore, "--catalogue", given / "imagery", "--json", cwd=tmp_path)
    assert made.code == 0, made.err
    assert len(made.json["notes"]) == 2
    root = tmp_path / "shore"
    log = subprocess.run(["git", "log", "--oneline"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "Begin the project's pipeline" in log
    left = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert left == "", "project.yaml and labels are committed"
    assert (root / ".dvc").is_dir()
    assert "labels/shore.geojson" in (root / "dvc.yaml").read_text()
    assert olmoearth("validate", root, "--json").json["project"] == "shore"


def test_labels_that_are_named_by_nothing() -> None:
    found = CliRunner().invoke(app, ["init", "x", "--labels", ""])
    assert found.exit_code == 2
    assert "names nothing; give a file" in found.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["../x"], "climbs out of this folder"),
        (["a/../../x"], "climbs out of this folder"),
        (["x", "-t", "nothing"], "'nothing': no such template; there are blank,"),
        (["x", "-t", "./nothing"], "no such folder"),
        (["x", "-t", "file:///nowhere/at.git"], "cannot be cloned"),
        (["x", "--labels", "gone.gpkg"], "gone.gpkg: no such file"),
        (["x", "--date", "someday"], "--date someday: expected a date like"),
        (["X y"], "cannot be a name"),
        (["x" * 300], "cannot be a folder"),
    ],
)
def test_what_cannot_begin_is_told_in_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in")
    found = CliRunner().invoke(app, ["init", *arguments])
    assert isinstance(found.exception, CoreError | RegistryError)
    assert words in str(found.exception)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "in"]


def test_git_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    refusing = tmp_path / "bin" / "git"
    refusing.write_text("#!/bin/sh\necho 'fatal: no' >&2\nexit 128\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}:{os.environ['PATH']}")
    with pytest.raises(VersioningError, match="fatal: no"):
        start_project(tmp_path / "new" / "ponds", "water", Answers(), Workspace.at(tmp_path / "home"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(VersioningError):
        start_project(tmp_path / "empty", "water", Answers(), Workspace.at(tmp_path / "home"))
    assert list((tmp_path / "empty").iterdir()) == []


NAMES = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=80),
    st.lists(st.sampled_from(["..", ".", "a", "B", "x y", "", "~", "~nobody", "é"]), max_size=4).map("/".join),
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,70}", fullmatch=True),
)


@settings(max_examples=60)
@given(NAMES)
def test_no_name_leads_out_of_the_folder_or_leaves_half_a_project(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    (outer / "here").mkdir()
    (outer / "bin").mkdir()  # without git a name that may be is the only thing that gets as far
    former, path = Path.cwd(), os.environ["PATH"]
    os.chdir(outer / "here")
    os.environ["PATH"] = str(outer / "bin")
    try:
        if not name.startswith("/"):  # an absolute path may be named
            with pytest.raises((ProjectError, VersioningError)):
                start_project(Path(name), "blank", Answers(), Workspace.at(outer / "home"))
    finally:
        os.chdir(former)
        os.environ["PATH"] = path
    assert sorted(found.name for found in outer.rglob("*")) == ["bin", "here"]


def test_templates_of_ones_own(tmp_path: Path, olmoearth: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = own_template(tmp_path / "ours")
    workspace = Workspace.at(tmp_path / "home")
    url = f"file://{repository}#ponds"
    assert fetch_template(url, workspace).about == "the ponds of a district"
    for climbing in (f"file://{repository}#../..", f"file://{repository}#/etc"):
        with pytest.raises(ProjectError, match="climbs out"):
            fetch_template(climbing, workspace)
    with pytest.raises(ProjectError, match="is no template"):
        fetch_template(f"file://{repository}", workspace)
    with pytest.raises(ProjectError, match="cannot be the name of a template"):
        keep_template(url, workspace, "../ponds")

    monkeypatch.setenv("OLMOEARTH_TEMPLATES", str(tmp_path / "shelf"))
    kept = olmoearth("templates", "--add", url, "--name", "lakes", "--json")
    assert kept.code == 0, kept.err
    assert {
        "name": "lakes",
        "about": "the ponds of a district",
        "origin": str(tmp_path / "shelf" / "lakes"),
    } in kept.json
    made = olmoearth("init", tmp_path / "mine", "--template", "lakes")
    assert made.code == 0, made.err
    assert load_project(tmp_path / "mine").config.training.epochs == 7


def test_in_a_terminal_it_asks_for_what_is_open(tmp_path: Path, home: Path) -> None:
    given = write_shore(tmp_path / "given").root
    shore = given / "labels" / "shore.geojson"
    labels = shore
    labels.write_text(labels.read_text().replace('"class"', '"kind"'))
    ours, theirs = pty.openpty()
    answers = [
        "nothing",
        "water",
        str(tmp_path / "gone"),
        str(labels),
        "clas",
        "kind",
        str(given / "imagery"),
        "soon",
        "2024-05-01",
    ]
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    done = subprocess.run(
        [str(Path(sys.executable).parent / "olmoearth"), "init", "asked"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=command_environment(home), timeout=120,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0, shown
    config = load_project(tmp_path / "asked").config
    assert config.labels.class_property == "kind"
    assert config.imagery.catalogue == "../given/imagery/catalog.json"
    assert str(config.map.date) == "2024-05-01"
    for told in ("There is no 'nothing'", "There is no file", "There is no 'clas'", "A date is written"):
        assert told in shown


def test_a_template_by_git_that_links_out_or_bears_a_password(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path / "home")
    folder = own_template(tmp_path / "own")
    (folder / "ponds" / "hosts").symlink_to("/etc/hosts")
    (folder / "out").symlink_to("/etc")
    for arguments in (["add", "."], ["-c", "user.name=P", "-c", "user.email=p@localhost", "commit", "-qm", "links"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    with pytest.raises(ProjectError, match="hosts is a link; a template holds its files itself"):
        fetch_template(f"file://{folder}#ponds", workspace)
    with pytest.raises(ProjectError, match="#out climbs out of the repository"):
        fetch_template(f"file://{folder}#out", workspace)
    for secret in ("geheim", "ge/heim", "ge@heim"):
        with pytest.raises(VersioningError, match=r"//\*\*\*@127.0.0.1") as refused:
            fetch_template(f"http://me:{secret}@127.0.0.1:9/ponds.git", workspace)
        assert "heim" not in str(refused.value)
    assert not (tmp_path / "home" / "templates").exists()
