"""How all projects stand, and a drift report in rows: what the commands and the flow `monitor` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.notify import notify, undelivered
from flows.progress import current_progress
from flows.told import was_told, write_told
from olmoearth_core.errors import CoreError
from olmoearth_core.monitoring.drift import DriftReport, drift, kept_drift
from olmoearth_core.monitoring.lineage import maps
from olmoearth_core.monitoring.overview import Overview, failed_overview, gives_same_model, overview
from olmoearth_core.progress import Progress
from olmoearth_core.project import PROJECT_FILE, Project, load_project
from registry.workspace import Workspace

DRIFT_NEWS = "drift told to people"
SAME_MODEL = (
    "Labels, scenes and settings are those of the model that is there, and training anew from the base encoder gives "
    "that model again: add labels of what is new, or the trigger season, or go on from the champion (retraining.start)."
)


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
        project = load_project(folder)
        stands = overview(project)
        return replace(stands, failures=[*stands.failures, *undelivered(project)])
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


def newest_drift(project: Project, measure: Callable[[Project], DriftReport] | None = None) -> DriftReport | None:
    """Drift of the map made last: the report that was kept, else measured now.

    Args:
        project: whose map.
        measure: measures it; in this process when not given.

    Returns:
        None where there is no map yet, or where it cannot be measured, which is noted: that must keep nobody from
        seeing that the labels changed.
    """
    if not maps(project):
        return None
    progress = current_progress()
    try:
        if (kept := kept_drift(project)) is not None:
            return kept
        return measure(project) if measure else drift(project, progress=progress)
    except CoreError as error:
        progress.note(f"Drift of {project.config.name} cannot be measured: {error}")
        return None


def tell_of_drift(project: Project, report: DriftReport, progress: Progress) -> None:
    """Notify people that a map drifted, and of what is due where retraining is not; once for each map."""
    if not report.drifted or was_told(project, DRIFT_NEWS, report.map_id):
        return
    rows = [f"* {one.about} {one.name}: {one.found} ({one.psi:.2f}, limit {one.limit:g})" for one in report.drifted]
    notes = [line for note in (report.note, instead_of_training(project)) if note for line in ("", note)]
    body = "\n".join([report.sentence, "", *rows, *notes])
    if notify(project, "drift", f"{project.config.name}: drift", body, progress):
        write_told(project, {DRIFT_NEWS: report.map_id})


def instead_of_training(project: Project) -> str:
    """What is due where drift alone asks for a training that would only give the model that is there; else empty."""
    retraining = project.config.retraining
    asked = retraining is not None and "drift" in retraining.triggers
    return SAME_MODEL if asked and gives_same_model(project) else ""


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
