"""How all projects stand, and a drift report in rows: what the commands and the flow `monitor` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmoearth_core.errors import CoreError
from olmoearth_core.monitoring.overview import Overview, failed_overview, overview
from olmoearth_core.project import PROJECT_FILE, load_project
from registry.workspace import Workspace

if TYPE_CHECKING:
    from olmoearth_core.monitoring.drift import DriftReport


def standings(folders: Sequence[Path], workspace: Workspace) -> list[dict[str, Any]]:
    """How projects stand: as `Overview.to_json`, with the champion among their models; worst first.

    Args:
        folders: of projects; none means all that the registry knows of and that are still where they ran.
        workspace: of registry and models.

    Raises:
        RegistryError: the registry cannot be read.
    """
    told = []
    for folder in folders or known_folders(workspace):
        stands = _overview(folder)
        told.append(stands.to_json() | {"champion": _champion(stands.project, workspace)})
    return sorted(told, key=lambda row: (-len(row["failures"]), not row["drifted"], -len(row["due"]), row["project"]))


def known_folders(workspace: Workspace) -> list[Path]:
    """The folder that each project ran in last, as the registry knows it, where it still holds a project."""
    from registry.registry import open_registry

    with open_registry(workspace) as registry:
        latest = {(run.project.name): run.project_folder for run in sorted(registry.runs(), key=lambda r: r.recorded)}
    return [folder for folder in map(Path, latest.values()) if (folder / PROJECT_FILE).is_file()]


def _overview(folder: Path) -> Overview:
    try:
        return overview(load_project(folder))
    except CoreError as error:
        return failed_overview(folder, error)


def _champion(project: str, workspace: Workspace) -> str | None:
    """Version of the champion; None where there is none."""
    from registry.errors import RegistryError
    from registry.mlflow.models import get_model

    try:
        return str(get_model(workspace, project).version)
    except RegistryError:
        return None


def drift_rows(report: DriftReport) -> list[dict[str, str]]:
    """The report as rows of text."""
    return [
        {
            "what": f"{one.about}: {one.name}" if one.name != one.about else one.about,
            "against": one.against,
            "PSI": f"{one.psi:.3f}" if one.about != "embeddings" else "",
            "distance": f"{one.psi:.3f}" if one.about == "embeddings" else "",
            "KS": "" if one.ks is None else f"{one.ks:.3f}",
            "limit": f"{one.limit:g}",
            "found": one.found,
            "drifted": "yes" if one.beyond else "",
        }
        for one in report.moved
    ]
