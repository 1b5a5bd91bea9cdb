"""What the experiments in fine-tuning share: plans are learned from windows, answers judged beside a baseline's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.dataset.cubes import TaskLayout, Truth
from olmoearth_core.models import build_encoder, load_encoder
from olmoearth_core.models.card import HeadSpec, TaskCard
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.progress import Silent
from olmoearth_core.project_training import AugmentConfig
from olmoearth_core.stage import Meter
from olmoearth_core.training.bootstrap import intervals, paired_difference
from olmoearth_core.training.data import Windows
from olmoearth_core.training.embeddings import Embedded, embed
from olmoearth_core.training.loop import Job, Judgement, Source, fit
from olmoearth_core.training.losses import make_loss
from olmoearth_core.training.metrics import Path as Score
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.recipe import Recipe
from olmoearth_core.training.tally import Tally, headline, tally

S2 = "sentinel2_l2a"
GALILEO, OLMOEARTH = "galileo-nano", "v1.1-nano"


def data() -> Path:
    """The folder of real data sets."""
    return Path(os.environ["OLMOEARTH_TEST_DATA"]).resolve()


@dataclass(frozen=True)
class Plan:
    """A way to learn; what is not said is the product's default.

    Attributes:
        encoder: catalogue name.
        pretrained: Galileo nano's published weights, else random ones.
        recipe: its name.
        head: its kind.
        learning_rate: at the peak, of the head.
        brightness: of the augmentation.
        loss: as in project.yaml.
    """

    encoder: str
    pretrained: bool
    recipe: str
    head: str
    patch_size: int
    epochs: int
    learning_rate: float
    batch_size: int = 8
    brightness: float = 0.03
    loss: str = "auto"
    seed: int = 0

    @property
    def name(self) -> str:
        """For a table."""
        weights = "pretrained" if self.pretrained else "random"
        return f"{self.encoder}, {weights}, {self.recipe}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def resolve(self) -> Recipe:
        """The recipe with nothing left open."""
        return Recipe(
            name=self.recipe, why="", heads={"main": self.head}, epochs=self.epochs, batch_size=self.batch_size,
            at_once=self.batch_size, learning_rate=self.learning_rate, weight_decay=0.01, schedule="cosine",
            warm_up=0.1, layer_decay=0.65, frozen_epochs=0, lora_rank=8, loss=self.loss,
            class_weights="none", augment=AugmentConfig(brightness=self.brightness), patience=None, ema=0.0,
            checkpointing=False, precision="fp32", seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is learned, and of what: the same for all plans of an experiment.

    Attributes:
        task: without a head.
        bands: of Sentinel-2, in the order of the inputs' channels.
        timesteps: T.
    """

    task: TaskCard
    bands: tuple[str, ...]
    timesteps: int
    resolution: float = 10.0

    @property
    def layout(self) -> TaskLayout:
        """The task as judging knows it."""
        return TaskLayout(self.task.kind, strata(self.task), self.task.unit, self.task.range)

    def model(self, plan: Plan) -> Predictor:
        """A model that has learned nothing yet."""
        weights = data() / "weights" / "galileo_nano"
        encoder = (
            load_encoder(str(weights), precision="fp32", device="cpu")
            if plan.pretrained
            else build_encoder(plan.encoder, seed=plan.seed)
        )
        if plan.recipe == "head_only":
            encoder.requires_grad_(False)
        head = HeadSpec(kind=plan.head)  # type: ignore[arg-type]
        return Predictor(
            encoder,
            [self.task.model_copy(update={"head": head})],
            bands={S2: self.bands},
            timesteps=self.timesteps,
            patch_size=plan.patch_size,
            resolution=self.resolution,
            seed=plan.seed,
        )


def strata(task: TaskCard) -> tuple[str, ...]:
    """Class names; of a regression, five equal parts of its range, as project.yaml has them."""
    if task.range is None:
        return tuple(task.classes)
    return tuple(f"{low:g}..{high:g}" for low, high in pairwise(np.linspace(*task.range, 6)))


def learn(
    subject: Subject, plan: Plan, train: Windows | Embedded, validation: Source | None = None
) -> tuple[Predictor, list[float]]:
    """The model after all epochs (never the best one: nothing here may look ahead), and validation's headline by epoch.

    Args:
        subject: what is learned.
        plan: how.
        train: from what; for head_only what the frozen encoder saw, or is yet to see.
        validation: is scored after each epoch, and decides nothing here.
    """
    model, recipe = subject.model(plan), plan.resolve()
    found: list[float] = []

    def judge(model: Predictor) -> Judgement:
        if validation is not None:
            found.append(headline(judged(subject, model, validation).scores(), subject.layout) or 0.0)
        return Judgement(None, {})

    losses = {"main": make_loss(subject.task, plan.loss, np.ones(len(subject.layout.strata)), balanced=False)}
    with tempfile.TemporaryDirectory() as scratch:
        source: Source = seen(model, train, Path(scratch)) if recipe.embeds and isinstance(train, Windows) else train
        fit(Job(model, losses, source, judge, recipe, "benchmark", Path(scratch)), Silent(), Meter())
    return model, found


def seen(model: Predictor, windows: Windows, folder: Path) -> Embedded:
    """What the frozen encoder of `model` makes of windows, in memory."""
    kept = embed(model, windows, folder, batch_size=8, progress=Silent(), meter=Meter())
    pixels = None if kept.pixels is None else np.array(kept.pixels)
    return replace(kept, features=np.array(kept.features), pixels=pixels)


def part(kept: Embedded, places: np.ndarray) -> Embedded:
    """Some of the windows that an encoder saw."""
    windows = replace(
        kept.windows,
        rows=kept.windows.rows[places],
        counts={task: count[places] for task, count in kept.windows.counts.items()},
    )
    truths = {
        task: Truth(truth.strata[places], None if truth.values is None else truth.values[places])
        for task, truth in kept.truths.items()
    }
    return Embedded(windows, kept.features[places], None if kept.pixels is None else kept.pixels[places], truths)


def judged(subject: Subject, model: Predictor, windows: Source) -> Tally:
    """What `model` is worth on `windows`."""
    return tally(answers_to("main", model, windows, 8), subject.layout)


def row(
    name: str, score: Score, found: Tally, blocks: np.ndarray, baselines: Mapping[str, Tally], **more: Any
) -> dict[str, Any]:
    """One line of a table: the score with its 95 % interval, and what it has more than each baseline.

    Args:
        name: of the model.
        score: which score, for example ("classes", "water", "iou").
        found: the model, judged.
        blocks: (N, 2) block of ground of each window.
        baselines: name -> judged on the same windows.
        more: goes along.
    """
    own = intervals(found, blocks).to_json()[score]
    differences = {
        other: paired_difference(found, tallied, blocks).to_json()[score]
        for other, tallied in baselines.items()
        if other != name
    }
    return {"model": name, "score": own, "differences": differences, **more}


def shown(value: dict[str, float | None], *, signed: bool = False) -> str:
    """A score or difference and its interval, for a table."""
    sign = "+" if signed else ""
    middle = format(value["value"] or 0.0, f"{sign}.3f")
    if value["low"] is None or value["high"] is None:
        return middle
    return f"{middle} ({value['low']:{sign}.3f} to {value['high']:{sign}.3f})"
