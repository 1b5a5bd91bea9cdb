"""Pre-norm transformer blocks over packed tokens: a batch of sequences of unequal length without any padding.

All tokens of a batch stand in one matrix x of shape (M, D), sample after sample, samples of equal length next to
each other. Everything that looks at one token alone (norms, projections, MLP) runs on the whole matrix; attention
runs once per group of equal length. So no token is masked, none is computed in vain (but for a few rows at the end,
`padding`), and no sample can see another: a sample's output is what it gives alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from olmoearth_core.models.transfer import to_device

HEIGHTS = 16
"""Matrices are padded to a multiple of so many rows (`padding`)."""
Groups = tuple[tuple[int, int], ...]
"""(samples, tokens per sample) of each run of equally long samples; M is the sum of their products."""


class Rotation:
    """Rotates adjacent pairs of features by an angle per token, head and pair (RoPE)."""

    def __init__(self, angles: Tensor) -> None:  # (M, heads or 1, head_dim / 2), fp32
        self.phase = torch.polar(torch.ones_like(angles), angles)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x (M, heads, head_dim)."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (M, heads, head_dim / 2)
        return torch.view_as_real(pairs * self.phase).flatten(-2).to(x.dtype)


def axial_rotation(positions: Tensor, head_dim: int, base: float = 10000.0) -> Rotation:
    """Fixed 2-D rotation for `positions` (M, 2): half of each head turns with the row, half with the column."""
    half = head_dim // 2
    frequency = 1.0 / base ** (torch.arange(0, half, 2, dtype=torch.float32, device=positions.device) / half)
    return Rotation((positions[:, :, None] * frequency).flatten(1)[:, None])  # (M, 1, head_dim / 2)


def attend(q: Tensor, k: Tensor, v: Tensor, q_groups: Groups, kv_groups: Groups, seen: Tensor | None = None) -> Tensor:
    """Softmax attention within each sample. q (Mq, heads, d), k and v (Mk, heads, d) -> (Mq, heads * d).

    `seen` (Mk,) bool says which k and v there are; all without it. Each sample has one at least.
    """
    dtype = v.dtype
    if dtype == torch.bfloat16 and q.device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
        q, k, v = q.float(), k.float(), v.float()  # without AMX, bf16 pays in the linear layers but not here
    if len(q_groups) == 1:
        return _attend(q, k, v, q_groups[0][0], seen).to(dtype)
    out, i, j = [], 0, 0
    for (samples, n), (_, m) in zip(q_groups, kv_groups, strict=True):
        a, b = i + samples * n, j + samples * m
        out.append(_attend(q[i:a], k[j:b], v[j:b], samples, None if seen is None else seen[j:b]))
        i, j = a, b
    return torch.cat(out).to(dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, samples: int, seen: Tensor | None) -> Tensor:
    """The same for `samples` of equal length."""
    mask = None if seen is None else seen.view(samples, 1, 1, -1)
    q, k, v = (x.unflatten(0, (samples, -1)).transpose(1, 2) for x in (q, k, v))  # (samples, heads, tokens, d)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2).flatten(0, 1)


class Attention(nn.Module):
    """Self-attention; with `mixed`, queries and keys are rotated by learned frequencies over (time, row, column)."""

    def __init__(self, dim: int, heads: int, *, mixed: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # Learned rotary frequencies (axis, heads, head_dim / 2), always fp32: angles reach hundreds of radians.
        self.frequencies = nn.Parameter(torch.zeros(3, heads, dim // heads // 2)) if mixed else None

    def forward(
        self, x: Tensor, groups: Groups, where: Tensor | Rotation | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """X (M, D) -> (M, D); `where` is positions (M, 3) for learned rotation, or a ready `Rotation`.

        Nobody looks at tokens where `seen` (M,) is False.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # 3 x (M, heads, d)
        if self.frequencies is not None:
            assert isinstance(where, Tensor)
            t, row, col = (where[:, axis, None, None] * self.frequencies[axis] for axis in range(3))
            where = Rotation(t + row + col)
        if isinstance(where, Rotation):
            q, k = where(q), where(k)
        rows = sum(samples * n for samples, n in groups)  # those of nobody (`padding`) look at nothing
        attended = attend(q[:rows], k[:rows], v[:rows], groups, groups, seen)
        out: Tensor = self.proj(F.pad(attended, (0, 0, 0, len(x) - rows)))
        return out


class CrossAttention(nn.Module):
    """Attention of queries x to tokens y."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, groups: Groups, y: Tensor, y_groups: Groups, turn: Rotation, y_turn: Rotation
    ) -> Tensor:
        """X (Mq, D), y (Mk, D) -> (Mq, D)."""
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(y).unflatten(-1, (2, self.heads, -1)).unbind(1)
        out: Tensor = self.proj(attend(turn(q), y_turn(k), v, groups, y_groups))
        return out


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(M, D) -> (M, D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). The residual x stays fp32 whatever the weights are."""

    def __init__(
        self, dim: int, attention: Attention | CrossAttention, mlp_ratio: float, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor, groups: Groups, *args: object, chance: Tensor | None = None) -> Tensor:
        """X (M, D) fp32 -> (M, D) fp32; `args` go to the attention.

        In training each of the two branches is left out of a whole sample with probability `drop_path` (stochastic
        depth): where `chance` (2, samples), uniform in 0..1 and in packed order, is below it. Without it none is.
        """
        dtype = self.mlp.fc1.weight.dtype
        attended, thought = chance if chance is not None else (None, None)
        x = x + self._drop(self.attn(self.norm1(x).to(dtype), groups, *args), groups, attended)
        return x + self._drop(self.mlp(self.norm2(x).to(dtype)), groups, thought)

    def _drop(self, x: Tensor, groups: Groups, chance: Tensor | None) -> Tensor:
        if chance is None or not (self.training and self.drop_path):
            return x
        lengths = to_device([n for samples, n in groups for _ in range(samples)], x.device)
        kept = (chance >= self.drop_path).to(x.dtype) / (1 - self.drop_path)
        return x * kept.repeat_interleave(lengths, output_size=len(x))[:, None]  # else the device is asked


def chances(seeds: Sequence[int], blocks: int, device: torch.device) -> Tensor:
    """What decides which branches a sample is without: (blocks, 2, samples) uniform in 0..1.

    Each sample has numbers of its own, so that they do not depend on who shares its batch or its process. The stream is
    another than that of the seed itself, by which the sample may have been changed before.
    """
    drawn = [np.random.default_rng((seed, 1)).random((blocks, 2), np.float32) for seed in seeds]
    return to_device(np.stack(drawn, axis=-1), device)


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Tensor,
    groups: Groups,
    *args: object,
    chance: Tensor | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """One block after the other.

    Args:
        blocks: of one transformer.
        x: (M, D) packed tokens, fp32.
        groups: who they belong to.
        args: go to the attentions.
        chance: (blocks, 2, samples) of `chances`, samples in packed order; None: no block is left out.
        checkpointing: keep only what enters a block and compute the rest again for the gradient.
    """
    for k, block in enumerate(blocks):
        mine = None if chance is None else chance[k]
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, groups, *args, chance=mine, use_reentrant=False)  # type: ignore[assignment]
        else:
            x = block(x, groups, *args, chance=mine)
    return x


def padding(x: Tensor, precision: str) -> int:
    """Rows to add to a matrix (M, D), so that few heights occur.

    In bf16 on a CPU, oneDNN prepares each product for the height of its matrix, and keeps what it prepared: much time
    and memory where clouds leave each window another number of tokens (docs/decisions/0019-few-heights.md).
    """
    return -len(x) % HEIGHTS if precision == "bf16" and x.device.type == "cpu" else 0


def mixed_frequencies(head_dim: int, heads: int, base: float = 10000.0) -> Tensor:
    """Random start of the learned rotary frequencies, (3, heads, head_dim / 2).

    Magnitudes fall as 1 / base^(2k / head_dim) along two random orthogonal directions per head
    (RoPE-Mixed, Heo et al. 2024, in three dimensions).
    """
    magnitude = base ** -(torch.arange(0, head_dim, 4) / head_dim)  # (head_dim / 4,)
    basis, _ = torch.linalg.qr(torch.randn(heads, 3, 2))
    return torch.cat([basis[:, :, i : i + 1] * magnitude for i in (0, 1)], dim=-1).transpose(0, 1).contiguous()
