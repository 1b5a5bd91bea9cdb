"""The training loop: one code path for every task, recipe and device, resumed after a kill to the same bits.

Nothing random has a state: the order of the windows comes from (seed, epoch), what is changed in a window and which
branches of the encoder it is without from (seed, epoch, window), the learning rate from the step and the history. So a
checkpoint holds weights, optimizer and history, and nothing else; and a step is the same whether it is computed at
once, in parts that fit the memory, or by several processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from olmoearth_core.errors import TrainingError
from olmoearth_core.models.predictor import Predictor, Seen
from olmoearth_core.progress import Progress
from olmoearth_core.stage import Meter
from olmoearth_core.store import whole_file
from olmoearth_core.training.checkpoint import load_checkpoint, save_checkpoint
from olmoearth_core.training.data import Batch, Order
from olmoearth_core.training.losses import Loss
from olmoearth_core.training.memory import TOO_LARGE, free_memory, out_of_memory
from olmoearth_core.training.optimizer import Average, Learned, learning_rate, make_optimizer, set_phase
from olmoearth_core.training.parallel import Group
from olmoearth_core.training.recipe import Recipe

CLIP = 1.0
"""Largest norm of a step's gradient; a longer one is shortened to it."""


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
    stepper = Stepper(job, optimizer, group, progress)
    waited = Waiting()
    with progress.bar("training", recipe.epochs * steps) as advance:
        advance(state.epoch * steps)
        while state.epoch < min(until or recipe.epochs, recipe.epochs) and not state.stopped:
            epoch = state.epoch
            model.train(not recipe.embeds)
            set_phase(model, recipe, epoch)
            phase = recipe.frozen_epochs if epoch >= recipe.frozen_epochs else 0  # what came before counts no more
            scores = [entry["headline"] for entry in state.history[phase:]]
            order = Order(recipe.batch_size, recipe.seed, epoch, recipe.augment, group.rank, group.size)
            total = np.zeros(2)
            batches = job.train.shuffled(order, pinned if model.device.type == "cuda" else _as_it_is)
            for step, batch in enumerate(waited.over(batches)):
                rate = learning_rate(recipe, epoch * steps + step, steps, scores)
                with meter.on_device():
                    total += stepper(batch, rate, state)
                    if average is not None:
                        average.update()
                advance(1)
            with meter.on_device(), _weights_of(learned, average):
                judged = group.from_leader(job.judge(model) if group.leads else None)
                _record(state, learned, total[0] / total[1], judged, recipe)
            if group.leads:
                save_checkpoint(job.scratch, state.epoch, _pack(job, state, learned, optimizer, average))
    meter.waiting_seconds += waited.seconds
    if waited.seconds > 0.05 * waited.all:
        progress.note(f"The device waited for windows {waited.seconds / waited.all:.0%} of the training time.")
    learned.put(state.best_weights)
    model.eval()
    return state


class Stepper:
    """Takes one step of the optimizer for one batch, in parts where memory asks for it."""

    def __init__(self, job: Job, optimizer: torch.optim.Optimizer, group: Group, progress: Progress) -> None:
        self.job, self.optimizer, self.group, self.progress = job, optimizer, group, progress
        self.parameters = [p for entry in optimizer.param_groups for p in entry["params"]]

    def __call__(self, batch: Batch | None, rate: float, state: State) -> np.ndarray:
        """(sum of the loss, its weight) of this process's share of the step; loss sums as if each step weighed one."""
        weights = self._weights(batch)
        for entry in self.optimizer.param_groups:
            entry["lr"] = rate * entry["share"]
        loss = self._accumulate(batch, weights, state)
        self.group.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], CLIP)
        found = self.group.sum(torch.tensor([loss], dtype=torch.float64, device=self.job.model.device)).item()
        if not (math.isfinite(found) and math.isfinite(norm.item())):
            raise TrainingError(_save_batch(batch, self.job.scratch, found, self.group))
        self.optimizer.step()
        return np.array([found, 1.0])

    def _weights(self, batch: Batch | None) -> dict[str, np.ndarray]:
        """Task -> (terms,) weight of the labels of the whole step, in all processes."""
        weights = {}
        for name, loss in self.job.losses.items():
            mine = loss.weights(batch.truths[name]) if batch is not None else np.zeros(1 + (loss.kind == "dice"))
            whole = self.group.sum(torch.as_tensor(mine, device=self.job.model.device))
            weights[name] = np.maximum(whole.cpu().numpy(), 1e-12)
        return weights

    def _accumulate(self, batch: Batch | None, weights: Mapping[str, np.ndarray], state: State) -> float:
        """Gradients of the batch, part by part; parts are halved until they fit the memory."""
        while True:
            self.optimizer.zero_grad()
            try:
                size = 0 if batch is None else len(batch)
                parts = [batch.part(k, k + state.at_once) for k in range(0, size, state.at_once)] if batch else []
                return sum(self._backward(part, weights) for part in parts)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self._halve(state)

    def _halve(self, state: State) -> None:
        self.optimizer.zero_grad()
        free_memory()
        if state.at_once == 1:
            raise TrainingError(TOO_LARGE)
        state.at_once = math.ceil(state.at_once / 2)
        self.progress.note(
            f"Memory does not last for a whole batch: {state.at_once} windows are computed at once from here on; the "
            "steps stay the same (training.at_once)."
        )

    def _backward(self, part: Batch, weights: Mapping[str, np.ndarray]) -> float:
        model, recipe = self.job.model, self.job.recipe
        device = model.device.type
        low = torch.autocast(device, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        with low:
            answers = forward(model, part)
        total = torch.zeros((), device=model.device)
        for name, loss in self.job.losses.items():
            sums = loss.sums(answers[name].float(), part.truths[name])
            shares = torch.as_tensor(1 / weights[name], dtype=sums.dtype, device=sums.device)
            total = total + loss.task.weight * (sums * shares).sum()
        total.backward()
        return float(total.item())


def forward(model: Predictor, batch: Batch) -> dict[str, Tensor]:
    """What `model` answers to a batch, from imagery or from what a frozen encoder kept of it."""
    if batch.features is None:
        return model(batch.inputs, batch.dates, batch.valid, batch.seeds)  # type: ignore[no-any-return]
    device = model.device
    pixels = None if batch.pixels is None else torch.as_tensor(batch.pixels).to(device).float()
    return model.answer(Seen(torch.as_tensor(batch.features).to(device), pixels))


def pinned(batch: Batch) -> Batch:
    """The batch in memory that a GPU fetches from without waiting for the CPU."""

    def pin(array: Any) -> Any:
        return None if array is None else torch.as_tensor(np.ascontiguousarray(array)).pin_memory()

    from dataclasses import replace

    return replace(
        batch,
        inputs={m: pin(cube) for m, cube in batch.inputs.items()},
        features=pin(batch.features),
        pixels=pin(batch.pixels),
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


class Waiting:
    """Counts how long the device waits for batches."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.all = 1e-9

    def over(self, batches: Iterator[Batch | None]) -> Iterator[Batch | None]:
        """The same batches."""
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            ready = time.perf_counter()
            yield batch
            self.seconds += ready - start
            self.all += time.perf_counter() - start


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
    saved = load_checkpoint(job.scratch, progress.note)
    if saved is None or saved["run_key"] != job.run_key:
        return State()
    learned.put(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    if average is not None:
        average.unpack(saved["average"])
    state = State(**saved["state"])
    progress.note(f"Going on after epoch {state.epoch}, from the checkpoint in {job.scratch.parent.name}.")
    return state


def _save_batch(batch: Batch | None, scratch: Path, loss: float, group: Group) -> str:
    """Keep the batch that broke the training, and say so in one sentence."""
    path = scratch / ("bad_batch.npz" if group.leads else f"bad_batch-{group.rank}.npz")
    arrays: dict[str, Any] = {}
    rows: Sequence[int] = []
    if batch is not None:
        rows = batch.rows.tolist()
        arrays = {"dates": batch.dates, "rows": batch.rows}
        arrays |= {f"target_{name}": truth.strata for name, truth in batch.truths.items()}
        arrays |= {f"values_{n}": truth.values for n, truth in batch.truths.items() if truth.values is not None}
        arrays |= {f"inputs_{m}": np.asarray(cube) for m, cube in batch.inputs.items()}
        arrays |= {f"valid_{m}": mask for m, mask in batch.valid.items()}
        arrays |= {"features": np.asarray(batch.features)} if batch.features is not None else {}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return (
        f"The loss or its gradient is no longer a number (loss {loss}) on windows {list(rows)} of the "
        f"training set; the batch is saved in {path}. Look at its values, or lower training.learning_rate."
    )
