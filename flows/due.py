"""Is retraining due? What is new since the newest model was trained, and the events that tell Prefect of it.

`reasons` looks, `tell` emits an event for each reason that was not told before: the deployment of retraining waits for
them. Told is kept in the project's state, so that what cannot be trained today is not tried again every hour.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flows.monitoring import instead_of_training, newest_drift
from flows.notify import wanted
from flows.told import was_told, write_told
from olmoearth_core.digest import sha256_file, sha256_json
from olmoearth_core.monitoring.drift import DriftReport
from olmoearth_core.monitoring.lineage import maps, trained_since
from olmoearth_core.project import Project
from olmoearth_core.stages import label_files
from registry.workspace import Workspace

EVENTS: Mapping[str, str] = {
    "labels": "olmoearth.labels.changed",
    "season": "olmoearth.season.over",
    "drift": "olmoearth.drift.beyond",
}
"""Trigger of project.yaml -> the event that tells of it."""


@dataclass(frozen=True)
class Reason:
    """Why retraining is due.

    Attributes:
        kind: a trigger of project.yaml: labels, season or drift.
        sentence: for a person.
        about: tells this reason from an earlier one of its kind.
        needs: what is due instead, where training now would only give the model that is there; empty otherwise.
    """

    kind: str
    sentence: str
    about: str
    needs: str = ""


Measure = Callable[[Project], DriftReport | None]
"""How far the newest map is from what its model learned; None where that cannot be said."""


def is_watched(project: Project) -> bool:
    """Whether the watch has something to look for: what makes retraining due, or drift that people want to hear of."""
    return project.config.retraining is not None or wanted(project, "drift")


def reasons(project: Project, *, today: dt.date | None = None, drift: Measure = newest_drift) -> list[Reason]:
    """Why retraining of `project` is due, by the triggers in its project.yaml; nothing when it is not.

    Args:
        project: whose retraining.
        today: the day; that of this machine's clock in UTC when not given.
        drift: measures the newest map; measured once for each map, its report is kept.

    Raises:
        RegistryError: MLflow or the registry cannot be asked.
        ProjectError: a label file cannot be read.
    """
    retraining = project.config.retraining
    if retraining is None:
        return []
    found = {
        "labels": lambda: changed_labels(project),
        "season": lambda: season_over(project, today or dt.datetime.now(dt.UTC).date()),
        "drift": lambda: drifted(project, drift(project)),
    }
    told = [reason for kind in dict.fromkeys(retraining.triggers) if (reason := found[kind]()) is not None]
    if [reason.kind for reason in told] == ["drift"]:
        return [replace(told[0], needs=instead_of_training(project))]
    return told


def changed_labels(project: Project) -> Reason | None:
    """Whether the label files are others than those that the newest model learned from."""
    from registry.facts import label_files as learned_labels
    from registry.mlflow.evaluations import inputs_of
    from registry.registry import open_registry

    now = {name: sha256_file(path) for name, path in label_files(project).items()}
    with open_registry(Workspace.from_environment()) as registry:
        models = registry.models(project.config.name)
        if not models:
            return Reason("labels", "No model has been trained yet.", sha256_json(now))
        learned = inputs_of(registry, project, models[0].run.inputs["preprocess"])
    former = [learned_labels(inputs) for inputs in learned]
    if now in former:
        return None
    before = former[-1] if former else {}
    names = sorted({name for name in {*now, *before} if now.get(name) != before.get(name)})
    told = f"Labels changed since model version {models[0].mlflow_version} was trained: {', '.join(names)}."
    return Reason("labels", told, sha256_json(now))


def season_over(project: Project, today: dt.date) -> Reason | None:
    """Whether the season of map.date came round again, and is over: the area can be mapped as it is now."""
    latest = newest_season(project, today)
    if latest == project.config.map.date:
        return None
    last = max(step.end for step in project.config.imagery.framing.spans(latest)) - dt.timedelta(days=1)
    told = f"The imagery for map.date {latest} is complete since {last}; the map is of {project.config.map.date}."
    return Reason("season", told, latest.isoformat())


def newest_season(project: Project, today: dt.date) -> dt.date:
    """map.date, or its newest anniversary whose timesteps all lie before `today`."""
    config = project.config
    found = config.map.date
    for year in range(config.map.date.year + 1, today.year + 2):
        try:
            day = config.map.date.replace(year=year)
        except ValueError:  # 29 February
            day = config.map.date.replace(year=year, day=28)
        if max(step.end for step in config.imagery.framing.spans(day)) <= today:
            found = day
    return found


def drifted(project: Project, report: DriftReport | None) -> Reason | None:
    """Whether the newest map lies beyond a limit of section monitoring, and no model was trained since it was made."""
    if report is None or not report.drifted:
        return None
    (made,) = [one for one in maps(project) if one.folder.name == report.map_id]
    return None if trained_since(project, made) else Reason("drift", report.sentence, report.map_id)


def tell(project: Project, found: list[Reason]) -> list[Reason]:
    """Emit an event for each reason that was not told before; returns those.

    Raises:
        DeployError: no server is set, or it does not take the events; they count as not told then.
    """
    fresh = [reason for reason in found if not was_told(project, reason.kind, reason.about)]
    if fresh:
        _emit(project, fresh)
        write_told(project, {reason.kind: reason.about for reason in fresh})
    return fresh


def resource_of(project: Project) -> str:
    """What events of a project are about, in Prefect's words."""
    return f"olmoearth.project.{project.config.name}"


def _emit(project: Project, found: list[Reason]) -> None:
    from flows.server import prefect_server

    with prefect_server() as client:
        from prefect.events import Event, Resource

        events = [
            Event(
                event=EVENTS[reason.kind],
                resource=Resource(
                    {"prefect.resource.id": resource_of(project), "prefect.resource.name": project.config.name}
                ),
                payload={"project": str(project.root), "why": reason.sentence},
            )
            for reason in found
        ]
        client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events]).raise_for_status()
