"""What an audit says: the verdict, the lineage both ways, every check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["verified", "differs", "incomplete", "recorded", "unknown"]
Kind = Literal["map", "model", "dataset", "labels", "scene", "encoder"]
"""encoder: the weights that trainings begin with."""
FoundBy = Literal["checksum", "tags", "pixels", "name"]

Status = Literal["ok", "differs", "missing", "changed"]
"""changed: an input file is not, or not any more, what the stage read; this takes nothing from the verdict."""


@dataclass(frozen=True)
class Check:
    """One thing that was compared with what the registry recorded."""

    what: str
    """For example "tiles", "model weights (MLflow)"."""
    status: Status
    detail: str
    """For a person: what was compared, or what is wrong."""
    problems: list[str] = field(default_factory=list)
    """One sentence for each file or value that is not as recorded."""


@dataclass(frozen=True)
class AssetFacts:
    """One file of a scene, as it was when a stage first read it."""

    name: str
    href: str
    checksum: str
    """sha256:<hex>, multihash:<hex> or etag:<value>; empty where none is known."""
    accessed: datetime


@dataclass(frozen=True)
class SceneFacts:
    """One scene of the lineage."""

    id: str
    modality: str
    catalogue: str
    acquired: datetime
    cloud_cover: float | None
    assets: list[AssetFacts] = field(default_factory=list)
    """Told of a scene that was asked about."""


@dataclass(frozen=True)
class RunFacts:
    """One computation of the lineage: who, where, with which code, at what cost."""

    stage: str
    status: str
    """computed, or found: the outputs were complete when the registry first heard of them, and their
    maker (who, host, versions, commits, environment) is unknown."""
    key: str
    digest: str
    folder: str
    inputs: dict[str, Any]
    started: datetime | None
    finished: datetime | None
    who: str | None
    host: str | None
    flow_run: str | None
    platform_version: str | None
    code_commit: str | None
    code_dirty: bool | None
    project_commit: str | None
    project_dirty: bool | None
    lock_sha256: str | None
    environment_sha256: str | None
    wall_seconds: float | None
    device: str | None
    device_seconds: float | None
    bytes_read: int | None
    bytes_written: int | None


@dataclass(frozen=True)
class EncoderFacts:
    """The weights that a training began with."""

    encoder: str
    """Name of the architecture."""
    source: str
    revision: str | None
    sha256: str | None
    licence: str
    seed: int | None
    """Of random weights."""


@dataclass(frozen=True)
class EvaluationFacts:
    """How well the model did on a split of a dataset version."""

    split: str
    task: str
    dataset_digest: str
    scores: dict[str, Any]
    evaluator: str | None
    created: datetime


@dataclass(frozen=True)
class PromotionFacts:
    """Who gave an alias to the model version, or took it away, and why."""

    action: str
    alias: str
    from_version: str | None
    to_version: str | None
    who: str
    why: str
    state: str
    """intended | confirmed | failed."""
    intended: datetime
    settled: datetime | None


@dataclass(frozen=True)
class ModelFacts:
    """The model version of the lineage."""

    name: str
    version: str
    digest: str
    weights_sha256: str
    encoder: str
    base: str
    """Which weights the training began with: random, or a checkpoint."""
    metrics: dict[str, Any]
    base_encoder: EncoderFacts | None
    evaluations: list[EvaluationFacts]
    promotions: list[PromotionFacts]


@dataclass(frozen=True)
class DatasetFacts:
    """The dataset version of the lineage."""

    digest: str
    dvc_hash: str | None
    labels: dict[str, str]
    """Label file -> sha256."""
    project: str
    summary: dict[str, Any]
    scenes: list[SceneFacts]


@dataclass(frozen=True)
class AssessmentFacts:
    """What an interpreted reference sample says of the map."""

    units: int
    estimates: dict[str, Any]
    who: str
    created: datetime


@dataclass(frozen=True)
class MapFacts:
    """The map."""

    id: str
    project: str
    date: date
    digest: str
    recorded: datetime
    products: dict[str, str]
    """Product -> sha256."""
    tiles: int
    reused_tiles: int
    """Of these, computed by an earlier run of the same tile."""
    scenes: list[SceneFacts]
    assessments: list[AssessmentFacts]


@dataclass(frozen=True)
class LabelFileFacts:
    """A label file as a label set has it."""

    name: str
    sha256: str
    project: str
    label_set: str
    """Digest over all files of the set."""
    created: datetime


@dataclass(frozen=True)
class DatasetLine:
    """A dataset version that something went into."""

    digest: str
    project: str
    dvc_hash: str | None
    created: datetime


@dataclass(frozen=True)
class ModelLine:
    """A model version that something went into."""

    name: str
    version: str
    project: str
    weights_sha256: str
    dataset: str | None
    """Digest of the dataset version that it was trained on."""
    created: datetime


@dataclass(frozen=True)
class MapLine:
    """A map that something went into."""

    id: str
    project: str
    date: date
    digest: str
    model: str | None
    """name/version."""
    created: datetime
    through: Literal["imagery", "model"]
    """imagery: it shows the scene. model: its model was made from what was asked about."""


@dataclass(frozen=True)
class Touched:
    """Everything that was made from what was asked about, newest first."""

    datasets: list[DatasetLine] = field(default_factory=list)
    models: list[ModelLine] = field(default_factory=list)
    maps: list[MapLine] = field(default_factory=list)


@dataclass(frozen=True)
class SubjectFacts:
    """What was asked about."""

    kind: Kind
    name: str
    found_by: FoundBy
    part: str
    """Which file of it; empty where it was named, or is no file of it."""


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; of something unknown there is a verdict and a sentence only."""

    asked: str
    """The file or name that was asked about."""
    verdict: Verdict
    """verified: every check is ok (input files may have changed since). differs: at least one is not. incomplete: none
    differs, but something to check is gone. recorded: this is what the registry says, and nothing was verified.
    unknown: nothing in this workspace's registry."""
    sentence: str
    """The verdict for a person."""
    checks: list[Check]
    subject: SubjectFacts | None = None
    map: MapFacts | None = None
    model: ModelFacts | None = None
    dataset: DatasetFacts | None = None
    scenes: list[SceneFacts] | None = None
    """A scene that was asked about, in each of its modalities."""
    labels: list[LabelFileFacts] | None = None
    """A label file that was asked about, in each set that has it."""
    encoder: EncoderFacts | None = None
    """A base encoder that was asked about."""
    runs: list[RunFacts] | None = None
    """From the thing back to the export."""
    touched: Touched | None = None
    """What was made from it."""
    preview: Path | None = None
    """The map's preview, where it is at hand and has the recorded checksum."""

    @property
    def found_by(self) -> FoundBy | None:
        """How it was found."""
        return self.subject.found_by if self.subject is not None else None

    @property
    def verified(self) -> bool:
        """Whether every checksum holds."""
        return self.verdict == "verified"

    def to_json(self) -> dict[str, Any]:
        """JSON values; moments and dates in ISO 8601."""
        values: dict[str, Any] = _plain(asdict(self))
        return {**values, "verified": self.verified, "found_by": self.found_by}


def _plain(value: Any) -> Any:
    """JSON values."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
