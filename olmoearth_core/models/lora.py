"""LoRA (Hu et al. 2021): the encoder's matrices stay as they are, and a small product of two is learned beside each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

SCALE = 2.0
"""What is learned counts this much (alpha / rank)."""


class LowRank(nn.Module):
    """W -> W + SCALE * B A, with A (rank, in) and B (out, rank); B is zero at first, so that nothing changes."""

    def __init__(self, out: int, into: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, into))
        self.b = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in)."""
        return weight + SCALE * (self.b @ self.a)


def add_lora(blocks: nn.Module, rank: int, *, seed: int = 0) -> None:
    """Freeze `blocks` and learn a product of rank `rank` beside each of their linear layers."""
    blocks.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in list(blocks.modules()):
            if isinstance(module, nn.Linear):
                out, into = module.weight.shape
                register_parametrization(module, "weight", LowRank(out, into, min(rank, out, into)))


def merge_lora(blocks: nn.Module) -> None:
    """Add what was learned to the matrices, so that the encoder is again what it was built as."""
    for module in list(blocks.modules()):
        if isinstance(module, nn.Linear) and is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight", leave_parametrized=True)
