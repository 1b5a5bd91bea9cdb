"""Making a map again: found in the registry, laid out in a folder, computed, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flows.errors import FlowError
from olmoearth_core.progress import Progress
from olmoearth_core.store import disk_errors, write_json

if TYPE_CHECKING:
    from olmoearth_core.again.recipe import Made
    from registry.reproduce.behind import Behind
    from registry.reproduce.lay_out import Wish
    from registry.reproduce.reproduction import Reproduction
    from registry.workspace import Workspace

REPORT = "report.json"
Environment = Literal["current", "recorded"]


def reproduce(asked: str, into: Path | None, wish: Wish, environment: Environment, progress: Progress) -> Reproduction:
    """Make a map again, in a folder of its own, and compare it with what was recorded.

    Nothing is told to the registry, MLflow or DVC, and no project is touched. Leaves report.json in the folder.

    Args:
        asked: a file of the map, or its id.
        into: the folder, not there yet or empty; None for `<map id>-again` in the current one.
        wish: what is to be made.
        environment: current: by this code and these libraries; recorded: by those of that time, in an environment that
            is made for it.
        progress: who listens.

    Raises:
        FlowError: the folder is not empty, or the recorded environment cannot be made.
        RegistryError: the registry does not know the map, or something it was made of is not to be had.
        CoreError: whatever a stage refuses.
    """
    from registry.reproduce.behind import find_behind
    from registry.reproduce.lay_out import lay_out
    from registry.reproduce.reasons import why
    from registry.reproduce.reproduction import compare
    from registry.tables.database import Database
    from registry.workspace import Workspace

    workspace = Workspace.from_environment()
    database = Database(workspace.registry_url)
    try:
        with database.read() as session:
            behind = find_behind(session, workspace, asked)
    finally:
        database.close()  # mapping may take days
    folder = _folder(into or Path(f"{behind.map.name}-again"))
    progress.note(f"{behind.map.name} is made again in {folder}")
    lay_out(workspace, behind, folder, wish)
    if environment == "recorded":
        made = _as_then(workspace, behind, folder, progress)
    else:
        from olmoearth_core.again.make import make_again

        made = make_again(folder, progress)
    reasons = why(workspace, behind, made, recorded_code=environment == "recorded")
    found = compare(behind, folder, made, reasons, environment=environment, model=_model(folder))
    write_json(folder / REPORT, found.to_json())
    return found


def _folder(into: Path) -> Path:
    folder = into.expanduser().absolute()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FlowError(f"{folder}: is not empty. A map is made again in a folder of its own; name another with --to.")
    return folder


def _model(folder: Path) -> dict[str, str]:
    from olmoearth_core.again.recipe import MODEL
    from olmoearth_core.manifest import read_manifest

    manifest = read_manifest(folder / MODEL)
    return {name: output.sha256 for name, output in manifest.outputs.items()} if manifest else {}


def _as_then(workspace: Workspace, behind: Behind, folder: Path, progress: Progress) -> Made:
    """Make it by the code and the libraries of that time."""
    from flows.recorded import make_environment, run_in
    from olmoearth_core.again.recipe import read_made
    from registry.errors import ReproduceError
    from registry.reproduce.code_archive import unpack_source
    from registry.reproduce.reasons import kept_packages
    from registry.reproduce.sources import Sources

    run, sources = behind.run("infer"), Sources(workspace, behind.runs)
    packages = kept_packages(run, sources)
    if run.code_sha256 is None or packages is None:
        raise ReproduceError(
            f"{behind.map.name}: the code and the libraries that made it were not kept: its outputs were found, made "
            "elsewhere or by an older version of the platform. Use --environment current."
        )
    archive = folder / "code.tar"
    sources.give(run.code_sha256, archive, "the platform's code of that time")
    unpack_source(archive, folder / "code")
    python = make_environment(folder / "environment", packages, progress)
    with progress.bar("mapping with the code of that time") as advance:
        run_in(python, folder / "code", folder)
        advance(1)
    return read_made(folder)
