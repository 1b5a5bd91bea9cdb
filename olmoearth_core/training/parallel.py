"""Several processes that train one model: each computes its share of a step, gradients are summed, all step alike.

Sums, not means, travel between processes, so that the step is that of one process with the same windows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LEADER_MAY_TAKE = timedelta(days=1)
"""How long a process waits for the others. After each epoch all wait while the leader judges by validation, which may
take far longer than torch's usual 10 to 30 minutes. Nobody waits in vain for one that died: torchrun ends the rest."""


@dataclass(frozen=True)
class Group:
    """The processes of a training run, as one of them sees them."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """This one writes and tells."""
        return self.rank == 0

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients of all processes; a weight that none of them used keeps none."""
        if self.size == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        self.sum(used)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        self.sum(flat)
        parts = flat.split([p.numel() for p in parameters])
        for parameter, part, wanted in zip(parameters, parts, used.tolist(), strict=True):
            parameter.grad = part.view_as(parameter).clone() if wanted else None

    def from_leader(self, value: Any) -> Any:
        """What the leader has, for all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def torchrun_group() -> Iterator[Group]:
    """The group that torchrun made: NCCL on GPUs, one each; gloo on CPUs. Alone where torchrun did not start us."""
    if "RANK" not in os.environ:
        yield Group()
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=LEADER_MAY_TAKE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
