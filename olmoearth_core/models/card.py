"""The model card: what a trained model is, what it was made of, how good it is, and what it may be used for.

`card.json` is what the platform reads back; `card.md` says the same to people. Neither holds a time or a host: equal
training gives equal cards.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from olmoearth_core.framing import Framing
from olmoearth_core.models.card_text import score_lines

CARD = "card.json"
CARD_TEXT = "card.md"
CARD_SCHEMA: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseWeights(_Part):
    """Where the encoder's weights came from before training (`origin.Origin`, as JSON)."""

    source: str
    """Checkpoint as written in project.yaml, or "random"."""
    revision: str | None = None
    sha256: str | None = None
    licence: str
    restrictions: list[str] = []
    seed: int | None = None
    """Seed of random weights."""

    @property
    def sentence(self) -> str:
        """For the log and the card: which weights the training began with."""
        if self.source == "random":
            return f"random weights, seed {self.seed}; the encoder was not pretrained"
        revision = f", revision {self.revision}" if self.revision else ""
        return f"checkpoint {self.source}{revision}, sha256 {self.sha256}, licence: {self.licence}"


class HeadSpec(_Part):
    """The head, as its constructor needs it."""

    kind: Literal["patch_upsampler"] = "patch_upsampler"
    hidden: int = Field(32, ge=1)
    """Channels at full resolution."""


class TrainingSet(_Part):
    """The dataset version behind the model."""

    digest: str
    """sha256 of the outputs of preprocess."""
    windows: dict[str, int]
    """Split -> windows that hold labelled pixels the model can see."""
    pixels: dict[str, dict[str, int]]
    """Split -> class -> labelled pixels the model can see."""


class ModelCard(_Part):
    """Everything needed to rebuild, judge and lawfully use a trained model."""

    schema_version: Literal[1] = CARD_SCHEMA
    task: Literal["segmentation"] = "segmentation"
    encoder: str
    """Catalogue name, as in `olmoearth encoders`."""
    base: BaseWeights
    head: HeadSpec
    classes: list[str] = Field(min_length=2)
    """Names; a class's index here is its channel in the predictions."""
    bands: dict[str, list[str]]
    """Modality -> bands, in the order of the inputs' channels."""
    patch_size: int
    window_size: int
    resolution: float
    """Edge of a pixel in metres."""
    framing: Framing
    training: dict[str, Any]
    """Settings of the training run."""
    dataset: TrainingSet
    scores: dict[str, Any]
    """What metrics.json says, confusion matrices included; empty until the model is judged."""
    weights_sha256: str = ""
    """Of weights.safetensors; filled in when the model is saved."""
    intended_use: str
    restrictions: list[str]


def render(card: ModelCard) -> str:
    """The card as Markdown."""
    training = ", ".join(f"{key} {value}" for key, value in sorted(card.training.items()))
    framing = ", ".join(f"{key} {value}" for key, value in card.framing.model_dump(mode="json").items())
    bands = "; ".join(f"{modality}: {' '.join(names)}" for modality, names in card.bands.items())
    windows = ", ".join(f"{count} {split}" for split, count in card.dataset.windows.items())
    lines = [
        f"# {card.encoder}, {card.task} of {', '.join(card.classes)}",
        "",
        card.intended_use,
        "",
        f"- **Base weights**: {card.base.sentence}",
        f"- **Inputs**: {bands}",
        f"- **Framing in time**: {framing}",
        f"- **Sizes**: window {card.window_size} px, patch {card.patch_size} px, {card.resolution:g} m a pixel",
        f"- **Head**: {card.head.kind}, {card.head.hidden} channels",
        f"- **Training**: {training}",
        f"- **Dataset version**: {card.dataset.digest} ({windows} windows)",
        f"- **Weights**: sha256 {card.weights_sha256}",
        "",
        "## Scores",
        "",
        *score_lines(card.scores),
        "",
        "## Restrictions",
        "",
        *(f"- {restriction}" for restriction in card.restrictions),
    ]
    return "\n".join(lines) + "\n"
