"""The OlmoEarth encoder, v1 to v1.3: tokenizer, blocks, norm, and v1.3's pooler. Read this file first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.config import EncoderConfig
from olmoearth_core.models.encoder import Encoder, Features
from olmoearth_core.models.origin import Origin
from olmoearth_core.models.pooler import LocationPooler
from olmoearth_core.models.tokenizer import Tokenizer
from olmoearth_core.models.transformer import Attention, Block, Groups, chances, run_blocks

DROP_PATH = 0.1
"""Stochastic depth of every block, in training mode only."""


class OlmoEarth(Encoder):
    """One class for the whole family; `config` says what differs."""

    def __init__(self, config: EncoderConfig, origin: Origin) -> None:
        super().__init__()
        dim = config.embedding_size
        self.config, self.origin = config, origin
        self.name, self.embedding_size, self.modalities = config.name, dim, tuple(config.band_sets)
        self.tokenizer = Tokenizer(config)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, config.heads, mixed=config.rope), config.mlp_ratio, DROP_PATH)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.pooler = LocationPooler(config) if config.location_tokens else None

    def _encode(self, batch: Batch) -> Features:
        layout = Layout({m: batch.present(m, len(self.config.band_sets[m])) for m in batch.data}, batch.full)
        x = self.tokenizer(batch, layout)  # (R, D): the timesteps that have any token
        where = self.tokenizer.positions(batch, layout) if self.config.rope else None  # (R, 3)
        if not layout.plain:
            rows = torch.as_tensor(layout.embedded, device=x.device)
            x, where = x[rows], where[rows] if where is not None else None
        chance = None
        if batch.seeds is not None:
            chance = chances(batch.seeds[layout.samples].tolist(), len(self.blocks), x.device)
        x = self.transform(x, layout.groups, where, chance)  # (M, D): packed, only tokens that are present
        return self._unpack(x, batch, layout, where)

    def transform(self, x: Tensor, groups: Groups, where: Tensor | None, chance: Tensor | None = None) -> Tensor:
        """The transformer: packed tokens (M, D) fp32 with positions (M, 3) or None -> (M, D) fp32."""
        x = run_blocks(self.blocks, x, groups, where, chance=chance, checkpointing=self.checkpointing)
        out: Tensor = self.norm(x)
        return out

    def _unpack(self, x: Tensor, batch: Batch, layout: Layout, where: Tensor | None) -> Features:
        shapes = {m: p.shape for m, p in layout.present.items()}
        sizes = [p.size for p in layout.present.values()]
        if layout.plain:
            dense = x
        else:
            rows = torch.as_tensor(layout.dense, device=x.device)
            dense = x.new_zeros(sum(sizes), x.shape[-1]).index_copy(0, rows, x)
        pooler, inference = self.pooler, torch.is_inference_mode_enabled()

        def read_locations() -> tuple[Tensor, Tensor]:
            with torch.inference_mode(inference):  # asked for later, perhaps outside of the block
                out: tuple[Tensor, Tensor] = pooler(x, where, batch, layout)  # type: ignore[misc]
            return out

        return Features(
            tokens={m: t.view(*shapes[m], -1) for m, t in zip(shapes, dense.split(sizes), strict=True)},
            present={m: torch.as_tensor(p, device=x.device) for m, p in layout.present.items()},
            full=layout.full,
            read_locations=read_locations if pooler is not None else None,
        )
