"""The stages' common ground: what a stage is, its key, and the one rule by which it is skipped.

A stage writes to a private work folder that survives a kill; finished, the folder gets its manifest and is renamed
into place. The same command after a kill finds the work folder by the stage key and goes on in it. Published outputs
that were damaged become such a work folder again: what is whole of them is kept.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import BusyError, ProjectError, StoreError
from olmoearth_core.manifest import (
    MANIFEST,
    SCRATCH,
    Manifest,
    damaged_files,
    describe_outputs,
    output_files,
    read_manifest,
    stage_key,
    write_manifest,
)
from olmoearth_core.progress import Progress
from olmoearth_core.project import PROJECT_FILE, Project
from olmoearth_core.store import disk_errors, move, publish_folder, remove_partials, write_json
from olmoearth_core.verified import changed_outputs, forget

if TYPE_CHECKING:
    from olmoearth_core.inference.engines import Engine


@dataclass
class Meter:
    """Counts what a stage costs. Kept beside the manifest, never in it."""

    device: str = "cpu"
    device_seconds: float = 0.0
    waiting_seconds: float = 0.0
    """Of training, while it waited for windows."""
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
    key left is still there, so the function checks what is complete and goes on. Where a finished run's outputs were
    damaged, the whole ones are there without the scratch that made them, and its manifest lies in `scratch`."""
    upstream: Mapping[str, Upstream]
    files: Mapping[str, Path]
    progress: Progress
    meter: Meter
    key: str = ""
    """The stage key: what these outputs are traced by."""
    engine: Engine | None = None
    """Who computes the tiles of a map; None for this process. It decides no pixel, so it is in no key."""

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
    place: str
    """The folder, relative to the project."""
    manifest: Manifest
    skipped: bool
    """True when the outputs were already there and verified."""
    record: dict[str, Any]
    """What it cost when it was computed: wall_seconds, device, device_seconds, bytes_read, bytes_written, resumed.

    `resumed` is true when an earlier run of it was killed or failed, or what it made was damaged: what that one spent
    is not counted."""


@dataclass(frozen=True)
class _Plan:
    """A stage resolved against a project: where it goes and what it reads."""

    key: str
    folder: Path
    place: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    upstream: dict[str, Upstream]
    files: dict[str, Path]


@contextmanager
def project_lock(project: Project) -> Iterator[None]:
    """Hold the project for this process; the operating system lets go of it when the process dies.

    Re-entrant within a process, from any thread.

    Raises:
        BusyError: another process holds it.
        StoreError: the project folder cannot be written.
    """
    with _hold(project, "lock", reentrant=True):
        yield


@contextmanager
def _hold(project: Project, name: str, *, reentrant: bool) -> Iterator[None]:
    path = project.state / name
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(path), is_singleton=reentrant, thread_local=False)
        try:
            lock.acquire(timeout=0.5)  # not 0: threads that enter a re-entrant lock together pass one after the other
        except Timeout:
            raise BusyError(
                f"{project.root}: another run is at work on this project. "
                "Wait for it to end, or stop it, then try again."
            ) from None
    try:
        yield
    finally:
        lock.release()


def resolve_key(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> str:
    """The key of `stage` for the project as it is now. Runs nothing, verifies nothing.

    Raises:
        ProjectError: a stage before it has to run first, or a file it reads is missing.
    """
    return _plan(stage, stages, project, progress).key


def find_result(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> StageResult | None:
    """The verified outputs of `stage` for the project as it is now; None where the stage has to run.

    Raises:
        ProjectError: a stage before it has to run first, or a file it reads is missing.
    """
    return _verified(stage, project, _plan(stage, stages, project, progress))


def run_stage(
    stage: Stage,
    stages: Mapping[str, Stage],
    project: Project,
    progress: Progress,
    engine: Engine | None = None,
) -> StageResult:
    """Run `stage`, or skip it when its outputs verify against its key.

    Raises:
        BusyError: another process, or another thread of this one, is at work on a stage of the project.
        ProjectError: a stage before it has to run first, or a file it reads is missing.
        StoreError: what a stage before it made no longer verifies, or the disk is full.
        CoreError: whatever the stage refuses.
    """
    with project_lock(project), _hold(project, "stage.lock", reentrant=False):
        plan = _plan(stage, stages, project, progress)
        trash = project.state / "trash" / stage.name
        if (done := _verified(stage, project, plan)) is not None:
            shutil.rmtree(trash, ignore_errors=True)  # of a run that was killed just after publishing
            return done
        work = project.state / "work" / f"{stage.name}-{plan.key[:12]}"
        manifest = _manifest(work, plan.key)  # complete, but killed before it was published
        if manifest is None or damaged_files(work, manifest):
            _check_upstream(project, plan)
            _keep_what_is_whole(plan, work)
            manifest = _compute(stage, project, plan, work, progress, engine)
        # only now: with the manifest written nobody needs the checkpoints any more
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        remove_partials(work)
        publish_folder(work, plan.folder, trash)
        for abandoned in work.parent.glob(f"{stage.name}-*"):  # killed work of other settings
            shutil.rmtree(abandoned, ignore_errors=True)
        return _result(stage, project, plan, manifest, skipped=False)


def _plan(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> _Plan:
    upstream = {name: _finished(stages[name], stages, project, progress) for name in stage.after}
    files = stage.files(project, progress)
    inputs = {name: done.manifest.outputs_digest for name, done in upstream.items()}
    inputs |= {name: _file_digest(project, name, path) for name, path in files.items()}
    settings = stage.settings(project)
    key = stage_key(stage.name, stage.version, settings, inputs)
    place = stage.place(project, key)
    return _Plan(key, project.root / place, place, settings, inputs, upstream, files)


def _file_digest(project: Project, name: str, path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ProjectError(
            f"{project.root / PROJECT_FILE}: names '{name}', but {path} cannot be read ({error.strerror}). "
            "Put the file there or correct the name."
        ) from error


def _finished(stage: Stage, stages: Mapping[str, Stage], project: Project, progress: Progress) -> Upstream:
    if stage.name in project.pinned:
        return pinned_outputs(project.pinned[stage.name])
    plan = _plan(stage, stages, project, progress)
    manifest = _manifest(plan.folder, plan.key)
    if manifest is None:
        raise ProjectError(
            f"{project.root}: the stage '{stage.name}' has no up-to-date outputs in {plan.place}. "
            f"Run `olmoearth {stage.name}` first, or `olmoearth run` for all stages."
        )
    return Upstream(plan.folder, manifest)


def pinned_outputs(folder: Path) -> Upstream:
    """The outputs in `folder`, whichever key they have.

    Raises:
        StoreError: there are none.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise StoreError(f"{folder}: holds no {MANIFEST}, so nothing tells what it is. Name another model.")
    return Upstream(folder, manifest)


def _manifest(folder: Path, key: str) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except StoreError:  # damaged like any other file: the outputs are made again
        return None
    return manifest if manifest is not None and manifest.key == key else None


def _verified(stage: Stage, project: Project, plan: _Plan) -> StageResult | None:
    manifest = _manifest(plan.folder, plan.key)
    if manifest is None or changed_outputs(plan.folder, manifest, _note(project, stage.name, plan.key)):
        return None
    return _result(stage, project, plan, manifest, skipped=True)


def _check_upstream(project: Project, plan: _Plan) -> None:
    for name, done in plan.upstream.items():
        if changed := changed_outputs(done.folder, done.manifest, _note(project, name, done.manifest.key)):
            raise StoreError(
                f"{done.folder}: what the stage '{name}' made has changed since ({'; '.join(changed[:3])}). "
                f"Run `olmoearth {name}` to make it again."
            )


def _keep_what_is_whole(plan: _Plan, work: Path) -> None:
    """Have the stage go on from finished outputs of its key that were damaged, published or not.

    Leaves in `work` the outputs that verify and nothing else; the manifest goes last, so that a kill is no matter.
    """
    with disk_errors(work):
        if not work.exists() and _manifest(plan.folder, plan.key) is not None:
            work.parent.mkdir(parents=True, exist_ok=True)
            move(plan.folder, work)
        manifest = _manifest(work, plan.key)
        if manifest is None:
            return
        whole = manifest.outputs.keys() - damaged_files(work, manifest).keys()
        for name, path in list(output_files(work)):
            if name not in whole:  # damaged, or laid there by somebody else
                path.unlink()
        shutil.rmtree(work / SCRATCH, ignore_errors=True)  # its journals still tell of the damaged files
        (work / SCRATCH).mkdir(exist_ok=True)
        (work / MANIFEST).replace(work / SCRATCH / MANIFEST)


def _result(stage: Stage, project: Project, plan: _Plan, manifest: Manifest, *, skipped: bool) -> StageResult:
    record = read_record(project, stage.name, plan.key)
    return StageResult(stage.name, plan.folder, plan.place, manifest, skipped, record)


def _compute(
    stage: Stage, project: Project, plan: _Plan, work: Path, progress: Progress, engine: Engine | None
) -> Manifest:
    meter = Meter()
    resumed = work.exists()
    with disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        remove_partials(work)  # of a run that was killed while it wrote: nobody goes on with half a file
        start = time.perf_counter()
        try:
            summary = stage.run(StageRun(project, work, plan.upstream, plan.files, progress, meter, plan.key, engine))
        except Exception:  # perhaps over a file that rotted after it was verified: read it all the next time
            for name, done in plan.upstream.items():
                forget(_note(project, name, done.manifest.key))
            raise
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
        "resumed": resumed,
    }
    write_json(_record_path(project, stage.name, plan.key), record)
    write_manifest(work, manifest)
    return read_manifest(work) or manifest  # as every later reader sees it: lists for tuples, null for NaN


def _note(project: Project, stage: str, key: str) -> Path:
    return project.state / "verified" / f"{stage}-{key[:12]}"


def _record_path(project: Project, stage: str, key: str) -> Path:
    return project.state / "records" / f"{stage}-{key[:12]}.json"


def read_record(project: Project, stage: str, key: str) -> dict[str, Any]:
    """What the stage cost when it was computed here; empty where that is not known."""
    try:
        record: dict[str, Any] = json.loads(_record_path(project, stage, key).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record
