"""A workspace in one file, and back: consistent while others write, whole or not at all, verified before it is used."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sqlite3
import tarfile
import threading
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import smallrun

from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult
from registry import backup
from registry.audit.audit import audit
from registry.backup import back_up, restore
from registry.context import RunContext
from registry.errors import BackupError
from registry.mlflow.models import get_model, model_folder
from registry.registry import open_registry
from registry.versioning import dvc
from registry.workspace import Workspace


@pytest.fixture(scope="module")
def lived_in(
    finished: Path, models_home: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, Workspace, dict[str, StageResult]]:
    """A project, its workspace with everything in it below one home, and its stages. Not to be changed."""
    folder = tmp_path_factory.mktemp("lived")
    project = load_project(shutil.copytree(finished, folder / "small"))
    smallrun.write_settings(project.root, name="lived")
    project = load_project(project.root)
    workspace = Workspace.at(folder / "home")
    workspace.home.mkdir()
    _copy_mlflow(models_home, workspace)
    results = {name: replace(result, skipped=False) for name, result in smallrun.run(project).items()}
    dvc.ensure_pipeline(project, workspace)
    with open_registry(workspace) as registry:
        for name, result in results.items():
            dvc_hash = dvc.commit(project, workspace, name) if name in dvc.OUTPUTS else None
            registry.record(project, result, RunContext.here(project), dvc_hash=dvc_hash)
    dvc.push(project, workspace)
    return project, workspace, results


def _copy_mlflow(source: Workspace, target: Workspace) -> None:
    """An empty MLflow database takes seconds to make."""
    from registry.mlflow.client import open_client

    with open_client(source):
        pass
    there = source.tracking_uri.removeprefix("sqlite:///")
    shutil.copy(there, target.tracking_uri.removeprefix("sqlite:///"))


def test_what_comes_back_is_what_was_there(
    lived_in: tuple[Project, Workspace, dict[str, StageResult]], tmp_path: Path
) -> None:
    project, workspace, results = lived_in
    made = back_up(workspace, tmp_path / "house.tar", Silent())
    assert made.files > 10
    elsewhere = Workspace.at(tmp_path / "other" / "home")
    restored = restore(replace(elsewhere, signing_key="/a/key.pem"), tmp_path / "house.tar", Silent())
    assert (restored.files, restored.bytes, restored.created) == (made.files, made.bytes, made.created)
    assert _files(elsewhere.home / "artifacts") == _files(workspace.home / "artifacts")
    assert _files(elsewhere.home / "dvc-remote") == _files(workspace.home / "dvc-remote")

    hidden = workspace.home.rename(workspace.home.with_name("gone"))  # what was restored must do without it
    try:
        weights = model_folder(elsewhere, "lived", "champion") / "weights.safetensors"
        assert weights.is_relative_to(elsewhere.home)
        assert weights.read_bytes() == (results["finetune"].folder / "weights.safetensors").read_bytes()
        assert get_model(elsewhere, "lived").source.startswith(str(elsewhere.home))
        report = audit(elsewhere, results["postprocess"].folder / "map.tif")
        assert report.verified, report.sentence
    finally:
        hidden.rename(workspace.home)
    assert project.root.is_dir()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writers_may_be_at_work(tmp_path: Path) -> None:
    """Rows are written all the time, each transaction two of them: a copy has both or none."""
    workspace = Workspace.at(tmp_path / "home")
    open_registry(workspace).close()
    stop, written = threading.Event(), []

    def write() -> None:
        with closing(sqlite3.connect(workspace.home / "registry.db", timeout=60)) as connection:
            connection.execute("CREATE TABLE pairs (number INTEGER, half INTEGER)")
            while not stop.is_set():
                number = len(written)
                with connection:
                    connection.executemany("INSERT INTO pairs VALUES (?, ?)", [(number, 1), (number, 2)])
                written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = []
        for k in range(3):
            while len(written) < 20 * (k + 1):
                stop.wait(0.01)
            back_up(workspace, tmp_path / f"{k}.tar", Silent())
            copy = Workspace.at(tmp_path / f"copy{k}")
            restore(copy, tmp_path / f"{k}.tar", Silent())
            with closing(sqlite3.connect(copy.home / "registry.db")) as connection:
                halves, numbers = connection.execute("SELECT count(*), count(DISTINCT number) FROM pairs").fetchone()
            assert halves == 2 * numbers
            counts.append(numbers)
    finally:
        stop.set()
        writer.join()
    assert counts == sorted(set(counts)), "the writer went on between the copies"


@pytest.mark.parametrize("damage", ["content", "cut", "list", "seal", "foreign", "more"])
def test_a_damaged_file_restores_nothing(tmp_path: Path, damage: str) -> None:
    workspace, file = Workspace.at(tmp_path / "home"), tmp_path / "house.tar"
    open_registry(workspace).close()
    artifact = Path(workspace.artifacts) / "m" / "weights"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"precious" * 1000)
    back_up(workspace, file, Silent())
    content = bytearray(file.read_bytes())
    if damage == "content":
        content[content.index(b"preciousprecious") + 5] ^= 1
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "list":
        content[content.index(b'"schema_version"') + 18] ^= 1
    elif damage == "seal":
        content[content.rindex(b"backup.sha256") + 512] ^= 1
    elif damage == "foreign":
        content = bytearray(b"something else")
    file.write_bytes(content)
    if damage == "more":
        with tarfile.open(file, "a") as archive:
            archive.add(artifact, "artifacts/slipped-in")
    target = Workspace.at(tmp_path / "new")
    with pytest.raises(BackupError, match=r"house\.tar: "):
        restore(target, file, Silent())
    assert not target.home.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "house.tar"], "nothing is left behind"


def test_a_file_that_wants_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "house.tar", "w") as archive:
        archive.add(tmp_path / "evil", "../evil-out")
    with pytest.raises(BackupError, match="not a whole backup"):
        restore(Workspace.at(tmp_path / "new"), tmp_path / "house.tar", Silent())
    assert not (tmp_path / "evil-out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": []}, "list of files is damaged"),
        ({"files": {"registry.db": {"bytes": 5}}}, "list of files is damaged"),
        ({"places": None}, "list of files is damaged"),
        (None, "list of files is damaged"),
        ({"registry.db": b"no database" * 99}, r"registry\.db in it is damaged"),
        ({"mlflow.db": b"no database" * 99}, r"mlflow\.db in it is damaged"),
        ({"registry.db": b""}, r"has no registry\.db"),
    ],
)
def test_a_sealed_file_that_no_backup_wrote_restores_nothing(
    tmp_path: Path, change: dict[str, Any] | None, words: str
) -> None:
    contents = {"registry.db": b"", "mlflow.db": b""}
    with closing(sqlite3.connect(tmp_path / "empty.db")) as database:
        database.execute("CREATE TABLE some (id INTEGER)")
    contents = dict.fromkeys(contents, (tmp_path / "empty.db").read_bytes())
    told: Any = None
    if change is not None:
        contents |= {name: content for name, content in change.items() if name in contents}
        contents = {name: content for name, content in contents.items() if content}
        listed = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        }
        places = dict.fromkeys(("registry.db", "mlflow.db", "artifacts", "dvc-remote"), "/somewhere")
        told = {"schema_version": 1, "created": "2024-05-01", "places": places, "files": listed}
        told |= {name: value for name, value in change.items() if name in told}
    content = json.dumps(told).encode()
    contents |= {"backup.json": content, "backup.sha256": hashlib.sha256(content).hexdigest().encode()}
    _write_tar(tmp_path / "house.tar", contents)
    with pytest.raises(BackupError, match=words):
        restore(Workspace.at(tmp_path / "new"), tmp_path / "house.tar", Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "house.tar"], "nothing is left behind"


def _write_tar(file: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def test_a_compressed_file_and_a_folder_are_no_backup(tmp_path: Path) -> None:
    """A compressed file could grow to any size before its list of files is read."""
    workspace, file = Workspace.at(tmp_path / "home"), tmp_path / "house.tar"
    open_registry(workspace).close()
    back_up(workspace, file, Silent())
    (tmp_path / "house.tar.gz").write_bytes(gzip.compress(file.read_bytes()))
    for name in ("house.tar.gz", "home"):
        with pytest.raises(BackupError, match="not a whole backup"):
            restore(Workspace.at(tmp_path / "new"), tmp_path / name, Silent())


def test_a_file_that_goes_while_it_is_backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC and MLflow write beside the name and rename: what is gone by its turn was nothing that a row names."""
    workspace = Workspace.at(tmp_path / "home")
    open_registry(workspace).close()
    (Path(workspace.artifacts) / "m").mkdir(parents=True)
    for name in ("kept", "gone"):
        (Path(workspace.artifacts) / "m" / name).write_text(name)
    listed = backup._files
    monkeypatch.setattr(backup, "_files", lambda folder: [path for path in listed(folder) if _leaves(path) or True])
    made = back_up(workspace, tmp_path / "house.tar", Silent())
    assert made.files == 2
    assert restore(Workspace.at(tmp_path / "new"), tmp_path / "house.tar", Silent()).files == 2


def _leaves(path: Path) -> None:
    if path.name == "gone":
        path.unlink()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    workspace, file = Workspace.at(tmp_path / "home"), tmp_path / "house.tar"
    with pytest.raises(BackupError, match="nothing to back up"):
        back_up(workspace, file, Silent())
    assert not file.exists()
    open_registry(workspace).close()
    back_up(workspace, file, Silent())
    with pytest.raises(BackupError, match="is there already"):
        back_up(workspace, file, Silent())
    with pytest.raises(BackupError, match="is not empty; nothing is overwritten"):
        restore(workspace, file, Silent())
    with pytest.raises(BackupError, match="no such file"):
        restore(Workspace.at(tmp_path / "new"), tmp_path / "other.tar", Silent())
    with pytest.raises(BackupError, match="unset OLMOEARTH_REGISTRY_URL"):
        restore(Workspace.at(tmp_path / "new", artifacts=str(tmp_path / "elsewhere")), file, Silent())


@pytest.mark.parametrize("made", [True, False], ids=["an empty folder", "nothing yet"])
def test_a_home_may_be_a_link(tmp_path: Path, made: bool) -> None:
    """To a larger disk: the link stays, what it leads to is the home."""
    workspace, file, link = Workspace.at(tmp_path / "home"), tmp_path / "house.tar", tmp_path / "link"
    open_registry(workspace).close()
    back_up(workspace, file, Silent())
    link.symlink_to(tmp_path / "disk")
    if made:
        (tmp_path / "disk").mkdir()
    restore(Workspace.at(link), file, Silent())
    assert link.is_symlink()
    assert (tmp_path / "disk" / "registry.db").is_file()


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("registry_url", "postgresql+psycopg2://u:secret@h/d", r"registry: lives behind postgresql.*pg_dump"),
        ("tracking_uri", "http://mlflow:5000", r"mlflow: lives behind http.*pg_dump"),
        ("artifacts", "s3://bucket/a", r"artifacts: lie in s3://bucket/a.*versioning"),
        ("dvc_remote", "s3://bucket/d", r"dvc-remote: lie in s3://bucket/d.*versioning"),
    ],
)
def test_servers_are_backed_up_by_their_own_means(tmp_path: Path, setting: str, value: str, sentence: str) -> None:
    workspace = Workspace.at(tmp_path / "home", **{setting: value})
    with pytest.raises(BackupError, match=sentence) as refused:
        back_up(workspace, tmp_path / "house.tar", Silent())
    assert "secret" not in str(refused.value)
