"""Recipes: which weights learn, how long and how fast, resolved from project.yaml and what there is to learn from.

head_only             the encoder sees each window once; the head learns on what it kept
freeze_then_unfreeze  the head alone first, then all
layer_decay           all, lower layers more slowly
lora                  the head, and a small product beside each of the encoder's matrices
full                  all alike
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from olmoearth_core.project import ProjectConfig
from olmoearth_core.project_training import AugmentConfig


@dataclass(frozen=True)
class Facts:
    """What `auto` decides by.

    Attributes:
        pretrained: the encoder's weights are not random.
        windows: labelled training windows.
        device: "cpu" or "cuda".
        device_seconds: rough estimate of an epoch of training all weights, on the device.
    """

    pretrained: bool
    windows: int
    device: str
    device_seconds: float


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, with nothing left open; as in project.yaml (`TrainingConfig`) where not said here.

    Attributes:
        why: the reason for the recipe, in a sentence.
        heads: task -> kind of its head.
        frozen_epochs: first epochs in which the head learns alone.
        precision: "fp32" or "bf16", of the arithmetic while training; the weights are fp32.
    """

    name: str
    why: str
    heads: dict[str, str]
    epochs: int
    batch_size: int
    at_once: int
    learning_rate: float
    weight_decay: float
    schedule: str
    warm_up: float
    layer_decay: float
    frozen_epochs: int
    lora_rank: int
    loss: str
    class_weights: str
    augment: AugmentConfig
    patience: int | None
    ema: float
    checkpointing: bool
    precision: str
    seed: int

    @property
    def embeds(self) -> bool:
        """The encoder is not trained, and its view of each window is kept."""
        return self.name == "head_only"

    @property
    def unused(self) -> set[str]:
        """Settings that mean nothing to this recipe."""
        own = {"layer_decay": "layer_decay", "lora_rank": "lora", "frozen_epochs": "freeze_then_unfreeze"}
        found = {setting for setting, recipe in own.items() if recipe != self.name}
        changes = {
            "augment.turns",
            "augment.brightness",
            "augment.noise",
            "augment.timestep_drop",
            "augment.modality_drop",
        }
        return found | (changes | {"checkpointing"} if self.embeds else set())

    def to_json(self) -> dict[str, Any]:
        """JSON values, for the card."""
        values = asdict(replace(self, augment=None))  # type: ignore[arg-type]
        return values | {"augment": self.augment.model_dump(), "unused": sorted(self.unused)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Recipe:
        """The inverse of `to_json`."""
        known = {name: given for name, given in value.items() if name != "unused"}
        return cls(**{**known, "augment": AugmentConfig.model_validate(value["augment"])})


@dataclass(frozen=True)
class _Defaults:
    """What a recipe takes where project.yaml leaves it open."""

    epochs: int
    learning_rate: float
    head: str


_DEFAULTS = {
    "head_only": _Defaults(100, 3e-3, "upsample"),
    "freeze_then_unfreeze": _Defaults(40, 2e-3, "unet"),
    "layer_decay": _Defaults(40, 1e-3, "unet"),
    "lora": _Defaults(40, 2e-3, "unet"),
    "full": _Defaults(40, 1e-3, "unet"),
}

PATIENCE, LEAST_PATIENCE = 0.3, 5
"""Share of the epochs, and how many at least, that may pass without a better validation score. Validation scores of few
windows jump, and the last epochs at a low learning rate are often the best: of six real runs a share of 0.25 loses the
best epoch of one, 0.3 of none."""
FEW = 100
"""Labelled windows below which the encoder is left as it is."""
LONG = 3600.0
"""Seconds of training on a CPU that a partner should not have to wait for unasked."""


def choose(asked: str, facts: Facts, epochs: int | None = None) -> tuple[str, str]:
    """(recipe, why) for training.recipe; `epochs` where project.yaml says how many."""
    if asked != "auto":
        return asked, "project.yaml asks for it"
    if not facts.pretrained:
        return "full", "the encoder has random weights: there is nothing in them to keep"
    if facts.windows < FEW:
        return "head_only", f"only {facts.windows} labelled windows: too few to teach the encoder more than they hold"
    seconds = facts.device_seconds * (epochs or _DEFAULTS["layer_decay"].epochs)
    if facts.device == "cpu" and seconds > LONG:
        long = f"{seconds / 3600:.0f} hours" if seconds >= 7200 else f"{seconds / 60:.0f} minutes"
        return "head_only", f"training all weights would take about {long} on this CPU"
    return "layer_decay", f"{facts.windows} labelled windows and a device that is quick enough for all weights"


def usual_learning_rate(name: str) -> float:
    """What a recipe takes where project.yaml names no learning rate."""
    return _DEFAULTS[name].learning_rate


def resolve(config: ProjectConfig, facts: Facts) -> Recipe:
    """The recipe of a project with all that project.yaml leaves open decided."""
    training = config.training
    name, why = choose(training.recipe, facts, training.epochs)
    defaults = _DEFAULTS[name]
    epochs = training.epochs or defaults.epochs
    return Recipe(
        name=name,
        why=why,
        heads={
            task: _head(config.model.head if k == 0 else "auto", of.kind, defaults)
            for k, (task, of) in enumerate(config.tasks.items())
        },
        epochs=epochs,
        batch_size=training.batch_size,
        at_once=min(training.at_once or training.batch_size, training.batch_size),
        learning_rate=training.learning_rate or defaults.learning_rate,
        weight_decay=training.weight_decay,
        schedule=training.schedule,
        warm_up=training.warm_up,
        layer_decay=training.layer_decay,
        frozen_epochs=max(1, round(training.frozen * epochs)) if name == "freeze_then_unfreeze" else 0,
        lora_rank=training.lora_rank,
        loss=training.loss,
        class_weights=training.class_weights,
        augment=training.augment,
        patience=training.patience or max(LEAST_PATIENCE, math.ceil(PATIENCE * epochs)),
        ema=training.ema,
        checkpointing=training.checkpointing,
        precision=_precision(training.precision, facts.device),
        seed=training.seed,
    )


def _head(asked: str, kind: str, defaults: _Defaults) -> str:
    if asked != "auto":
        return asked
    return "pool" if kind == "classification" else defaults.head


def _precision(asked: str, device: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
