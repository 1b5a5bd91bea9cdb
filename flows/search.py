"""A search from a command: the trials run here, MLflow is told of each, and the winner can be written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.door import finished_stage
from olmoearth_core.errors import ProjectError
from olmoearth_core.progress import Progress
from olmoearth_core.project import PROJECT_FILE, Project, parse_project
from olmoearth_core.settings_edit import set_keys
from olmoearth_core.stage import project_lock
from olmoearth_core.store import write_text
from registry.workspace import Workspace


def run_search(
    project: Project,
    *,
    encoders: Sequence[str] = (),
    weights: Sequence[str] = (),
    recipes: Sequence[str] = (),
    learning_rates: Sequence[float] = (),
    most: int | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Search on the project's training set, or go on with a search that was killed; arguments as of `lay_out`.

    Returns:
        As `Search.run`, and MLflow's run.

    Raises:
        BusyError: another run is at work on the project.
        ProjectError: the training set has to be made first.
        CoreError: whatever the search refuses.
        RegistryError: MLflow refuses; what was tried is kept.
    """
    from olmoearth_core.training.candidates import candidates
    from olmoearth_core.training.search import lay_out
    from registry.mlflow.search import open_search

    workspace = Workspace.from_environment()
    with project_lock(project):
        dataset = finished_stage(project, "preprocess", progress)
        search = lay_out(
            project,
            dataset.folder,
            dataset.manifest,
            candidates(project, encoders, weights),
            recipes=recipes,
            learning_rates=learning_rates,
            most=most,
            progress=progress,
        )
        digest = dataset.manifest.outputs_digest
        with open_search(workspace, project, search.key, digest, len(search.trials)) as log:
            found = search.run(log.log, progress)
            log.end(found)
    return found | {"mlflow_run": log.run}


def winning_sections(winner: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Section of project.yaml -> its keys, for what won."""
    return {
        "model": {"encoder": winner["encoder"], "weights": winner["weights"]},
        "training": {"recipe": winner["recipe"], "learning_rate": winner["learning_rate"]},
    }


def write_winner(project: Project, winner: Mapping[str, Any]) -> None:
    """Set what won in project.yaml; everything else of the file stays as it is.

    Raises:
        ProjectError: the file cannot be changed so that it stays a project.
        StoreError: it cannot be written.
    """
    path = project.root / PROJECT_FILE
    text = path.read_text(encoding="utf-8-sig")
    for section, values in winning_sections(winner).items():
        text = set_keys(text, section, values)
    config = parse_project(text, str(path))
    for section, values in winning_sections(winner).items():
        for key, value in values.items():
            if getattr(getattr(config, section), key) != value:
                raise ProjectError(f"{path}: is written in a way that cannot be changed; set {section}.{key}: {value}.")
    write_text(path, text)
