"""The OlmoEarth encoder, v1 to v1.3: what it adds to a packed encoder. Read this file and `packed.py` first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from olmoearth_core.models import official
from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.config import OlmoEarthConfig
from olmoearth_core.models.olmoearth_tokenizer import OlmoEarthTokenizer, PatchEmbedding
from olmoearth_core.models.origin import Origin
from olmoearth_core.models.packed import PackedEncoder
from olmoearth_core.models.pooler import LocationPooler

DROP_PATH = 0.1
"""Stochastic depth of every block, in training mode only."""


class OlmoEarth(PackedEncoder):
    """One class for the whole family; `config` says what differs."""

    config: OlmoEarthConfig
    tokenizer: OlmoEarthTokenizer

    def __init__(self, config: OlmoEarthConfig, origin: Origin) -> None:
        super().__init__(config, origin, OlmoEarthTokenizer(config), drop_path=DROP_PATH, rope=config.rope)
        self.pooler = LocationPooler(config) if config.location_tokens else None

    @classmethod
    def parse(cls, description: Any, where: str) -> OlmoEarthConfig:
        """Read a published config.json."""
        return official.parse_config(description, where)

    @classmethod
    def convert(cls, state: Mapping[str, Tensor], config: Any, where: str) -> dict[str, Tensor]:
        """Rename a published state dict."""
        return official.convert(state, config, where)

    def draw(self) -> None:
        """Draw random first weights."""
        super().draw()
        for module in self.modules():
            if isinstance(module, PatchEmbedding):
                module.raise_contrast()
        if self.pooler is not None:
            nn.init.trunc_normal_(self.pooler.query, std=0.02)

    def positions(self, batch: Batch, layout: Layout) -> Tensor | None:
        """(R, 3) coordinates of the tokens, from v1.2 on."""
        return self.tokenizer.positions(batch, layout) if self.config.rope else None

    def _locations(
        self, x: Tensor, where: Tensor | None, batch: Batch, layout: Layout
    ) -> Callable[[], tuple[Tensor, Tensor]] | None:
        pooler, inference = self.pooler, torch.is_inference_mode_enabled()
        if pooler is None:
            return None

        def read_locations() -> tuple[Tensor, Tensor]:
            with torch.inference_mode(inference):  # asked for later, perhaps outside of the block
                out: tuple[Tensor, Tensor] = pooler(x, where, batch, layout)
            return out

        return read_locations
