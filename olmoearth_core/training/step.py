"""One step of training, however the device and its memory are, and the time that a device waits for windows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from olmoearth_core.errors import TrainingError
from olmoearth_core.models.predictor import Predictor, Seen
from olmoearth_core.models.transfer import fetch, to_device
from olmoearth_core.progress import Progress
from olmoearth_core.store import whole_file
from olmoearth_core.training.data import Batch
from olmoearth_core.training.losses import Loss
from olmoearth_core.training.memory import TOO_LARGE, free_memory, out_of_memory
from olmoearth_core.training.parallel import Group
from olmoearth_core.training.recipe import Recipe

CLIP = 1.0
"""Largest norm of a step's gradient; a longer one is shortened to it."""


class Learner(Protocol):
    """What a step asks of a training run (`loop.Job`)."""

    @property
    def model(self) -> Predictor:
        """On the device it is trained on."""

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Task -> its loss."""

    @property
    def recipe(self) -> Recipe:
        """How."""

    @property
    def scratch(self) -> Path:
        """Where a batch that breaks the training is kept."""


class Stepper:
    """Takes one step of the optimizer for one batch, in parts where memory asks for it.

    Nothing of a step is asked back from the device before the next one lies ready for it, so that it never stands idle
    for an answer: what became of a step (was it a number?) is looked at one step later, and in any case before the
    epoch is judged and a checkpoint written.
    """

    def __init__(
        self, job: Learner, optimizer: torch.optim.Optimizer, group: Group, progress: Progress, at_once: int
    ) -> None:
        self.job, self.optimizer, self.group, self.progress = job, optimizer, group, progress
        self.parameters = [p for entry in optimizer.param_groups for p in entry["params"]]
        self.at_once = at_once
        """Windows computed at once; fewer than asked for where memory did not last."""
        self._taken: _Taken | None = None

    def __call__(self, batch: Batch | None, rate: float) -> float:
        """Take a step with this process's share of its windows; the loss of the step before, 0 of the first."""
        weights = self._weights(batch)
        for entry in self.optimizer.param_groups:
            entry["lr"] = rate * entry["share"]
        loss = self._accumulate(batch, weights)
        self.group.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], CLIP)
        loss = self.group.sum(loss)
        self.optimizer.step()
        before, self._taken = self._taken, _Taken(batch, fetch(torch.stack([loss, norm.to(loss)])))
        return self._looked_at(before)

    def last(self) -> float:
        """The loss of the step that was taken last, looked at now."""
        before, self._taken = self._taken, None
        return self._looked_at(before)

    def _looked_at(self, step: _Taken | None) -> float:
        if step is None:
            return 0.0
        loss, norm = step.loss_and_norm().tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(_save_batch(step.batch, self.job.scratch, loss, self.group))
        return float(loss)

    def _weights(self, batch: Batch | None) -> dict[str, Tensor]:
        """Task -> (terms,) float64, weight of the labels of the whole step, in all processes."""
        weights = {}
        for name, loss in self.job.losses.items():
            mine = loss.weights(batch.truths[name]) if batch is not None else np.zeros(1 + (loss.kind == "dice"))
            weights[name] = self.group.sum(to_device(mine, self.job.model.device)).clamp(min=1e-12)
        return weights

    def _accumulate(self, batch: Batch | None, weights: Mapping[str, Tensor]) -> Tensor:
        """Gradients of the batch, part by part, and its loss; parts are halved until they fit the memory."""
        while True:
            self.optimizer.zero_grad()
            try:
                loss = torch.zeros((), dtype=torch.float64, device=self.job.model.device)
                for first in range(0, 0 if batch is None else len(batch), self.at_once):
                    assert batch is not None
                    loss = loss + self._backward(batch.part(first, first + self.at_once), weights)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            else:
                return loss
            self._halve()

    def _halve(self) -> None:
        self.optimizer.zero_grad()
        free_memory()
        if self.at_once == 1:
            raise TrainingError(TOO_LARGE)
        self.at_once = math.ceil(self.at_once / 2)
        self.progress.note(
            f"Memory does not last for a whole batch: {self.at_once} windows are computed at once from here on; the "
            "steps stay the same (training.at_once)."
        )

    def _backward(self, part: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss of a part, on the device, once its gradients are added to the others."""
        model, recipe = self.job.model, self.job.recipe
        low = torch.autocast(model.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        with low:
            answers = forward(model, part)
        total = torch.zeros((), device=model.device)
        for name, loss in self.job.losses.items():
            sums = loss.sums(answers[name].float(), part.truths[name])
            total = total + loss.task.weight * (sums * (1 / weights[name]).to(sums.dtype)).sum()
        total.backward()
        return total.detach().double()


@dataclass(frozen=True)
class _Taken:
    """A step that was taken, of which nothing is known yet."""

    batch: Batch | None
    loss_and_norm: Callable[[], np.ndarray]


def forward(model: Predictor, batch: Batch) -> dict[str, Tensor]:
    """What `model` answers to a batch, from imagery or from what a frozen encoder kept of it."""
    if batch.features is None:
        return model(batch.inputs, batch.dates, batch.valid, batch.seeds)  # type: ignore[no-any-return]
    device = model.device
    pixels = None if batch.pixels is None else to_device(batch.pixels, device).float()
    return model.answer(Seen(to_device(batch.features, device), pixels))


def pinned(batch: Batch) -> Batch:
    """The batch in memory that a GPU fetches from by itself (`transfer`), by the thread that makes batches."""

    def pin(array: Any) -> Any:
        return None if array is None else torch.as_tensor(np.ascontiguousarray(array)).pin_memory()

    return replace(
        batch,
        inputs={m: pin(cube) for m, cube in batch.inputs.items()},
        features=pin(batch.features),
        pixels=pin(batch.pixels),
    )


class Waiting:
    """Counts how long the device waits for batches.

    A CPU waits while the loop does. A GPU may still be busy then, so it is asked itself: two marks, one behind the work
    of a step and one before that of the next, tell how long nothing lay between. Marks are read once an epoch is over.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self.all = 1e-9
        self.on_gpu = device.type == "cuda"

    def over(self, batches: Iterator[Batch | None]) -> Iterator[Batch | None]:
        """The same batches."""
        waits: list[tuple[float, Any, Any]] = []  # of the loop, and the marks before and behind
        while True:
            start, idle_from = time.perf_counter(), self._mark()
            try:
                batch = next(batches)
            except StopIteration:
                break
            ready = time.perf_counter()
            waits.append((ready - start, idle_from, self._mark()))
            yield batch
            self.all += time.perf_counter() - start
        self.seconds += sum(self._waited(*wait) for wait in waits)

    def _mark(self) -> Any:
        if not self.on_gpu:
            return None
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark

    def _waited(self, loop: float, idle_from: Any, busy_from: Any) -> float:
        if not self.on_gpu:
            return loop
        busy_from.synchronize()
        return min(loop, float(idle_from.elapsed_time(busy_from)) / 1000)


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
