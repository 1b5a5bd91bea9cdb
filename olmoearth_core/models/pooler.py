"""v1.3's attention pooler: one query per patch reads all tokens of its sample into one location token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.config import OlmoEarthConfig
from olmoearth_core.models.transfer import to_device
from olmoearth_core.models.transformer import Attention, Block, CrossAttention, axial_rotation


class LocationPooler(nn.Module):
    """Read, attend among the locations, norm. One learned query stands at every patch; only its rotation differs."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        super().__init__()
        dim, heads = config.embedding_size, config.heads
        self.step = config.rope_space_scale / 10.0
        self.head_dim = dim // heads
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.input_norm = nn.LayerNorm(dim)
        self.read = Block(dim, CrossAttention(dim, heads), config.mlp_ratio)
        self.attend = Block(dim, Attention(dim, heads), config.mlp_ratio)
        self.norm = nn.LayerNorm(dim)
        self.student = nn.Sequential(nn.Linear(dim, config.student_size), nn.LayerNorm(config.student_size))

    def forward(self, x: Tensor, where: Tensor | None, batch: Batch, layout: Layout) -> tuple[Tensor, Tensor]:
        """Packed tokens x (M, D) at `where` (M, 3) -> location tokens (B, D, h, w) and their readout (B, 128, h, w)."""
        assert where is not None
        (h, w), samples = batch.grid, to_device(layout.samples, x.device)
        step = batch.resolution * batch.patch_size * self.step
        row, col = (torch.arange(k, dtype=torch.float32, device=x.device) * step for k in (h, w))
        grid = torch.cartesian_prod(row, col)  # (h * w, 2)
        groups = tuple((count, h * w) for count, _ in layout.groups)

        q = self.query.expand(len(samples) * h * w, -1)
        turn = axial_rotation(grid.repeat(len(samples), 1), self.head_dim)
        y = self.input_norm(x).to(self.read.mlp.fc1.weight.dtype)
        q = self.read(q, groups, y, layout.groups, turn, axial_rotation(where[:, 1:], self.head_dim))
        locations = self.norm(self.attend(q, groups, turn))  # (samples * h * w, D)
        # The readout was trained on a copy: its gradient never reaches the encoder.
        detached = locations.detach().to(self.student[0].weight.dtype)
        student = self.student[1](self.student[0](detached).float())
        b = batch.shape[0]
        loc, small = (
            t.new_zeros(b, h * w, t.shape[-1])
            .index_copy(0, samples, t.unflatten(0, (-1, h * w)))
            .mT.unflatten(2, (h, w))
            for t in (locations, student)
        )
        return loc, small
