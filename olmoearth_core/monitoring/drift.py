"""Drift of a map: is its imagery still what the model learned from, and does the model still say what it said?

Imagery and embeddings of some windows are compared with the training set's; the map's classes, or measured values, with
what the model said of its held-out windows, and with an earlier map of the same area. Looks at what stages left;
changes none of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.dataset.drift import stability_index
from olmoearth_core.digest import sha256_json
from olmoearth_core.inference.plan import Plan, read_plan
from olmoearth_core.monitoring.distance import ks, mean_distance, psi
from olmoearth_core.monitoring.lineage import MapLineage, Output, lineage_of, outputs
from olmoearth_core.monitoring.sample import View, band_values, embeddings, map_views, training_views
from olmoearth_core.monitoring.values import held_out_values, map_values
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.project import Project
from olmoearth_core.store import write_json

if TYPE_CHECKING:
    from olmoearth_core.models.predictor import TrainedModel

REPORTS = "monitoring"
"""Folder below the project's state."""
VERSION = 2
"""Raised when the same map comes to other numbers."""

About = Literal["imagery", "embeddings", "predictions"]
TRAINING, HELD_OUT = "the training set", "held-out windows"


@dataclass(frozen=True)
class Moved:
    """One thing that was compared.

    Attributes:
        about: imagery (a band), embeddings, or predictions (classes, or values).
        name: of the band or task.
        against: what it is compared with.
        psi: population stability index; of embeddings the distance of their means.
        ks: Kolmogorov-Smirnov distance; None of classes and embeddings, which have no order.
        limit: of `psi`, from project.yaml.
        found: what moved, in words.
    """

    about: About
    name: str
    against: str
    psi: float
    ks: float | None
    limit: float
    found: str

    @property
    def beyond(self) -> bool:
        """Whether it drifted."""
        return self.psi > self.limit


@dataclass(frozen=True)
class DriftReport:
    """The drift of one map.

    Attributes:
        project: name.
        map_id: of the map.
        windows: how many windows of the map were looked at.
        moved: what was compared, the largest share of its limit first.
        note: what to know before believing it; empty for nothing.
    """

    project: str
    map_id: str
    windows: int
    moved: Sequence[Moved] = field(default_factory=tuple)
    note: str = ""

    @property
    def drifted(self) -> list[Moved]:
        """What lies beyond its limit."""
        return [one for one in self.moved if one.beyond]

    def beyond(self, about: About) -> bool:
        """Whether imagery, embeddings or predictions drifted."""
        return any(one.about == about for one in self.drifted)

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        if not self.drifted:
            return f"{self.map_id}: no drift."
        first = self.drifted[0]
        kinds = ", ".join(dict.fromkeys(one.about for one in self.drifted))
        return (
            f"{self.map_id}: {kinds} drifted; most of all {first.name} against {first.against}: {first.found} "
            f"({first.psi:.2f}, limit {first.limit:g})."
        )

    @property
    def advice(self) -> str:
        """What to do about it, in one sentence; empty where nothing drifted."""
        if not self.drifted:
            return ""
        if self.beyond("predictions"):
            return (
                "What to do: look at the map before you use it, and assess it (olmoearth sample) or label newer places."
            )
        return (
            "What to do: see whether map.date is in the season of the labels; if so, label places that look as the "
            "map's imagery does, and retrain."
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        moved = [asdict(one) | {"beyond": one.beyond} for one in self.moved]
        return asdict(self) | {"moved": moved, "drifted": bool(self.drifted), "sentence": self.sentence}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DriftReport:
        """The report that `to_json` told."""
        keys = Moved.__dataclass_fields__
        moved = tuple(Moved(**{key: row[key] for key in keys}) for row in values["moved"])
        return cls(values["project"], values["map_id"], values["windows"], moved, values["note"])


def drift(project: Project, map_id: str | None = None, *, progress: Progress | None = None) -> DriftReport:
    """How far a map drifted from what its model learned; kept, so that asking again takes no time.

    Where none of its scenes can be read (a catalogue that does not answer), nothing is kept, and a note says so.

    Args:
        project: whose; the limits are those of its section monitoring.
        map_id: which map; the one made last when not given.
        progress: is told the steps.

    Raises:
        ProjectError: no such map, or what it was made of is gone.
        DatasetError, CheckpointError: training set or model cannot be read.
        ImageryError, TransientError: the map's scenes cannot be read any more.
        MappingError: a tile of the map is gone or damaged.
        StoreError: the report cannot be kept.
    """
    lineage = lineage_of(project, map_id)
    key = _key(project, lineage)
    if (kept := _still_true(project, lineage, key)) is not None:
        return kept
    report = _compare(project, lineage, progress or Silent())
    if report.windows:
        write_json(_place(project, lineage.name), {"key": key, "report": report.to_json()})
    return report


def kept_drift(project: Project) -> DriftReport | None:
    """The report that was kept of the map made last; None where nobody measured since something changed.

    Raises:
        ProjectError: there is no map, or what it was made of is gone.
    """
    lineage = lineage_of(project)
    return _still_true(project, lineage, _key(project, lineage))


def _still_true(project: Project, lineage: MapLineage, key: str) -> DriftReport | None:
    kept = _kept(project, lineage.name)
    return DriftReport.from_json(kept["report"]) if kept.get("key") == key else None


def last_drift(project: Project, map_id: str) -> DriftReport | None:
    """The report that was kept of a map; None where nobody asked yet. Computes nothing."""
    with suppress(KeyError, TypeError):
        return DriftReport.from_json(_kept(project, map_id)["report"])
    return None


def _compare(project: Project, lineage: MapLineage, progress: Progress) -> DriftReport:
    from olmoearth_core.models.model_folder import load_model

    limits, plan = project.config.monitoring, read_plan(lineage.tiles.folder)
    dataset = open_dataset(lineage.dataset.folder)
    learned = training_views(dataset, limits.windows)
    shown = map_views(project, lineage.tiles.folder, plan, dataset.bands, limits.windows, progress)
    model = load_model(lineage.model.folder)
    measured = plan.model.range is not None
    moved = list(_values(project, lineage, plan, dataset, model) if measured else _predictions(project, lineage, plan))
    if learned and shown:
        moved += _imagery(learned, shown, dataset.bands, limits.imagery)
        if len(learned) > 1 and len(shown) > 1:
            old, new = (embeddings(model.predictor, views, plan.resolution) for views in (learned, shown))
            found = f"{len(new)} windows against {len(old)}"
            distance = round(mean_distance(old, new), 4)
            moved.append(Moved("embeddings", "embeddings", TRAINING, distance, None, limits.embeddings, found))
    moved.sort(key=lambda one: -one.psi / one.limit)
    note = "The training set was replaced since; the map is compared with the newer one." if lineage.replaced else ""
    said = "values" if measured else "classes"
    note = note if shown else f"None of the map's scenes can be read now; its {said} alone were compared."
    return DriftReport(project.config.name, lineage.name, len(shown), tuple(moved), note)


def _imagery(
    learned: Sequence[View], shown: Sequence[View], bands: Mapping[str, Sequence[str]], limit: float
) -> Iterator[Moved]:
    for modality, names in bands.items():
        for k, name in enumerate(names):
            old, new = (band_values(views, modality, k) for views in (learned, shown))
            if not len(old) or not len(new):
                continue
            found = f"median {np.median(old):g} -> {np.median(new):g}"
            index, gap = round(psi(old, new), 4), round(ks(old, new), 4)
            yield Moved("imagery", f"{modality} {name}", TRAINING, index, gap, limit, found)


def _predictions(project: Project, lineage: MapLineage, plan: Plan) -> Iterator[Moved]:
    """Of classes."""
    limits = project.config.monitoring
    now = _shares(lineage.tiles.manifest.summary["class_pixels"], plan.model.classes)
    if now is None:
        return
    said = _held_out(lineage.model.folder, plan.model.classes)
    if said is not None:
        yield _classes(said, now, plan.model.classes, HELD_OUT, limits.predictions)
    if (earlier := _earlier(project, lineage, plan)) is not None:
        before = _shares(earlier.manifest.summary["class_pixels"], plan.model.classes)
        if before is not None:
            against = _map_of(read_plan(earlier.folder))
            yield _classes(before, now, plan.model.classes, against, limits.between_maps)


def _values(
    project: Project, lineage: MapLineage, plan: Plan, dataset: Dataset, model: TrainedModel
) -> Iterator[Moved]:
    """Of measured values: their whole distribution, not only where its middle lies."""
    limits, now = project.config.monitoring, map_values(lineage.tiles.folder, plan)
    compared = [(HELD_OUT, held_out_values(dataset, model, limits.windows), limits.predictions)]
    if (earlier := _earlier(project, lineage, plan)) is not None:
        before = read_plan(earlier.folder)
        compared.append((_map_of(before), map_values(earlier.folder, before), limits.between_maps))
    for against, old, limit in compared:
        if len(old) and len(now):
            unit = f" {plan.model.unit}".rstrip()
            found = f"median {np.median(old):.4g}{unit} -> {np.median(now):.4g}{unit}"
            index, gap = round(psi(old, now), 4), round(ks(old, now), 4)
            yield Moved("predictions", plan.model.name, against, index, gap, limit, found)


def _map_of(plan: Plan) -> str:
    return f"the map of {plan.anchor}"


def _classes(old: np.ndarray, new: np.ndarray, classes: Sequence[str], against: str, limit: float) -> Moved:
    most = int(np.abs(new - old).argmax())
    found = f"'{classes[most]}' {old[most]:.1%} -> {new[most]:.1%}"
    return Moved(
        "predictions", "classes", against, round(stability_index(old.tolist(), new.tolist()), 4), None, limit, found
    )


def _held_out(model: Path, classes: Sequence[str]) -> np.ndarray | None:
    """Share of each class in what the model said of validation and test."""
    metrics = json.loads((model / "metrics.json").read_text(encoding="utf-8"))
    said = [metrics[split].get("confusion") for split in ("validation", "test")]
    counts = sum((np.sum(confusion, axis=0) for confusion in said if confusion), np.zeros(len(classes)))
    return _shares(dict(zip(classes, counts, strict=True)), classes)


def _shares(pixels: Mapping[str, Any], classes: Sequence[str]) -> np.ndarray | None:
    counts = np.array([pixels[name] for name in classes], float)
    return counts / counts.sum() if counts.sum() else None


def _earlier(project: Project, lineage: MapLineage, plan: Plan) -> Output | None:
    """The tiles of the newest earlier map that the same model made of the same area."""
    area = project.config.map.area
    found = []
    for tiles in outputs(project, "infer"):
        other = read_plan(tiles.folder)
        same = other.model.weights_sha256 == plan.model.weights_sha256 and other.anchor < plan.anchor
        if same and tiles.manifest.inputs.get(area) == lineage.tiles.manifest.inputs.get(area):
            found.append((other.anchor, tiles.folder.name, tiles))
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _key(project: Project, lineage: MapLineage) -> str:
    """sha256 of all that the report depends on."""
    others = sorted(tiles.manifest.key for tiles in outputs(project, "infer"))
    return sha256_json(
        {
            "drift": VERSION,
            "map": lineage.map.manifest.key,
            "dataset": lineage.dataset.manifest.outputs_digest,
            "tiles": others,
            "limits": project.config.monitoring.model_dump(mode="json"),
        }
    )


def _place(project: Project, map_id: str) -> Path:
    return project.state / REPORTS / f"{map_id}.json"


def _kept(project: Project, map_id: str) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(_place(project, map_id).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
