"""The DVC ties against real git and DVC: the repository, the pipeline, and `dvc repro` that has nothing to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import smallrun
import yaml

from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult
from olmoearth_core.stages import label_files
from registry.context import RunContext
from registry.errors import VersioningError
from registry.versioning import dvc, git
from registry.versioning.dvc_store import content_hash, default_remote, stored_files
from registry.workspace import Workspace


def run_dvc(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run DVC as a partner would; its output."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_folder_becomes_a_repository_once(project: Project, workspace: Workspace) -> None:
    pipeline = dvc.ensure_pipeline(project, workspace)
    assert pipeline.file == project.root / "dvc.yaml"
    first = git.commit_of(project.root)
    assert first is not None
    assert default_remote(project.root) == workspace.dvc_remote
    committed = git.git(project.root, "show", "HEAD:.dvc/config")
    assert workspace.dvc_remote in committed, "a past revision uses that revision's remote"
    assert "analytics = false" in committed
    waiting = git.changed(project.root, ".")
    assert "project.yaml" in waiting
    assert not [name for name in waiting if name.startswith(("models/", "tiles/", "maps/", ".olmoearth/"))]

    before = {path: path.stat().st_mtime_ns for path in project.root.rglob("*") if ".dvc/tmp" not in str(path)}
    assert dvc.ensure_pipeline(project, workspace) == pipeline
    assert git.commit_of(project.root) == first
    changed = [path for path, moment in before.items() if path.stat().st_mtime_ns != moment]
    assert not [path for path in changed if path.is_file() and ".git" not in path.parts]


def test_commit_leaves_nothing_to_reproduce(
    project: Project, workspace: Workspace, results: dict[str, StageResult]
) -> None:
    hashes = {stage: dvc.commit(project, workspace, stage) for stage in ("export", "preprocess")}
    assert "up to date" in run_dvc(project.root, "repro")
    assert hashes == {stage: content_hash(results[stage].folder) for stage in hashes}
    assert dvc.recorded_hash(dvc.ensure_pipeline(project, workspace), "preprocess") == hashes["preprocess"]
    assert dvc.commit(project, workspace) == hashes["preprocess"]

    dvc.push(project, workspace)
    stored = stored_files(project.root, hashes["preprocess"])
    assert stored is not None
    assert {name: path.read_bytes() for name, path in stored.items()} == {
        path.relative_to(results["preprocess"].folder).as_posix(): path.read_bytes()
        for path in results["preprocess"].folder.rglob("*")
        if path.is_file()
    }
    remote = Path(workspace.dvc_remote)
    pushed = {path.relative_to(remote) for path in remote.rglob("*") if path.is_file()}
    assert Path("files/md5") / hashes["preprocess"][:2] / hashes["preprocess"][2:] in pushed

    smallrun.write_settings(project.root, seed=7)  # training is no business of the dataset
    assert "up to date" in run_dvc(project.root, "status")
    text = (project.root / "project.yaml").read_text()
    (project.root / "project.yaml").write_text(text.replace("dataset: {}", "dataset: {min_valid: 0.5}"))
    assert "preprocess" in run_dvc(project.root, "status")


def test_auxiliary_tasks_are_params_where_there_are_some(
    project: Project, workspace: Workspace, results: dict[str, StageResult]
) -> None:
    def params() -> list[str]:
        dvc.ensure_pipeline(project, workspace)
        stages = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
        return [key for stage in ("export", "preprocess") for key in stages[stage]["params"][0]["project.yaml"]]

    assert "auxiliary" not in params()  # DVC refuses params that are not there
    more = "auxiliary:\n- task: {name: height, kind: regression, unit: m, range: [0, 60]}\n  labels: {files: [a.tif]}\n"
    with (project.root / "project.yaml").open("a") as file:
        file.write(more)
    assert params().count("auxiliary") == 2
    for stage in ("export", "preprocess"):
        dvc.commit(project, workspace, stage)
    text = (project.root / "project.yaml").read_text()
    (project.root / "project.yaml").write_text(text.replace("[0, 60]", "[0, 70]"))
    told = run_dvc(project.root, "status")
    assert "export" in told
    assert "preprocess" in told


def test_the_door_pushes_the_dataset_once_and_a_remote_that_fails_stops_nothing(
    project: Project, workspace: Workspace, results: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import door

    notes: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "note", notes.append)
    remote = Path(workspace.dvc_remote)
    remote.parent.mkdir(parents=True)
    remote.write_text("a file where the remote's folder should be")

    def tell() -> None:
        for stage in ("export", "preprocess"):
            door._tell(project, workspace, results[stage], RunContext.here(project), progress)

    dvc.ensure_pipeline(project, workspace)
    tell()
    (note,) = notes
    assert note.startswith("The dataset version is not in the DVC remote yet:")
    remote.unlink()
    tell()
    assert len(notes) == 1
    shutil.rmtree(project.root / ".dvc" / "cache")
    for stage in ("export", "preprocess"):
        pushed = dvc.recorded_hash(dvc.ensure_pipeline(project, workspace), stage)
        assert pushed is not None
        assert stored_files(project.root, pushed) is not None, "the remote has all of it"

    monkeypatch.setattr(dvc, "run_dvc", lambda *_: pytest.fail("DVC was started with nothing to push"))
    dvc.push(project, workspace)
    monkeypatch.setenv("DVC_STAGE", "preprocess")
    (project.state / dvc.PUSHED).unlink()
    dvc.push(project, workspace)  # DVC holds the repository: to start it would wait for itself


def test_files_beside_a_shapefile_are_dependencies(project: Project, workspace: Workspace) -> None:
    """DVC runs a stage again for every file that gives the stage another key."""
    for suffix in (".shp", ".dbf", ".prj", ".qpj"):
        (project.root / "labels" / f"forest{suffix}").write_text(suffix)
    project = smallrun.write_settings(project.root, files=("labels/forest.shp",))
    dvc.ensure_pipeline(project, workspace)
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    assert stages["export"]["deps"] == ["labels/forest.shp", "labels/forest.dbf", "labels/forest.prj"]
    assert {project.root / name for name in stages["export"]["deps"]} == set(label_files(project).values())


def test_changed_label_files_change_the_pipeline(project: Project, workspace: Workspace) -> None:
    dvc.ensure_pipeline(project, workspace)
    own = yaml.safe_load((project.root / "dvc.yaml").read_text())
    own["stages"]["publish"] = {"cmd": "echo published"}
    own["stages"]["export"]["desc"] = "ours"
    (project.root / "dvc.yaml").write_text(yaml.safe_dump(own))
    changed = smallrun.write_settings(project.root, files=("labels/forest.geojson", "labels/more.geojson"))
    dvc.ensure_pipeline(changed, workspace)
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    assert stages["export"]["deps"] == ["labels/forest.geojson", "labels/more.geojson"]
    assert stages["preprocess"]["deps"] == ["labels/forest.geojson", "labels/more.geojson", "data/export"]
    assert stages["publish"] == {"cmd": "echo published"}
    assert stages["export"]["desc"] == "ours"


def nested(project: Project, workspace: Workspace) -> tuple[Path, dict[str, dict[str, object]]]:
    """A repository around the project whose dvc.yaml has the project's stages."""
    root = project.root.parent
    git.git(root, "init", "--quiet")
    (root / ".gitignore").write_text("home/\n")
    run_dvc(root, "init", "--quiet")
    stages = {f"small-{s}": {"wdir": "small", **dvc.stage_definition(project, s)} for s in ("export", "preprocess")}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return root, stages


def test_a_pipeline_further_up_is_used(project: Project, workspace: Workspace, results: dict[str, StageResult]) -> None:
    root, stages = nested(project, workspace)
    pipeline = dvc.ensure_pipeline(project, workspace)
    assert pipeline.file == root / "dvc.yaml"
    assert pipeline.names == {"export": "small-export", "preprocess": "small-preprocess"}
    assert not (project.root / "dvc.yaml").exists()
    assert not (project.root / ".git").exists()
    assert default_remote(root) == workspace.dvc_remote
    assert "config.local" not in git.git(root, "status", "--porcelain", "--untracked-files=all")

    for stage in ("export", "preprocess"):
        assert dvc.commit(project, workspace, stage) == content_hash(results[stage].folder)
    assert "up to date" in run_dvc(root, "repro")

    stages["small-export"]["deps"] = ["labels/other.geojson"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with pytest.raises(VersioningError, match=r"'small-export' depends on labels/other.geojson, but by .*project.yaml"):
        dvc.ensure_pipeline(project, workspace)


def test_an_ignored_folder_becomes_a_repository_of_its_own(project: Project, workspace: Workspace) -> None:
    git.git(project.root.parent, "init", "--quiet")
    (project.root.parent / ".gitignore").write_text("/small/\n")
    assert dvc.ensure_pipeline(project, workspace).repository == project.root
    assert (project.root / ".git").is_dir()


def test_a_folder_in_a_git_repository_stays_in_it(project: Project, workspace: Workspace) -> None:
    git.git(project.root.parent, "init", "--quiet")
    assert dvc.ensure_pipeline(project, workspace).repository == project.root
    assert not (project.root / ".git").exists()
    assert git.commit_of(project.root) is None, "the platform commits in repositories that it made"
    dvc.commit(project, workspace, "export")


def test_under_dvc_the_telling_is_left_to_dvc(
    project: Project, workspace: Workspace, results: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "preprocess")
    assert dvc.commit(project, workspace) == content_hash(results["preprocess"].folder)
    assert not (project.root / ".dvc").exists()


def test_a_busy_repository_is_waited_for(
    project: Project, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds DVC's own lock for a while, then for too long."""
    dvc.ensure_pipeline(project, workspace)
    code = (
        "import sys, time\n"
        "from dvc.repo import Repo\n"
        "with Repo(sys.argv[1]).lock:\n"
        "    print('held', flush=True)\n"
        "    time.sleep(float(sys.argv[2]))\n"
    )

    def hold(seconds: float) -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(project.root), str(seconds)], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    with hold(6) as holder:
        started = time.monotonic()
        dvc.commit(project, workspace, "export")
        assert time.monotonic() - started > 3, "DVC itself gives up after three seconds"
        holder.wait()
    monkeypatch.setattr(dvc, "BUSY_SECONDS", 0.0)
    with hold(60) as holder:
        with pytest.raises(VersioningError, match=r"dvc commit says: .*[Uu]nable to acquire lock"):
            dvc.commit(project, workspace, "export")
        holder.kill()


def test_outputs_that_are_gone(project: Project, workspace: Workspace) -> None:
    (project.root / "data" / "dataset").rename(project.root / "elsewhere")
    with pytest.raises(VersioningError, match="dvc commit says"):
        dvc.commit(project, workspace)


def test_a_broken_pipeline_file(project: Project, workspace: Workspace) -> None:
    (project.root / "dvc.yaml").write_text("stages: [")
    with pytest.raises(VersioningError, match=r"dvc\.yaml: cannot be read"):
        dvc.ensure_pipeline(project, workspace)


def test_labels_behind_a_link(project: Project, workspace: Workspace, tmp_path: Path) -> None:
    """The reference project reads the real data sets through a link that git does not know."""
    (project.root / "labels").rename(tmp_path / "elsewhere")
    (project.root / "source").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    linked = smallrun.write_settings(project.root, files=("source/forest.geojson",))
    smallrun.run(linked, "export", "preprocess")
    for stage in ("export", "preprocess"):
        dvc.commit(linked, workspace, stage)
    assert "up to date" in run_dvc(project.root, "repro")


def test_the_context_knows_code_and_project(project: Project, workspace: Workspace) -> None:
    context = RunContext.here(project)
    assert context.project_commit is None
    assert context.project_dirty is None
    assert context.code_commit is not None
    assert context.who
    assert len(context.environment_sha256) == 64
    dvc.ensure_pipeline(project, workspace)
    assert RunContext.here(project).project_dirty is True
    git.git(project.root, "add", ".")
    git.git(project.root, *git.identity(project.root), "commit", "--quiet", "-m", "mine")
    clean = RunContext.here(project)
    assert clean.project_commit == git.commit_of(project.root)
    assert clean.project_dirty is False
    assert clean.invocation != context.invocation


def test_an_image_says_of_which_commit_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed without a repository, as in a container."""
    from registry import context

    package = tmp_path / "registry"
    package.mkdir()
    monkeypatch.setattr(context, "__file__", str(package / "context.py"))
    monkeypatch.setattr(context, "CODE", tmp_path)
    asked = context._code.__wrapped__
    assert asked() == (None, None)
    monkeypatch.setenv("OLMOEARTH_CODE_COMMIT", "a" * 40)
    assert asked() == ("a" * 40, None)


def test_git_is_not_misled_by_the_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git hook that starts a run sets GIT_DIR; it must not become the project's repository."""
    monkeypatch.setenv("GIT_DIR", os.fspath(Path(__file__).parents[2] / ".git"))
    assert git.top(project.root) is None


def test_the_root_pipeline_is_the_reference_projects(workspace: Workspace, tmp_path: Path) -> None:
    """In a clone, so that this repository's own configuration stays as it is."""
    root = Path(__file__).parents[2]
    clone = tmp_path / "clone"
    git.git(root, "clone", "--quiet", "--no-hardlinks", os.fspath(root), os.fspath(clone))
    reference = load_project(clone / "projects" / "reservoir")
    pipeline = dvc.ensure_pipeline(reference, workspace)
    assert pipeline.file == clone / "dvc.yaml"
    assert pipeline.names == {"export": "export", "preprocess": "preprocess"}
    stages = yaml.safe_load((clone / "dvc.yaml").read_text())["stages"]
    for stage in dvc.OUTPUTS:
        assert stages[stage] == {"wdir": "projects/reservoir", **dvc.stage_definition(reference, stage)}
    assert git.git(clone, "status", "--porcelain") == "", "nothing of this machine gets into git"
