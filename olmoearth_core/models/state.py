"""What every foreign state dict needs on its way to ours: checks, and one matrix for queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from olmoearth_core.errors import CheckpointError


def plain_floats(value: Tensor, what: str) -> Tensor:
    """`value`, unless it is no dense tensor of floating point numbers.

    Raises:
        CheckpointError: names `what`.
    """
    if value.layout != torch.strided or not value.is_floating_point():
        raise CheckpointError(f"{what} holds {value.dtype} ({value.layout}); weights are dense floating point numbers.")
    return value


def fuse(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The same with `attn.q`, `attn.k`, `attn.v` of each block as `attn.qkv` (`attn.kv` beside the query of a reader).

    Raises:
        CheckpointError: one of the three is missing.
    """
    rest, fused = dict(state), {}
    for name in [n for n in rest if ".attn.v." in n]:
        parts = "kv" if name.startswith("pooler.read.") else "qkv"
        pieces = [rest.pop(name.replace(".attn.v.", f".attn.{x}."), None) for x in parts]
        if missing := [x for x, piece in zip(parts, pieces, strict=True) if piece is None]:
            raise CheckpointError(f"{where}: {name.replace('.attn.v.', f'.attn.{missing[0]}.')} is missing.")
        fused[name.replace(".attn.v.", f".attn.{parts}.")] = torch.cat([p for p in pieces if p is not None])
    return rest | fused
