"""Encoders that are a tokenizer, blocks and a norm, computed over packed tokens: only those that are present."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.encoder import Encoder, Features
from olmoearth_core.models.family import EncoderConfig
from olmoearth_core.models.origin import Origin
from olmoearth_core.models.tokenizer import Tokenizer
from olmoearth_core.models.transfer import to_device
from olmoearth_core.models.transformer import Attention, Block, Groups, chances, mixed_frequencies, padding, run_blocks


class PackedEncoder(Encoder):
    """What a family adds is its tokenizer, and what its tokens say of where and when they lie."""

    def __init__(
        self, config: EncoderConfig, origin: Origin, tokenizer: Tokenizer, *, drop_path: float, rope: bool = False
    ) -> None:
        super().__init__(config, origin)
        dim = config.embedding_size
        self.tokenizer = tokenizer
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, config.heads, mixed=rope), config.mlp_ratio, drop_path)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)

    def draw(self) -> None:
        """Draw random first weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, Attention) and module.frequencies is not None:
                module.frequencies.data.copy_(mixed_frequencies(module.frequencies.shape[-1] * 2, module.heads))

    def positions(self, batch: Batch, layout: Layout) -> Tensor | None:
        """(R, 3) coordinates of the tokens that the tokenizer gives, where attention rotates by them."""
        return None

    def _encode(self, batch: Batch) -> Features:
        tokens = self.tokenizer.layout(batch)
        layout = tokens.whole_timesteps if batch.whole_timesteps else tokens
        seen = None
        if layout is not tokens:
            seen = to_device(tokens.flat[layout.dense], self.device)
        x = self.tokenizer(batch, layout)  # (R, D): the timesteps that have any token
        where = self.positions(batch, layout)  # (R, 3)
        if not layout.plain:
            rows = to_device(layout.embedded, x.device)
            x, where = x[rows], where[rows] if where is not None else None
        chance = None
        if batch.seeds is not None:
            chance = chances(batch.seeds[layout.samples].tolist(), len(self.blocks), x.device)
        x = self.transform(x, layout.groups, where, chance, seen)  # (M, D): packed, only tokens that are present
        if seen is not None:
            return self._unpack(x.masked_fill(~seen[:, None], 0.0), layout, tokens, None)
        return self._unpack(x, layout, layout, self._locations(x, where, batch, layout))

    def transform(
        self,
        x: Tensor,
        groups: Groups,
        where: Tensor | None,
        chance: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """The transformer: packed tokens (M, D) fp32 with positions (M, 3) or None -> (M, D) fp32.

        Those that are not `seen` (M,) stand in the matrix and are looked at by nobody; what they become means nothing.
        """
        rows, more = len(x), 0 if self.training else padding(x, self.precision)
        if more:
            x, where = F.pad(x, (0, 0, 0, more)), None if where is None else F.pad(where, (0, 0, 0, more))
        x = run_blocks(self.blocks, x, groups, where, seen, chance=chance, checkpointing=self.checkpointing)
        out: Tensor = self.norm(x[:rows])
        return out

    def _locations(
        self, x: Tensor, where: Tensor | None, batch: Batch, layout: Layout
    ) -> Callable[[], tuple[Tensor, Tensor]] | None:
        """What computes location tokens from packed tokens, where the encoder has them."""
        return None

    def _unpack(
        self,
        x: Tensor,
        layout: Layout,
        tokens: Layout,
        read_locations: Callable[[], tuple[Tensor, Tensor]] | None,
    ) -> Features:
        """Features of x, packed by `layout`, of which those of `tokens` are present."""
        shapes = {m: p.shape for m, p in layout.present.items()}
        sizes = [p.size for p in layout.present.values()]
        if layout.plain:
            dense = x
        else:
            rows = to_device(layout.dense, x.device)
            dense = x.new_zeros(sum(sizes), x.shape[-1]).index_copy(0, rows, x)
        return Features(
            tokens={m: t.view(*shapes[m], -1) for m, t in zip(shapes, dense.split(sizes), strict=True)},
            present={m: to_device(p, x.device) for m, p in tokens.present.items()},
            full=tokens.full,
            read_locations=read_locations,
        )
