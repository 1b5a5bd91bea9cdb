"""A step of training: nothing is asked of the device while it works, and what broke is found with its batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_set import BANDS, Notes, shore_sample

from olmoearth_core.errors import TrainingError
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import HeadSpec, TaskCard
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.models.transfer import fetch, to_device
from olmoearth_core.project import AugmentConfig
from olmoearth_core.training.data import Batch, Order, Windows
from olmoearth_core.training.losses import make_loss
from olmoearth_core.training.parallel import Group
from olmoearth_core.training.recipe import Recipe
from olmoearth_core.training.step import Stepper, Waiting, pinned

TASKS = {"main": TaskCard(classes=["land", "water"], head=HeadSpec(kind="unet"))}
RECIPE = Recipe(
    name="full", why="", heads={"main": "unet"}, epochs=1, batch_size=4, at_once=4, learning_rate=1e-3,
    weight_decay=0.01, schedule="cosine", warm_up=0.1, layer_decay=0.65, frozen_epochs=0, lora_rank=8, loss="auto",
    class_weights="none", augment=AugmentConfig(), patience=None, ema=0.0, checkpointing=False, precision="fp32",
    seed=0,
)  # fmt: skip


@dataclass
class Job:
    model: Predictor
    scratch: Path
    recipe: Recipe = RECIPE

    @property
    def losses(self) -> dict[str, Any]:
        return {"main": make_loss(TASKS["main"], "auto", np.ones(2), balanced=True)}


def _job(folder: Path, device: str = "cpu") -> Job:
    model = Predictor(
        build_encoder("v1.1-nano"),
        list(TASKS.values()),
        bands={"sentinel2_l2a": BANDS},
        timesteps=2,
        patch_size=4,
        resolution=10.0,
    )
    folder.mkdir(exist_ok=True)
    return Job(model.train().to(device), folder)


def _stepper(job: Job) -> Stepper:
    """With plain descent: torch's AdamW counts its steps in tensors of the CPU, and reads them there."""
    groups = [{"params": list(job.model.parameters()), "share": 1.0}]
    return Stepper(job, torch.optim.SGD(groups, lr=1e-3), Group(), Notes(), at_once=2)


def _batches() -> list[Batch]:
    """Two steps of windows whose timesteps are hidden here and there, as augmented training has them."""
    windows = Windows(lambda rows: [shore_sample(row) for row in rows], TASKS, np.arange(8), {}, 0, 0)
    order = Order(4, 0, 0, AugmentConfig(timestep_drop=0.4))
    return [batch for batch in windows.shuffled(order) if batch is not None]


class Asked(TorchDispatchMode):
    """Counts the operations for which a device must have done all before them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique2"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_asks_the_device_for_nothing(tmp_path: Path) -> None:
    stepper, batches = _stepper(_job(tmp_path)), _batches()
    with Asked() as asked:
        assert stepper(batches[0], 1e-3) == 0.0
        first = stepper(batches[1], 1e-3)
        second = stepper.last()
    assert asked.names == []
    assert 0 < first < 10
    assert 0 < second < 10
    with asked:
        torch.ones(1).item()
    assert asked.names == ["_local_scalar_dense"]  # it would have been seen


def test_a_step_that_broke_is_found_with_its_batch_before_anything_is_judged(tmp_path: Path) -> None:
    job = _job(tmp_path)
    stepper, batches = _stepper(job), _batches()
    stepper(batches[0], 1e-3)
    with torch.no_grad():
        next(job.model.heads.parameters()).fill_(torch.nan)
    stepper(batches[1], 1e-3)
    with pytest.raises(TrainingError, match="no longer a number"):
        stepper.last()
    with np.load(tmp_path / "bad_batch.npz") as saved:
        assert saved["rows"].tolist() == batches[1].rows.tolist()


def test_what_the_device_sends_later_is_what_it_had(tmp_path: Path) -> None:
    numbers = torch.arange(3.0)
    later = fetch(numbers)
    numbers += 1
    assert later().tolist() == [0, 1, 2]
    there = torch.ones(2)
    assert to_device(there, torch.device("cpu")) is there


def test_a_cpu_waits_while_the_loop_does() -> None:
    def slow() -> Iterator[None]:
        for _ in range(2):
            time.sleep(0.05)
            yield None

    waited = Waiting(torch.device("cpu"))
    for _ in waited.over(slow()):
        time.sleep(0.05)
    assert 0.09 < waited.seconds < waited.all < 1


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_never_waits_for_python(tmp_path: Path) -> None:
    """Torch itself refuses whatever would wait; then a device that is busy all the time waited for no windows."""
    stepper, batches = _stepper(_job(tmp_path, "cuda")), [pinned(batch) for batch in _batches()]
    stepper(batches[0], 1e-3)  # libraries and tables get ready
    waited = Waiting(torch.device("cuda"))
    with _no_waiting():
        for batch in waited.over(iter([batches[1], batches[0]])):
            stepper(batch, 1e-3)
    assert waited.seconds < 0.5 * waited.all
    assert 0 < stepper.last() < 10
