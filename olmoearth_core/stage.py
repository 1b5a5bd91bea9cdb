"""The stages' common ground: what a stage is, its key, and the one rule by which it is skipped.

A stage writes to a private work folder that survives a kill; finished, the folder gets its manifest and is renamed
into place. The same command after a kill finds the work folder by the stage key and goes on in it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import BusyError, ProjectError
from olmoearth_core.manifest import (
    SCRATCH,
    Manifest,
    damage,
    describe_outputs,
    read_manifest,
    stage_key,
    write_manifest,
)
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.store import disk_errors, publish_folder, write_json


@dataclass
class Meter:
    """Counts what a stage costs. Kept beside the manifest, never in it."""

    device: str = "cpu"
    device_seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Add the time inside the block to the device seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.device_seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Upstream:
    """A finished stage as the next one sees it."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class StageRun:
    """What a stage function is given."""

    project: Project
    out: Path
    """The work folder: everything in it becomes an output, except `scratch`. What an earlier, killed run of the same
    key left is still there, so the function checks what is complete and goes on."""
    upstream: Mapping[str, Upstream]
    files: Mapping[str, Path]
    progress: Progress
    meter: Meter
    key: str = ""
    """The stage key: what these outputs are traced by."""

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints and journals: survives a kill, is no output."""
        folder = self.out / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Stage:
    """One stage of the lifecycle."""

    name: str
    version: int
    """Raised when the code changes what the stage makes of the same input."""
    run: Callable[[StageRun], dict[str, Any]]
    """Fills `StageRun.out` and returns the manifest's summary."""
    settings: Callable[[Project], dict[str, Any]]
    """The part of project.yaml the outputs depend on, and nothing else."""
    place: Callable[[Project, str], str]
    """(project, stage key) -> the folder of the outputs, relative to the project."""
    after: tuple[str, ...] = ()
    """The stages whose outputs this one reads."""
    files: Callable[[Project, Progress], dict[str, Path]] = field(default=lambda _project, _progress: {})
    """The files this one reads (labels, area, frozen scene list); makes the scene list where it is missing."""


@dataclass(frozen=True)
class StageResult:
    """What came of asking for a stage."""

    stage: str
    folder: Path
    manifest: Manifest
    skipped: bool
    """True when the outputs were already there and verified."""
    record: dict[str, Any]
    """What it cost when it was computed: wall_seconds, device, device_seconds, bytes_read, bytes_written."""


@dataclass(frozen=True)
class _Plan:
    """A stage resolved against a project: where it goes and what it reads."""

    key: str
    folder: Path
    settings: dict[str, Any]
    inputs: dict[str, str]
    upstream: dict[str, Upstream]
    files: dict[str, Path]


@contextmanager
def project_lock(project: Project) -> Iterator[None]:
    """Hold the project for this process; the operating system lets go of it when the process dies.

    Re-entrant within a process.

    Raises:
        BusyError: another process holds it.
    """
    path = project.state / "lock"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path), is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"{project.root}: another run is at work on this project. Wait for it to end, or stop it, then try again."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _plan(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> _Plan:
    upstream = {name: _finished(stages[name], stages, project, progress) for name in stage.after}
    files = stage.files(project, progress)
    inputs = {name: done.manifest.outputs_digest for name, done in upstream.items()}
    inputs |= {name: sha256_file(path) for name, path in files.items()}
    settings = stage.settings(project)
    key = stage_key(stage.name, stage.version, settings, inputs)
    return _Plan(key, project.root / stage.place(project, key), settings, inputs, upstream, files)


def _finished(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> Upstream:
    plan = _plan(stage, stages, project, progress)
    manifest = read_manifest(plan.folder)
    if manifest is None or manifest.key != plan.key:
        raise ProjectError(
            f"{project.root}: the stage '{stage.name}' has no up-to-date outputs in {plan.folder.name}. "
            f"Run `olmoearth {stage.name}` first, or `olmoearth run` for all stages."
        )
    return Upstream(plan.folder, manifest)


def find_result(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> StageResult | None:
    """The verified outputs of `stage` for the project as it is now; None where the stage has to run.

    Raises:
        ProjectError: a stage before it has to run first.
    """
    plan = _plan(stage, stages, project, progress)
    return _verified(stage, project, plan)


def _verified(stage: Stage, project: Project, plan: _Plan) -> StageResult | None:
    manifest = read_manifest(plan.folder)
    if manifest is None or manifest.key != plan.key or damage(plan.folder, manifest):
        return None
    return StageResult(stage.name, plan.folder, manifest, True, read_record(project, stage.name, plan.key))


def run_stage(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> StageResult:
    """Run `stage`, or skip it when its outputs verify against its key.

    Raises:
        BusyError: another process is at work on the project.
        ProjectError: a stage before it has to run first.
        CoreError: whatever the stage refuses.
    """
    with project_lock(project):
        plan = _plan(stage, stages, project, progress)
        if (done := _verified(stage, project, plan)) is not None:
            return done
        work = project.state / "work" / f"{stage.name}-{plan.key[:12]}"
        manifest = read_manifest(work)  # complete, but killed before it was published
        if manifest is None or damage(work, manifest):
            manifest = _compute(stage, project, plan, work, progress)
        publish_folder(work, plan.folder, project.state / "trash" / stage.name)
        for abandoned in work.parent.glob(f"{stage.name}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        return StageResult(stage.name, plan.folder, manifest, False, read_record(project, stage.name, plan.key))


def _compute(stage: Stage, project: Project, plan: _Plan, work: Path, progress: Progress) -> Manifest:
    meter = Meter()
    with disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        summary = stage.run(StageRun(project, work, plan.upstream, plan.files, progress, meter, plan.key))
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        outputs = describe_outputs(work)
    manifest = Manifest(
        stage=stage.name,
        stage_version=stage.version,
        key=plan.key,
        settings=plan.settings,
        inputs=plan.inputs,
        outputs=outputs,
        summary=summary,
    )
    record = {
        "wall_seconds": time.perf_counter() - start,
        "device": meter.device,
        "device_seconds": meter.device_seconds,
        "bytes_read": meter.bytes_read,
        "bytes_written": sum(output.bytes for output in outputs.values()),
    }
    write_json(_record_path(project, stage.name, plan.key), record)
    write_manifest(work, manifest)
    return manifest


def _record_path(project: Project, stage: str, key: str) -> Path:
    return project.state / "records" / f"{stage}-{key[:12]}.json"


def read_record(project: Project, stage: str, key: str) -> dict[str, Any]:
    """What the stage cost when it was computed here; empty where that is not known."""
    import json

    try:
        record: dict[str, Any] = json.loads(_record_path(project, stage, key).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record
