"""The training loop: one code path for every task, recipe and device, resumed after a kill to the same bits.

Nothing random has a state: the order of the windows comes from (seed, epoch), what is changed in a window and which
branches of the encoder it is without from (seed, epoch, window), the learning rate from the step and the history. So a
checkpoint holds weights, optimizer, history and what they cost, and nothing else; and a step is the same whether it is
computed at once, in parts that fit the memory, or by several processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from olmoearth_core.models.predictor import Predictor
from olmoearth_core.progress import Progress
from olmoearth_core.stage import Meter
from olmoearth_core.training.checkpoint import load_checkpoint, save_checkpoint
from olmoearth_core.training.data import Batch, Order
from olmoearth_core.training.losses import Loss
from olmoearth_core.training.metrics import SHORT
from olmoearth_core.training.optimizer import Average, Learned, learning_rate, make_optimizer, set_phase
from olmoearth_core.training.parallel import Group
from olmoearth_core.training.recipe import Recipe
from olmoearth_core.training.step import Stepper, Waiting, pinned

EPOCH = "Epoch"
"""First word of what is told of an epoch."""
TOLD = 10
"""About so many epochs of a training are told, evenly spaced, with the first and the last."""


class Source(Protocol):
    """Windows to train on: `Windows`, or `Embedded`."""

    def __len__(self) -> int: ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every window once, as it is."""
        ...

    def shuffled(self, order: Order, prepare: Callable[[Batch], Batch] = ...) -> Iterator[Batch | None]:
        """Every window once, changed; None for a step of which no window comes here."""
        ...


@dataclass(frozen=True)
class Judgement:
    """How a model does on validation after an epoch.

    Attributes:
        headline: the one number by which epochs are compared, higher is better; None without validation.
        scores: JSON values for the history.
    """

    headline: float | None
    scores: dict[str, Any]


@dataclass
class State:
    """Where a training run stands after `epoch` epochs; of weights, those that learn."""

    epoch: int = 0
    best_epoch: int = 0
    """The epoch (from 1) whose weights are kept: best on validation, else the last."""
    best_score: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    at_once: int = 0
    """Windows computed at once; fewer than the recipe says where memory did not last."""
    stopped: bool = False
    """Validation did not get better any more (training.patience)."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry an epoch."""
    device_seconds: float = 0.0
    """What the finished epochs cost, whoever trained them and however often they were killed."""
    waiting_seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """What a training run works with.

    Attributes:
        model: on the device it is trained on.
        losses: task -> its loss.
        train: at least one window.
        judge: judges a model, in evaluation mode, by validation.
        recipe: how.
        run_key: names everything the outcome depends on; checkpoints of another key are not used.
        scratch: where checkpoints are kept.
    """

    model: Predictor
    losses: Mapping[str, Loss]
    train: Source
    judge: Callable[[Predictor], Judgement]
    recipe: Recipe
    run_key: str
    scratch: Path


def fit(job: Job, progress: Progress, meter: Meter, group: Group | None = None, *, until: int | None = None) -> State:
    """Train the model and leave the weights of the best epoch in it.

    Best is the highest headline on validation; without one, the last epoch. Killed and called again with the same job
    it goes on after the last finished epoch, and on one device and number of threads ends with the weights of an
    uninterrupted run, bit by bit. With `until` it pauses after so many epochs, and goes on when it is called again.

    Raises:
        TrainingError: the loss or its gradient is no longer a number (the batch is saved in `scratch`), or a single
            window does not fit the memory.
        StoreError: a checkpoint cannot be written.
    """
    group = group or Group()
    model, recipe = job.model, job.recipe
    optimizer = make_optimizer(model, recipe)
    learned = Learned(model)
    average = Average(learned, recipe.ema) if recipe.ema else None
    state = _resume(job, learned, optimizer, average, progress)
    state.at_once = state.at_once or recipe.at_once
    steps = math.ceil(len(job.train) / recipe.batch_size)
    stepper = Stepper(job, optimizer, group, progress, state.at_once)
    waited = Waiting(model.device)
    spent, waited_before = meter.device_seconds, state.waiting_seconds
    meter.device_seconds += state.device_seconds
    with progress.bar("training", recipe.epochs * steps) as advance:
        advance(state.epoch * steps)
        while state.epoch < min(until or recipe.epochs, recipe.epochs) and not state.stopped:
            epoch = state.epoch
            model.train(not recipe.embeds)
            set_phase(model, recipe, epoch)
            phase = recipe.frozen_epochs if epoch >= recipe.frozen_epochs else 0  # what came before counts no more
            scores = [entry["headline"] for entry in state.history[phase:]]
            order = Order(recipe.batch_size, recipe.seed, epoch, recipe.augment, group.rank, group.size)
            total = 0.0
            batches = job.train.shuffled(order, pinned if model.device.type == "cuda" else _as_it_is)
            for step, batch in enumerate(waited.over(batches)):
                rate = learning_rate(recipe, epoch * steps + step, steps, scores)
                with meter.on_device():
                    total += stepper(batch, rate)
                    if average is not None:
                        average.update()
                advance(1)
            with meter.on_device():
                total += stepper.last()
            state.at_once = stepper.at_once
            with meter.on_device(), _weights_of(learned, average):
                judged = group.from_leader(job.judge(model) if group.leads else None)
                _record(state, learned, total / steps, judged, recipe)
            state.device_seconds = meter.device_seconds - spent
            state.waiting_seconds = waited_before + waited.seconds
            if group.leads:
                save_checkpoint(job.scratch, state.epoch, _pack(job, state, learned, optimizer, average))
            if group.leads and _worth_telling(state, recipe):
                progress.note(_told(state, recipe, next(iter(model.tasks.values())).kind))
    meter.waiting_seconds += state.waiting_seconds
    if group.leads and waited.seconds > 0.05 * waited.all:
        progress.note(f"The device waited for windows {waited.seconds / waited.all:.0%} of the training time.")
    learned.put(state.best_weights)
    model.eval()
    return state


def _as_it_is(batch: Batch) -> Batch:
    return batch


class _weights_of:
    """Within it the model has its averaged weights, where there are some."""

    def __init__(self, learned: Learned, average: Average | None) -> None:
        self.learned, self.average = learned, average
        self.kept: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.average is not None:
            self.kept = {name: tensor.clone() for name, tensor in self.learned.now().items()}
            self.learned.put(self.average.weights)

    def __exit__(self, *_error: object) -> None:
        if self.average is not None:
            self.learned.put(self.kept)


def _record(state: State, learned: Learned, training_loss: float, judged: Judgement, recipe: Recipe) -> None:
    """Write the finished epoch into the history, and keep its weights where they are the best so far."""
    state.epoch += 1
    state.history.append(
        {
            "epoch": state.epoch,
            "training_loss": float(training_loss),
            "headline": judged.headline,
            "validation": judged.scores,
        }
    )
    score = judged.headline
    if score is None or state.best_score is None or score > state.best_score:
        state.best_epoch, state.best_score = state.epoch, score
        state.best_weights = {name: tensor.cpu().clone() for name, tensor in learned.now().items()}
    elif recipe.patience is not None and state.epoch - max(state.best_epoch, recipe.frozen_epochs) >= recipe.patience:
        state.stopped = True


def _worth_telling(state: State, recipe: Recipe) -> bool:
    """Whether the finished epoch is one of those told: the first, the last, and `TOLD` or so between them."""
    return state.stopped or state.epoch in (1, recipe.epochs) or not state.epoch % math.ceil(recipe.epochs / TOLD)


def _told(state: State, recipe: Recipe, kind: str) -> str:
    """How the last epoch went, in a line; `kind` of the main task says which score it is."""
    last = state.history[-1]
    score = last["headline"]
    judged = ""
    if score is not None and state.best_score is not None:
        judged = f", validation {SHORT[kind]} {score:.4g} (best {state.best_score:.4g}, epoch {state.best_epoch})"
    return f"{EPOCH} {state.epoch} of {recipe.epochs}: training loss {last['training_loss']:.4g}{judged}."


def _pack(
    job: Job, state: State, learned: Learned, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Any]:
    return {
        "run_key": job.run_key,
        "model": learned.now(),
        "optimizer": optimizer.state_dict(),
        "average": average.pack() if average is not None else None,
        "state": {name: getattr(state, name) for name in State.__dataclass_fields__},
    }


def _resume(
    job: Job, learned: Learned, optimizer: torch.optim.Optimizer, average: Average | None, progress: Progress
) -> State:
    """The state after the last good checkpoint, model and optimizer set to it; the beginning where there is none."""
    saved = load_checkpoint(job.scratch, progress.note, job.run_key)
    if saved is None:
        return State()
    learned.put(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    if average is not None:
        average.unpack(saved["average"])
    state = State(**saved["state"])
    progress.note(f"Going on after epoch {state.epoch}, from the checkpoint in {job.scratch.parent.name}.")
    return state
