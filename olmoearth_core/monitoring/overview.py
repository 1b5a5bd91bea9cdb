"""How a project stands, from its folder alone: what is due, how old everything is, what was left out, what drifted.

Nothing is run, no catalogue is asked, no checksum of an output is computed: it answers for many projects in a moment.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_file, sha256_json
from olmoearth_core.errors import CoreError
from olmoearth_core.inference.journals import failed_tiles
from olmoearth_core.manifest import SCRATCH, Manifest
from olmoearth_core.monitoring.drift import last_drift
from olmoearth_core.monitoring.lineage import Output, made_at, maps, outputs, trained_since
from olmoearth_core.project import Project
from olmoearth_core.stages import STAGES, label_files


@dataclass(frozen=True)
class Overview:
    """How a project stands.

    Attributes:
        project: name.
        folder: where it lies.
        due: what should be done, a few words each; empty where all is up to date.
        failures: what went wrong or was left out, a sentence each.
        last_map: id of the map made last; None where there is none.
        map_date: the day that it is for.
        map_made: when it was made, UTC.
        model_made: when its model was trained, UTC.
        newest_label: the newest day that a label of the training set is true for.
        drift: of the last map, in a sentence; None where it was not measured.
        drifted: whether it drifted.
    """

    project: str
    folder: Path
    due: Sequence[str] = ()
    failures: Sequence[str] = ()
    last_map: str | None = None
    map_date: dt.date | None = None
    map_made: dt.datetime | None = None
    model_made: dt.datetime | None = None
    newest_label: dt.date | None = None
    drift: str | None = None
    drifted: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        told = {key: value.isoformat() if isinstance(value, dt.date) else value for key, value in asdict(self).items()}
        return told | {"folder": str(self.folder), "due": list(self.due), "failures": list(self.failures)}


def overview(project: Project, now: dt.datetime | None = None) -> Overview:
    """How a project stands at `now` (UTC)."""
    now = now or dt.datetime.now(dt.UTC)
    current, due = _current(project)
    made = maps(project)
    last = max(made, key=made_at) if made else None
    model = max(outputs(project, "finetune"), key=made_at, default=None)
    label = _newest_label(project)
    report = None if last is None else last_drift(project, last.folder.name)
    map_date = None if last is None else dt.date.fromisoformat(last.manifest.settings["map"]["date"])
    limits = project.config.monitoring
    if limits.max_map_age and map_date and (now.date() - map_date).days > limits.max_map_age:
        due.append(f"a newer map (the last is for {map_date})")
    if limits.max_model_age and label and (now.date() - label).days > limits.max_model_age:
        due.append(f"newer labels (the newest is of {label})")
    if model is not None and _cron_due(project, _when(model), now):
        due.append("retraining (retraining.cron)")
    if last is not None and report is not None and report.drifted and _drift_counts(project, last):
        due.append("labels of what is new (drift)" if _same_model(project, current) else "retraining (drift)")
    return Overview(
        project=project.config.name,
        folder=project.root,
        due=due,
        failures=list(_failures(project, current)),
        last_map=None if last is None else last.folder.name,
        map_date=map_date,
        map_made=None if last is None else _when(last),
        model_made=None if model is None else _when(model),
        newest_label=label,
        drift=None if report is None else report.sentence,
        drifted=bool(report and report.drifted),
    )


def gives_same_model(project: Project) -> bool:
    """Whether training now, from the base encoder, would only give the model that is there."""
    return _same_model(project, _current(project)[0])


def _same_model(project: Project, current: Mapping[str, Output]) -> bool:
    """Whether training now gives the model that is there (flows/due.py tells what helps)."""
    return "finetune" in current and getattr(project.config.retraining, "start", None) == "base"


def _current(project: Project) -> tuple[dict[str, Output], list[str]]:
    """(stage -> outputs that are those of the project as it is, what is due from the first stage on that has none)."""
    found: dict[str, Output] = {}
    digests: dict[str, str] = {}
    for name in STAGES:
        candidates = list(outputs(project, name))
        reasons = [_differs(project, name, o.manifest, found, digests) for o in candidates]
        if "" in reasons:
            found[name] = candidates[reasons.index("")]
            continue
        return found, [f"{name} ({reasons[-1] if reasons else 'never run'})"]
    return found, []


def _differs(
    project: Project, name: str, manifest: Manifest, found: Mapping[str, Output], digests: dict[str, str]
) -> str:
    """What changed since outputs were made; "" where nothing did."""
    stage = STAGES[name]
    if manifest.stage_version != stage.version:
        return "the platform changed"
    for key, value in stage.settings(project).items():
        if sha256_json(manifest.settings.get(key)) != sha256_json(value):
            return f"{key} changed in project.yaml"
    if any(manifest.inputs.get(before) != found[before].manifest.outputs_digest for before in stage.after):
        return "what it builds on changed"
    own = {**label_files(project), project.config.map.area: project.path(project.config.map.area)}
    for file, path in own.items():
        if file in manifest.inputs and path.is_file():
            digest = digests.setdefault(file, sha256_file(path))
            if digest != manifest.inputs[file]:
                return f"{file} changed"
        elif file in manifest.inputs:
            return f"{file} is gone"
    return ""


def _failures(project: Project, current: Mapping[str, Output]) -> list[str]:
    told = []
    for name, output in current.items():
        if failed := output.manifest.summary.get("failed_assets"):
            told.append(f"{name}: {len(failed)} assets could not be read and were left out; `olmoearth run --refresh`")
    for work in sorted((project.state / "work").glob("*")):
        stage = work.name.partition("-")[0]
        since = f"{dt.datetime.fromtimestamp(work.stat().st_mtime, dt.UTC):%Y-%m-%d %H:%M} UTC"
        tiles = failed_tiles(work / SCRATCH) if stage == "infer" else {}
        what = f"{len(tiles)} tiles failed" if tiles else "began and did not finish"
        told.append(f"{stage}: {what} ({since}); `olmoearth run` goes on")
    return told


def _newest_label(project: Project) -> dt.date | None:
    """Of the training set's windows."""
    import pandas as pd

    from olmoearth_core.dataset.dataset import WINDOWS

    for dataset in outputs(project, "preprocess"):
        try:
            days = pd.read_parquet(dataset.folder / WINDOWS, columns=["date"])["date"]
        except (OSError, ValueError):
            return None
        return None if days.empty else pd.Timestamp(days.max()).date()
    return None


def _cron_due(project: Project, since: dt.datetime, now: dt.datetime) -> bool:
    """Whether retraining.cron fired since the model was made."""
    cron = getattr(project.config.retraining, "cron", None)
    if cron is None:
        return False
    from cronsim import CronSim

    return bool(next(CronSim(cron, since)) <= now)


def _drift_counts(project: Project, last: Output) -> bool:
    """Whether drift of the last map is a reason to retrain: it is asked for, and nobody did since."""
    return "drift" in getattr(project.config.retraining, "triggers", ()) and not trained_since(project, last)


def _when(output: Output) -> dt.datetime:
    return dt.datetime.fromtimestamp(made_at(output), dt.UTC).replace(microsecond=0)


def failed_overview(folder: Path, error: CoreError) -> Overview:
    """Of a project that cannot even be read."""
    return Overview(folder.name, folder, failures=[str(error).splitlines()[0]])
