"""The sections of project.yaml about what happens without being asked for: retraining, deployment, notifications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from olmoearth_core.section import Name, Section

_OF_CLASSES = ("miou", "macro_f1", "overall_accuracy", "ece", "log_loss")
METRICS: Mapping[str, tuple[str, ...]] = {
    "segmentation": _OF_CLASSES,
    "classification": _OF_CLASSES,
    "regression": ("r2", "rmse", "mae", "r"),
}
"""Kind of task -> overall scores that gates may ask for; the first is the usual one of segmentation and regression."""
PART_METRICS: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("iou", "f1", "precision", "recall"),
    "classification": ("f1", "iou", "precision", "recall"),
    "regression": ("mae", "rmse"),
}
"""Kind of task -> scores of a class, or of a part of the range, that gates may ask for; the first is the usual one."""
LOWER_IS_BETTER = frozenset({"ece", "log_loss", "rmse", "mae"})


def _cron(value: str) -> str:
    from datetime import datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(value, datetime(2026, 1, 1))
    except CronSimError as error:
        raise ValueError(f"'{value}' is no cron expression ({error}); an example is '0 4 1 * *'") from error
    return value


Cron = Annotated[str, AfterValidator(_cron)]
"""When something happens, as cron writes it: minute, hour, day of the month, month, day of the week."""


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"'{value}' is no time zone; examples are UTC and Africa/Nairobi") from None
    return value


class GatesConfig(Section):
    """What a challenger has to reach to become the champion (training/gates.py).

    Drops are differences of scores (0.02 is two points); of a regression's errors, shares of the task's range.
    """

    metric: str | None = None
    """Score that both are compared by; the task's headline when not given."""
    drop: float = Field(0.02, ge=0, le=1)
    """Largest loss of it that still counts as equal, where its interval holds 0 and can be trusted."""
    class_metric: str | None = None
    """IoU (F1 of a classification); mean absolute error of each part of a regression's range."""
    class_drop: float = Field(0.05, ge=0, le=1)
    """No class may lose more of it."""
    newest_drop: float = Field(0.05, ge=0, le=1)
    """As `drop`, on test windows whose labels the champion's training set did not have."""
    ece: float | None = Field(None, ge=0, le=1)
    """Largest calibration error; when not given, the champion's and three points."""
    cost: float = Field(1.5, gt=0)
    """Most multiply-accumulates a square kilometre, in those of the champion."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Overall score -> what it must reach (errors: must not exceed), whatever the champion does."""


class RetrainingConfig(Section):
    """When the model is trained anew, and when that model takes over."""

    cron: Cron | None = None
    """When to look whether retraining is due; what is not due is not done."""
    triggers: list[Literal["labels", "season", "drift"]] = Field(default_factory=lambda: ["labels"])  # type: ignore[arg-type]
    """What makes it due: changed labels, the end of map.date's season a year (or more) later, drift of the newest
    map beyond the limits of section monitoring."""
    start: Literal["base", "champion"] = "base"
    """What a challenger is trained from: the encoder in section model, or the champion's weights."""
    remap: bool = False
    """Map again as soon as there is a new champion."""
    gates: GatesConfig = GatesConfig()


class DeploymentConfig(Section):
    """How `olmoearth deploy` puts the project on a Prefect server."""

    pool: Name | None = None
    """Work pool; `olmoearth` when not given."""
    lifecycle: Cron | None = None
    """When the whole lifecycle runs."""
    mapping: Cron | None = None
    """When the area is mapped again, with the scenes that the catalogue has by then."""
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    """Of all schedules of the project."""
    tags: list[str] = Field(default_factory=list)
    engine: Literal["local", "processes", "dask"] | None = None
    """That computes the tiles of a map (docs/mapping.md); processes or local when not given, by how many."""
    processes: int = Field(1, ge=1)
    """Of that engine."""


def _address(value: Any) -> Any:
    if isinstance(value, str) and not value.startswith("$") and "://" not in value:
        raise ValueError(
            f"'{value}' is no address; expected is a URL as Apprise writes it (mailto://, slack://, json://host/path), "
            "prefect://BLOCK-TYPE/NAME, or $VARIABLE, an environment variable that holds one"
        )
    return value


class NotificationsConfig(Section):
    """Who is told what, without looking (docs/retraining.md)."""

    to: list[Annotated[str, BeforeValidator(_address)]] = Field(min_length=1)
    """Apprise URLs, Prefect's notification blocks, or environment variables that hold such; secrets belong into the
    latter, project.yaml is in git."""
    about: list[Literal["promotion", "refusal", "drift", "failure"]] = Field(
        default_factory=lambda: ["promotion", "refusal", "drift", "failure"]  # type: ignore[arg-type]
    )
    """A model that took over (or was rolled back), one that the gates refused, drift, retraining that failed."""


def check_gates(gates: GatesConfig, kind: str) -> None:
    """Refuse gates on scores that are not computed for such a task.

    Raises:
        ValueError: with the key and what can be asked for.
    """
    asked = [("metric", gates.metric, METRICS), ("class_metric", gates.class_metric, PART_METRICS)]
    asked += [("limits", name, METRICS) for name in gates.limits]
    asked += [("ece", "ece", METRICS)] if gates.ece is not None else []
    for key, name, known in asked:
        if name is not None and name not in known[kind]:
            raise ValueError(
                f"retraining.gates.{key}: '{name}' is not computed for a {kind}; computed are {', '.join(known[kind])}"
            )
