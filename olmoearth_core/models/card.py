"""The model card: what a trained model is, what it was made of, how good it is, and what it may be used for.

`card.json` is what the platform reads back; `card.md` says the same to people. Neither holds a time or a host: equal
training gives equal cards.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from olmoearth_core.framing import Framing
from olmoearth_core.models.card_text import score_lines
from olmoearth_core.models.prediction_sets import PredictionSets

if TYPE_CHECKING:
    from torch import Tensor

CARD = "card.json"
CARD_TEXT = "card.md"
CARD_SCHEMA: Literal[2] = 2


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
    """A head, as its constructor needs it."""

    kind: Literal["linear", "upsample", "unet", "pool"] = "upsample"
    """As in models/heads.py."""
    hidden: int = Field(32, ge=1)
    """Channels inside."""


class TaskCard(_Part):
    """One thing that the model answers, and what its answers mean."""

    name: str = Field("main", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    kind: Literal["segmentation", "classification", "regression"] = "segmentation"
    classes: list[str] = []
    """Names; a class's index here is its channel in the predictions. None of a regression."""
    unit: str = ""
    range: tuple[float, float] | None = None
    """Of a regression: the values that are possible; predictions are kept within."""
    head: HeadSpec = HeadSpec()
    weight: float = 1.0
    """Of its loss, beside the other tasks'."""
    temperature: float = Field(1.0, gt=0)
    """Scores are divided by it before softmax, so that probabilities are those of being right."""
    sets: PredictionSets | None = None
    """Which probability a class needs not to be ruled out; None until the model is judged, and of a regression."""

    @model_validator(mode="after")
    def _means_something(self) -> TaskCard:
        if self.kind == "regression" and (self.range is None or self.range[0] >= self.range[1]):
            raise ValueError("a regression has a range (low, high)")
        if self.kind != "regression" and len(self.classes) < 2:
            raise ValueError(f"a {self.kind} has two classes or more")
        return self

    @property
    def outputs(self) -> int:
        """K, channels of what the head answers."""
        return 1 if self.kind == "regression" else len(self.classes)

    @property
    def knows_nothing(self) -> float:
        """The prediction where there is nothing to see: the middle of the range, or every class alike."""
        return sum(self.range) / 2 if self.range else 1 / len(self.classes)

    def in_units(self, answer: Tensor) -> Tensor:
        """A head's answer as it is meant: of a regression -1 and 1 are the ends of the range, scores stay scores."""
        if self.range is None:
            return answer
        low, high = self.range
        return (low + high) / 2 + (high - low) / 2 * answer

    def within_range(self, answer: Tensor) -> Tensor:
        """Estimates (B, 1, H, W) kept within the range, as they are mapped and judged; scores stay scores."""
        return answer if self.range is None else answer.clamp(*self.range)

    def probabilities(self, answer: Tensor) -> Tensor:
        """Scores (B, K, H, W) as calibrated probabilities; estimates (B, 1, H, W) kept within the range."""
        if self.range is None:
            return (answer / self.temperature).softmax(dim=1)
        return self.within_range(answer)


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

    schema_version: Literal[2] = CARD_SCHEMA
    tasks: list[TaskCard] = Field(min_length=1)
    """The first is what is mapped."""
    encoder: str
    """Catalogue name, as in `olmoearth encoders`."""
    base: BaseWeights
    bands: dict[str, list[str]]
    """Modality -> bands, in the order of the inputs' channels."""
    patch_size: int = Field(ge=1)
    window_size: int = Field(ge=1)
    resolution: float = Field(gt=0)
    """Edge of a pixel in metres."""
    framing: Framing
    training: dict[str, Any]
    """The recipe, resolved: what was trained, how long, how fast, and why so (training/recipe.py)."""
    dataset: TrainingSet
    scores: dict[str, Any]
    """What metrics.json says, confusion matrices included; empty until the model is judged."""
    weights_sha256: str = ""
    """Of weights.safetensors; filled in when the model is saved."""
    intended_use: str
    restrictions: list[str]

    @property
    def main(self) -> TaskCard:
        """The task that is mapped."""
        return self.tasks[0]

    @property
    def classes(self) -> list[str]:
        """Of the main task."""
        return self.main.classes

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.framing.spans(date(2020, 1, 1)))


def render(card: ModelCard) -> str:
    """The card as Markdown."""
    framing = ", ".join(f"{key} {value}" for key, value in card.framing.model_dump(mode="json").items())
    bands = "; ".join(f"{modality}: {' '.join(names)}" for modality, names in card.bands.items())
    windows = ", ".join(f"{count} {split}" for split, count in card.dataset.windows.items())
    lines = [
        f"# {card.encoder}, {'; '.join(map(_task, card.tasks))}",
        "",
        card.intended_use,
        "",
        f"- **Base weights**: {card.base.sentence}",
        f"- **Inputs**: {bands}",
        f"- **Framing in time**: {framing}",
        f"- **Sizes**: window {card.window_size} px, patch {card.patch_size} px, {card.resolution:g} m a pixel",
        *(f"- **Head of {t.name}**: {t.head.kind}, {t.head.hidden} channels" for t in card.tasks),
        f"- **Training**: {_training(card.training)}",
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


def _task(task: TaskCard) -> str:
    of = ", ".join(task.classes) or f"{task.name}{f' in {task.unit}' if task.unit else ''}"
    return f"{task.kind} of {of}"


def _training(recipe: dict[str, Any]) -> str:
    """The recipe in words, and of its settings those that do something."""
    told = {key: value for key, value in sorted(recipe.items()) if key not in ("name", "why", "heads")}
    told |= {f"augment.{key}": value for key, value in told.pop("augment", {}).items()}
    unused = set(told.pop("unused", []))
    used = {key: value for key, value in told.items() if key not in unused and value not in (None, False, 0)}
    settings = ", ".join(f"{key} {value}" for key, value in used.items())
    reason = f"{recipe['name']} ({recipe['why']}); " if "name" in recipe else ""
    return reason + settings
