"""What an audit says: the verdict, the lineage of a map, every check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["verified", "differs", "incomplete", "unknown"]
FoundBy = Literal["checksum", "tags", "pixels"]


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
class SceneFacts:
    """One scene of the lineage."""

    id: str
    modality: str
    catalogue: str
    acquired: datetime
    cloud_cover: float | None


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
class ModelFacts:
    """The model version of the lineage."""

    name: str
    version: str
    weights_sha256: str
    encoder: str
    base: str
    """Which weights the training began with: random, or a checkpoint."""
    metrics: dict[str, Any]


@dataclass(frozen=True)
class DatasetFacts:
    """The dataset version of the lineage."""

    digest: str
    dvc_hash: str | None
    labels: dict[str, str]
    """Label file -> sha256."""
    summary: dict[str, Any]
    scenes: list[SceneFacts]


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
    scenes: list[SceneFacts]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; an unknown file has a path, a verdict and a sentence only."""

    path: Path
    verdict: Verdict
    """verified: every check is ok (input files may have changed since). differs: at least one is not. incomplete: none
    differs, but something to check is gone. unknown: nothing in this workspace's registry."""
    sentence: str
    """The verdict for a person."""
    checks: list[Check]
    found_by: FoundBy | None = None
    map: MapFacts | None = None
    model: ModelFacts | None = None
    dataset: DatasetFacts | None = None
    runs: list[RunFacts] | None = None
    """From the map back to the export."""

    @property
    def verified(self) -> bool:
        """Whether every checksum holds."""
        return self.verdict == "verified"

    def to_json(self) -> dict[str, Any]:
        """JSON values; moments and dates in ISO 8601."""
        values: dict[str, Any] = _plain(asdict(self))
        return {**values, "verified": self.verified}


def _plain(value: Any) -> Any:
    """JSON values."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
