"""The training loop: one code path for every task and device, resumed after a kill to the same bits.

Nothing random has a state: order and views of the windows come from (seed, epoch), stochastic depth from (seed, epoch,
step), the learning rate from the step. So a checkpoint holds weights, optimizer and history, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from olmoearth_core.errors import TrainingError
from olmoearth_core.progress import Progress
from olmoearth_core.project import TrainingConfig
from olmoearth_core.stage import Meter
from olmoearth_core.store import whole_file
from olmoearth_core.training.checkpoint import load_checkpoint, save_checkpoint
from olmoearth_core.training.data import Batch, Windows
from olmoearth_core.training.segmentation import Evaluation

WARM_UP = 0.1
"""Share of all steps in which the learning rate rises to its peak; after that it falls along a half cosine."""
CLIP = 1.0
"""Largest norm of a step's gradient; a longer one is shortened to it."""


class Task(Protocol):
    """What the loop asks of a task."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the loss over what is labelled in `batch`, and how much that is."""
        ...

    def evaluate(self, model: nn.Module, windows: Windows, batch_size: int) -> Evaluation:
        """Judge `model` by `windows`."""
        ...


@dataclass
class State:
    """Where a training run stands after `epoch` epochs."""

    epoch: int = 0
    best_epoch: int = 0
    """The epoch (from 1) whose weights are kept: best on validation, else the last."""
    best_score: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry an epoch."""


def fit(
    model: nn.Module,
    task: Task,
    train: Windows,
    validation: Windows,
    settings: TrainingConfig,
    *,
    run_key: str,
    scratch: Path,
    progress: Progress,
    meter: Meter,
) -> State:
    """Train `model` and leave the weights of the best epoch in it.

    Best is the highest headline score on `validation`; without one, the last epoch. Killed and called again with the
    same arguments it goes on after the last finished epoch, and on one device and number of threads ends with the
    weights of an uninterrupted run, bit by bit.

    Args:
        model: takes what `task` gives it; trained on the device it is on.
        task: loss and evaluation.
        train: at least one window.
        validation: may be empty.
        settings: of project.yaml.
        run_key: names everything the outcome depends on; checkpoints of another key are not used.
        scratch: where checkpoints are kept.
        progress: is told the steps.
        meter: is told the device seconds.

    Raises:
        TrainingError: the loss or its gradient is no longer a number; the batch is saved in `scratch`.
        StoreError: a checkpoint cannot be written.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state = _resume(scratch, run_key, model, optimizer, progress)
    steps = math.ceil(len(train) / settings.batch_size)
    # the global generator feeds stochastic depth: it is borrowed here and given back as it was
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress.bar("training", settings.epochs * steps) as advance,
    ):
        advance(state.epoch * steps)
        for epoch in range(state.epoch, settings.epochs):
            model.train()
            loss_sum, labelled = 0.0, 0
            batches = train.shuffled(settings.batch_size, (settings.seed, epoch), settings.augment)
            for step, batch in enumerate(batches):
                torch.manual_seed(_seed(settings.seed, epoch, step))
                rate = settings.learning_rate * _schedule(epoch * steps + step, settings.epochs * steps)
                with meter.on_device():
                    loss, count = _step(model, task, batch, optimizer, rate, scratch)
                loss_sum, labelled = loss_sum + loss, labelled + count
                advance(1)
            with meter.on_device():
                judged = task.evaluate(model, validation, settings.batch_size)
            _record(state, model, loss_sum / labelled, judged)
            save_checkpoint(scratch, state.epoch, _pack(state, run_key, model, optimizer))
    model.load_state_dict(state.best_weights)
    model.eval()
    return state


def _step(
    model: nn.Module, task: Task, batch: Batch, optimizer: torch.optim.Optimizer, rate: float, scratch: Path
) -> tuple[float, int]:
    """One step of the optimizer; (loss sum, labelled)."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    total, count = task.loss(model, batch)
    optimizer.zero_grad()
    (total / count).backward()  # no batch is without a label: such windows were left out
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    loss = total.item()
    if not (math.isfinite(loss) and math.isfinite(norm.item())):
        raise TrainingError(_save_batch(batch, scratch, loss))
    optimizer.step()
    return loss, count


def _record(state: State, model: nn.Module, training_loss: float, judged: Evaluation) -> None:
    """Write the finished epoch into the history, and keep its weights where they are the best so far."""
    state.epoch += 1
    state.history.append(
        {
            "epoch": state.epoch,
            "training_loss": training_loss,
            "validation_loss": judged.loss,
            "validation": {name: value for name, value in judged.scores.items() if name != "confusion"},
        }
    )
    score = judged.headline
    if score is None or state.best_score is None or score > state.best_score:
        state.best_epoch, state.best_score = state.epoch, score
        state.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases, norms and other vectors."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate in `step` (from 0) of `steps`: a linear rise, then a half cosine to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _seed(*numbers: int) -> int:
    """One seed (64 bits) made of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _pack(state: State, run_key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "run_key": run_key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {name: getattr(state, name) for name in State.__dataclass_fields__},
    }


def _resume(
    scratch: Path, run_key: str, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> State:
    """The state after the last good checkpoint, model and optimizer set to it; the beginning where there is none."""
    saved = load_checkpoint(scratch, progress.note)
    if saved is None or saved["run_key"] != run_key:
        return State()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    state = State(**saved["state"])
    progress.note(f"Going on after epoch {state.epoch}, from the checkpoint in {scratch.parent.name}.")
    return state


def _save_batch(batch: Batch, scratch: Path, loss: float) -> str:
    """Keep the batch that broke the training, and say so in one sentence."""
    path = scratch / "bad_batch.npz"
    arrays = {"dates": batch.dates, "target": batch.target, "rows": batch.rows}
    arrays |= {f"inputs_{m}": cube for m, cube in batch.inputs.items()}
    arrays |= {f"valid_{m}": mask for m, mask in batch.valid.items()}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return (
        f"The loss or its gradient is no longer a number (loss {loss}) on windows {batch.rows.tolist()} of the "
        f"training set; the batch is saved in {path}. Look at its values, or lower training.learning_rate."
    )
