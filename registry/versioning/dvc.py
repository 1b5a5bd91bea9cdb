"""The DVC ties: a project's pipeline of export and preprocess, and the dataset versions it names.

The platform makes the repository and its first commits; after that it never commits to git. It says what to commit, and
the registry records the revision and whether there were changes since.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from olmoearth_core.project import PROJECT_FILE, Project
from olmoearth_core.stages import label_files
from olmoearth_core.store import write_json, write_text
from registry.errors import VersioningError
from registry.versioning import git
from registry.versioning.dvc_store import content_hash, default_remote, find_repository, holds
from registry.workspace import Workspace

PIPELINE, LOCK = "dvc.yaml", "dvc.lock"
OUTPUTS = {"export": "data/export", "preprocess": "data/dataset"}
PARAMS = {
    "export": ["labels", "auxiliary", "imagery", "model.window_size"],
    "preprocess": ["task", "labels", "auxiliary", "imagery", "dataset", "model.window_size"],
}
"""Stage -> keys of project.yaml that it depends on, where they are there: DVC refuses params that it does not find."""
REMOTE = "workspace"
PUSHED = "pushed.json"
"""In the project's state: what was pushed last, and where to. To start DVC only to hear this would take seconds."""
NOT_VERSIONED = (".olmoearth/", "models/", "tiles/", "maps/", "embeddings/", "similar/")
"""What git and DVC do not look at: the platform's state, models (MLflow has them), tiles and maps (the registry)."""
BELONGS_IN_GIT = (
    PROJECT_FILE,
    "README.md",
    "labels",
    PIPELINE,
    LOCK,
    ".gitignore",
    ".dvc",
    ".dvcignore",
    "data/.gitignore",
    "scenes",
    "splits",
    "anchors.jsonl",
)
"""Files and folders of a project that a past revision needs; imagery that lies beside them is none of it."""
MOST_BYTES_IN_GIT = 10_000_000
"""A label file that is larger is left to its owner: the registry keeps what runs read by its sha256 anyway."""
BUSY = re.compile(r"unable to acquire lock|is busy, it is being blocked", re.IGNORECASE)
BUSY_SECONDS, BUSY_PAUSE_SECONDS = 120.0, 1.0


@dataclass(frozen=True)
class Pipeline:
    """Where the stages export and preprocess of a project stand."""

    repository: Path
    """Root of the DVC repository."""
    file: Path
    """The dvc.yaml."""
    names: dict[str, str]
    """Stage of the platform -> its name in that file."""

    def address(self, stage: str, seen_from: Path) -> str:
        """The stage as DVC's commands want it."""
        return f"{os.path.relpath(self.file, seen_from)}:{self.names[stage]}"


def ensure_pipeline(project: Project, workspace: Workspace) -> Pipeline:
    """Make the project folder a git and DVC repository with a pipeline, where it is not one yet.

    A folder inside a repository (that does not ignore it) stays in that one. A dvc.yaml further up whose stages have
    `wdir` pointing to the folder is used as it is; else the folder gets its own, kept in step with project.yaml's label
    files.

    Raises:
        VersioningError: git or DVC is missing or refuses, or a dvc.yaml further up names other label files.
    """
    root = project.root
    top = git.top(root)
    if top is None:
        git.git(root, "-c", "init.defaultBranch=main", "init", "--quiet")
        top = root
    repository = find_repository(root, top.resolve())
    if repository is None:
        run_dvc(root, "init", *([] if top.resolve() == root else ["--subdir"]))
        repository = root
        _write_config(root / ".dvc" / "config", workspace, core="    analytics = false\n    autostage = false\n")
        _add_lines(root / ".dvcignore", NOT_VERSIONED)
    elif default_remote(repository) is None:
        _write_config(repository / ".dvc" / "config.local", workspace)  # this machine's own, not in git
    pipeline = _find_pipeline(project, repository)
    if pipeline is None or pipeline.file.parent == root:
        _add_lines(root / ".gitignore", NOT_VERSIONED)
        pipeline = _write_pipeline(project, repository)
    else:
        _check_pipeline(project, pipeline)
    if top.resolve() == root:
        _first_commit(root)
    return pipeline


def commit(project: Project, workspace: Workspace, stage: str = "preprocess") -> str:
    """Tell DVC that the outputs of `stage` are up to date, so that `dvc repro` has nothing to do; returns DVC's hash.

    Called by DVC itself (`dvc repro` runs `olmoearth <stage>`), it leaves the telling to DVC and only returns the hash.
    Waits up to two minutes for another DVC process to let go of the repository.

    Args:
        project: its outputs of `stage` are complete.
        workspace: for the remote, where the repository has to be made first.
        stage: export or preprocess.

    Raises:
        VersioningError: DVC refuses, or is busy for too long.
    """
    if "DVC_STAGE" in os.environ:
        return content_hash(project.root / OUTPUTS[stage])
    pipeline = ensure_pipeline(project, workspace)
    run_dvc(project.root, "commit", "--force", pipeline.address(stage, project.root))
    found = recorded_hash(pipeline, stage)
    if found is None:
        raise VersioningError(f"{pipeline.file.with_name(LOCK)}: DVC wrote no hash of {OUTPUTS[stage]}.")
    return found


def remote_of(project: Project) -> str | None:
    """URL or folder of the remote that the project's dataset versions are pushed to; None where there is none."""
    top = git.top(project.root)
    repository = find_repository(project.root, top.resolve()) if top else None
    return default_remote(repository) if repository else None


def recorded_hash(pipeline: Pipeline, stage: str) -> str | None:
    """DVC's hash of the stage's outputs as the pipeline's dvc.lock has it; None where it has none."""
    locked = _load(pipeline.file.with_name(LOCK)).get("stages", {}).get(pipeline.names[stage], {})
    for output in locked.get("outs", []):
        if output["path"] == OUTPUTS[stage]:
            return str(output["md5"])
    return None


def push(project: Project, workspace: Workspace) -> None:
    """Copy the dataset version to the DVC remote, unless that was done before.

    Does nothing when DVC itself runs the stage (`dvc repro`): it holds the repository, and names the outputs.

    Raises:
        VersioningError: the remote cannot be reached or refuses.
    """
    if "DVC_STAGE" in os.environ:
        return
    pipeline = ensure_pipeline(project, workspace)
    hashes = {stage: found for stage in OUTPUTS if (found := recorded_hash(pipeline, stage))}
    remote = default_remote(pipeline.repository)
    done, note = {"remote": remote, **hashes}, project.state / PUSHED
    if hashes and not (_read_note(note) == done and holds(remote, hashes.values())):
        run_dvc(project.root, "push", *(pipeline.address(stage, project.root) for stage in hashes))
        write_json(note, done)


def _read_note(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def to_keep(project: Project) -> list[str]:
    """What a past revision needs, is small enough for git, and is new or changed: paths relative to the project."""
    top = git.top(project.root)
    if top is None:
        return []
    found = [os.path.relpath(top.resolve() / name, project.root) for name in git.changed(project.root, *BELONGS_IN_GIT)]
    return [name for name in found if _size(project.root / name) <= MOST_BYTES_IN_GIT]


def commit_beginning(project: Project) -> list[str]:
    """Commit a new project's own files in the repository that was made for it; elsewhere nothing. Returns their paths.

    Raises:
        VersioningError: git refuses.
    """
    root, top = project.root, git.top(project.root)
    names = to_keep(project) if top is not None and top.resolve() == root else []
    if names:
        git.git(root, "add", "--", *names)
        git.git(root, *git.identity(root), "commit", "--quiet", "--no-verify", "-m", "Begin the project", "--", *names)
    return names


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def stage_definition(project: Project, stage: str) -> dict[str, Any]:
    """What dvc.yaml says of a stage of this project."""
    files = [_path(project, name, path) for name, path in label_files(project).items()]
    keeps = _dvc_keeps(project, stage)
    settings = _load(project.root / PROJECT_FILE)
    there = [name for name in PARAMS[stage] if _has(settings, name)]
    return {
        "cmd": f"olmoearth {stage}",
        "deps": [*files, *([] if keeps else [PROJECT_FILE]), *([OUTPUTS["export"]] if stage == "preprocess" else [])],
        "params": [{PROJECT_FILE: there}] if keeps else [],
        "outs": [{OUTPUTS[stage]: {"persist": True}}],
    }


def _has(settings: Any, name: str) -> bool:
    """Whether the key, dots between its parts, is written down."""
    first, _, rest = name.partition(".")
    return isinstance(settings, dict) and first in settings and (not rest or _has(settings[first], rest))


def _dvc_keeps(project: Project, stage: str) -> bool:
    """Whether DVC can keep the stage's settings as params: a date without quotes it reads as one, and cannot write.

    Then the stage depends on the whole file: after a change elsewhere in it `dvc repro` asks us, and we skip.
    """
    settings = _load(project.root / PROJECT_FILE)
    try:
        json.dumps([settings.get(name.partition(".")[0]) for name in PARAMS[stage]], sort_keys=True)
    except TypeError:
        return False
    return True


def _path(project: Project, name: str, path: Path) -> str:
    """A label file as project.yaml writes it; what lies beside a shapefile is written as that is."""
    if path != project.path(name):
        name = str(Path(name.removesuffix(f" {path.suffix}")).with_suffix(path.suffix))
    return str(Path(name).expanduser()) if name.startswith("~") else name


def _find_pipeline(project: Project, repository: Path) -> Pipeline | None:
    """The dvc.yaml, from the project upwards, that has both stages for this folder."""
    for place in (project.root, *project.root.parents):
        names = _names(place / PIPELINE, project.root)
        if len(names) == len(OUTPUTS):
            return Pipeline(repository, place / PIPELINE, names)
        if place == repository:
            return None
    return None


def _names(file: Path, folder: Path) -> dict[str, str]:
    found = {}
    for name, definition in _load(file).get("stages", {}).items():
        if not isinstance(definition, dict):
            continue
        there = (file.parent / definition.get("wdir", ".")).resolve() == folder
        for stage in OUTPUTS:
            if there and str(definition.get("cmd", "")).split() == ["olmoearth", stage]:
                found[stage] = name
    return found


def _write_pipeline(project: Project, repository: Path) -> Pipeline:
    """Write the two stages into the project's own dvc.yaml where they are missing or other; others stay."""
    file = project.root / PIPELINE
    content = _load(file)
    names = {stage: stage for stage in OUTPUTS} | _names(file, project.root)
    stages = dict(content.get("stages", {}))
    for stage, name in names.items():
        stages[name] = {**stages.get(name, {}), **stage_definition(project, stage)}
    if stages != content.get("stages"):
        write_text(file, yaml.safe_dump({**content, "stages": stages}, sort_keys=False, allow_unicode=True))
    return Pipeline(repository, file, names)


def _check_pipeline(project: Project, pipeline: Pipeline) -> None:
    stages = _load(pipeline.file)["stages"]
    for stage, name in pipeline.names.items():
        have, need = set(stages[name].get("deps", [])), set(stage_definition(project, stage)["deps"])
        if have != need:
            raise VersioningError(
                f"{pipeline.file}: the stage '{name}' depends on {', '.join(sorted(have)) or 'nothing'}, but by "
                f"{project.root / PROJECT_FILE} it must depend on {', '.join(sorted(need))}. Correct its deps."
            )


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VersioningError(f"{file}: cannot be read ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}


def _write_config(path: Path, workspace: Workspace, core: str = "") -> None:
    before = path.read_text() if path.name == "config.local" and path.is_file() else ""
    text = f"{before}[core]\n{core}    remote = {REMOTE}\n['remote \"{REMOTE}\"']\n    url = {workspace.dvc_remote}\n"
    write_text(path, text)


def _add_lines(path: Path, lines: tuple[str, ...]) -> None:
    before = path.read_text() if path.is_file() else ""
    have = {line.lstrip("/") for line in before.splitlines()}
    missing = [line for line in lines if line not in have]
    if missing:
        gap = "" if not before or before.endswith("\n") else "\n"
        write_text(path, before + gap + "".join(f"{line}\n" for line in missing))


def _first_commit(root: Path) -> None:
    """Commit what makes a past revision work: DVC's configuration with its remote, and the pipeline."""
    if git.commit_of(root) is not None:
        return
    ours = [
        name
        for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", PIPELINE)
        if (root / name).is_file()
    ]
    git.git(root, "add", "--", *ours)
    git.git(
        root, *git.identity(root), "commit", "--quiet", "--no-verify", "-m", "Begin the project's pipeline", "--", *ours
    )


def run_dvc(folder: Path, *arguments: str) -> None:
    """Run DVC in `folder`; waits while another process holds the repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder,
            env={**environment, "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        if not BUSY.search(said) or time.monotonic() > deadline:
            raise VersioningError(f"{folder}: dvc {arguments[0]} says: {said[:500]}")
        time.sleep(BUSY_PAUSE_SECONDS)
