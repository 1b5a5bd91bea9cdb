"""Retraining as a Prefect flow: what is due is exported, trained, compared, and promoted only through the gates.

    due? -> export -> preprocess -> finetune -> compare with the champion -> promote | refuse -> map again

Nothing due, nothing done. `olmoearth retrain` calls it in its own process; deployed, a cron schedule or an event does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows import due
from flows.champion import folder_of
from flows.door import refresh
from flows.engines import check_engine
from flows.gatekeeper import Decided, decide
from flows.lifecycle import map_again, run_one
from flows.monitoring import SAME_MODEL, tell_of_drift
from flows.notify import notify
from flows.progress import current_progress
from olmoearth_core.errors import ProjectError
from olmoearth_core.monitoring.drift import last_drift
from olmoearth_core.project import PROJECT_FILE, Project, load_project, parse_project
from olmoearth_core.settings_edit import set_keys
from olmoearth_core.store import write_text
from registry.workspace import Workspace

BY_HAND = "by hand"


@flow(flow_run_name="retraining of {project}")
def retrain(
    project: str,
    why: str = "",
    by_hand: bool = False,
    finetune_by: str | None = None,
    engine: str | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Retrain the project folder `project`, if anything is due or somebody asks for it `by_hand`.

    Fine-tuning that is not up to date is left to the deployment `finetune_by`, where one is named; so many `processes`
    of that `engine` map the area (flows/engines.py).

    Returns:
        JSON values: due (sentences), outcome ("nothing due", "nothing new", "promoted", "refused"), sentence, version,
        report and mapped (the new map's folder), as far as there are any.
    """
    check_engine(engine, processes)
    loaded = load_project(Path(project))
    try:
        return _retrain(loaded, why, by_hand, finetune_by, (engine, processes))
    except Exception as error:
        name = loaded.config.name
        notify(loaded, "failure", f"{name}: retraining failed", " ".join(str(error).split()), current_progress())
        raise


def _retrain(
    project: Project, why: str, by_hand: bool, finetune_by: str | None, mapped_by: tuple[str | None, int]
) -> dict[str, Any]:
    progress, name, root = current_progress(), project.config.name, str(project.root)
    found = due.reasons(project)
    told = [reason.sentence for reason in found]
    for reason in found:
        if reason.kind == "drift" and (report := last_drift(project, reason.about)) is not None:
            tell_of_drift(project, report, progress)
    if not found and not by_hand:
        return {"due": [], "outcome": "nothing due", "sentence": f"{name}: nothing is due."}
    if not by_hand and all(reason.needs for reason in found):
        return {"due": told, "outcome": "nothing new", "sentence": f"{name}: {found[0].needs}"}
    moved = any(reason.kind == "season" for reason in found)
    if moved:
        project = move_season(project)
        refresh(project, progress, labels=False)
    decided, version = _challenge(project, "; ".join([*([why] if why else []), *told]) or BY_HAND, finetune_by)
    outcome = "promoted" if decided.promoted else "refused" if decided.evaluated else "nothing new"
    sentence = f"{decided.sentence} {SAME_MODEL}" if outcome == "nothing new" else decided.sentence
    result: dict[str, Any] = {"due": told, "outcome": outcome, "sentence": sentence, "version": version}
    if decided.evaluated is not None:
        result["report"] = decided.evaluated.report
        page = (project.root / decided.evaluated.report).read_text(encoding="utf-8")
        create_markdown_artifact(
            key=f"{name}-evaluation".replace("_", "-"), markdown=page, description=decided.sentence
        )
    retraining = project.config.retraining
    if (decided.promoted or moved) and retraining is not None and retraining.remap:
        result["mapped"] = map_again(root, *mapped_by)[-1]["folder"]
    if outcome in ("promoted", "refused"):
        about = "promotion" if decided.promoted else "refusal"
        notify(project, about, f"{name}: {outcome}", _news(result), progress)
    progress.note(sentence)
    return result


def _challenge(project: Project, why: str, finetune_by: str | None) -> tuple[Decided, str]:
    """Train, and put what was trained before the gates; with the number of its version."""
    from registry.mlflow.models import find_model
    from registry.mlflow.promotions import champion_of
    from registry.registry import open_registry

    workspace, progress, root = Workspace.from_environment(), current_progress(), str(project.root)
    retraining = project.config.retraining
    with open_registry(workspace) as registry:
        champion = champion_of(registry, project.config.name)
        start = None
        if champion is not None and retraining is not None and retraining.start == "champion":
            start = str(folder_of(project, champion, workspace))
        for stage in ("export", "preprocess"):
            run_one(root, stage)
        trained = run_one(root, "finetune", finetune_by, start=start)
        model = find_model(workspace, project.config.name, trained["outputs_digest"])
        if model is None:
            raise ProjectError(f"{root}: MLflow lost the model that was just registered; run `olmoearth finetune`.")
        run = f" (flow run {flow_run.id})" if flow_run.id else ""
        if champion is None:  # the first model, which is champion by now
            told = f"{project.config.name}: version {model.version} is the first model, and the champion."
            return Decided(True, told, None), model.version
        return decide(project, registry, model, progress, why=why, by=f"retrain{run}"), model.version


def move_season(project: Project) -> Project:
    """Set map.date in project.yaml to its newest season that is over; everything else of the file stays as it is.

    Raises:
        ProjectError: the file cannot be changed so that it stays a project.
        StoreError: it cannot be written.
    """
    import datetime as dt

    path = project.root / PROJECT_FILE
    day = due.newest_season(project, dt.datetime.now(dt.UTC).date())
    text = set_keys(path.read_text(encoding="utf-8-sig"), "map", {"date": day.isoformat()})
    config = parse_project(text, str(path))
    if config.map.date != day:
        raise ProjectError(f"{path}: is written in a way that cannot be changed; set map.date: {day}.")
    write_text(path, text)
    current_progress().note(f"map.date is {day} now: that season's imagery is complete.")
    return load_project(project.root)


def _news(result: dict[str, Any]) -> str:
    """The body of a notification."""
    lines = [result["sentence"], *(f"Due: {sentence}" for sentence in result["due"])]
    lines += [f"Report: {result['report']}"] if "report" in result else []
    lines += [f"Map: {result['mapped']}"] if "mapped" in result else []
    return "\n\n".join(lines)
