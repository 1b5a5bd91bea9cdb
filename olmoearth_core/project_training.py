"""The section `training` of project.yaml: how the model is fine-tuned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from olmoearth_core.section import Section


class AugmentConfig(Section):
    """What is changed in a training window while its labels stay true (training/augment.py)."""

    turns: bool = True
    """Any of the eight views of a square."""
    brightness: float = Field(0.03, ge=0, le=0.5)
    """Standard deviation of a timestep's brightness, a share of it; of radar's, eleven times as much in dB."""
    noise: float = Field(0.0, ge=0, le=0.5)
    """The same for each pixel by itself."""
    timestep_drop: float = Field(0.1, ge=0, lt=1)
    """Share of the timesteps that are hidden."""
    modality_drop: float = Field(0.0, ge=0, lt=1)
    """Share of windows that a modality is hidden in; one always stays."""

    @classmethod
    def none(cls) -> AugmentConfig:
        """Windows as they are."""
        return cls(turns=False, brightness=0, noise=0, timestep_drop=0, modality_drop=0)

    @property
    def nothing(self) -> bool:
        """Nothing is changed."""
        return self == AugmentConfig.none()


def _augment(value: Any) -> Any:
    if isinstance(value, bool):
        return AugmentConfig() if value else AugmentConfig.none()
    if not isinstance(value, dict | AugmentConfig):
        raise ValueError(f"expected true, false, or keys below it, found {value!r}")
    return value


Recipe = Literal["auto", "head_only", "freeze_then_unfreeze", "layer_decay", "lora", "full"]


class TrainingConfig(Section):
    """How the model is fine-tuned; what is left out, the recipe decides (training/recipe.py)."""

    recipe: Recipe = "auto"
    """Which weights learn, and when: head_only (on cached embeddings), freeze_then_unfreeze, layer_decay (all, the
    lower layers more slowly), lora (small additions to the encoder's matrices), full (all alike)."""
    epochs: int | None = Field(None, ge=1, le=100_000)
    batch_size: int = Field(8, ge=1, le=65_536)
    """Windows that make one step, over all processes."""
    at_once: int | None = Field(None, ge=1, le=65_536)
    """Windows computed at once, fewer than batch_size where memory is short; gradients add up to the same step."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """Of the head, at its peak."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    schedule: Literal["cosine", "plateau"] = "cosine"
    """Falls along half a cosine, or to a fifth whenever validation has not improved for two epochs."""
    warm_up: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises to its peak."""
    layer_decay: float = Field(0.65, gt=0, le=1)
    """layer_decay: a block's learning rate is this share of the one above it."""
    frozen: float = Field(0.3, gt=0, lt=1)
    """freeze_then_unfreeze: share of the epochs in which the head learns alone."""
    lora_rank: int = Field(8, ge=1, le=256)
    loss: Literal["auto", "cross_entropy", "focal", "dice", "squared", "absolute", "huber"] = "auto"
    """Of classes: cross_entropy (auto), focal, or dice (cross entropy and dice together); of measured values: squared,
    absolute or huber (auto)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class's labels weigh as much together as another's, rare as they may be."""
    augment: Annotated[AugmentConfig, BeforeValidator(_augment)] = AugmentConfig()
    """true, false, or what in particular."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a better validation score after which training stops; left out, 0.3 of all epochs, at least 5. The
    best epoch is kept in any case; as many as there are epochs never stop."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is kept instead of them; 0: the weights themselves."""
    checkpointing: bool = False
    """Compute activations twice instead of keeping them: a third more time, several times less memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """While training; auto is bf16 on GPUs that have it."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
