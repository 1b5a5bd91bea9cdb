"""From physical values to tokens: normalise, project patches, say what, when and where. What the families share.

A band set of a modality gives one token per patch and timestep. Everything after this file costs in proportion to their
number, attention to its square. How values are normalised and patches projected is the family's
(`olmoearth_tokenizer.py`, `galileo_tokenizer.py`); to each token are then added four quarters of encodings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.family import EncoderConfig
from olmoearth_core.models.modalities import MODALITIES, Band, Modality
from olmoearth_core.models.transfer import to_device

CONTRAST = 10.0
"""Gain of the first layer of a random encoder.

4 makes standard scores of globally normalised values (mean +- 2 std lie at 0 and 1); a region varies less than the
globe. Measured on the simulated region (six timesteps, learning rate 1e-3): with 1 the loss stays at chance for 300
steps, with 4 and 10 it falls at once, with 10 fastest.
"""


@torch.no_grad()
def raise_contrast(first: nn.Linear) -> None:
    """Make random first weights answer to what differs between pixels as loudly as to where and when they lie.

    Normalised values lie around 1/2 and differ by little within one region, the encodings by about 1: as drawn, the
    image is a fifteenth of what distinguishes two tokens, and training stands still for hundreds of steps.
    """
    first.weight.mul_(CONTRAST)
    first.bias.copy_(-0.5 * first.weight.sum(dim=1))


class Tokenizer(nn.Module, ABC):
    """The tokens of a batch, with their encodings, in fp32."""

    month_table: Tensor

    def __init__(
        self, config: EncoderConfig, embed: Mapping[str, nn.ModuleList], *, added_positions: bool = True
    ) -> None:
        """Take the modules that project the patches of each band set, by modality.

        Without `added_positions`, the place in the sequence and on the ground is left to the rotation of queries and
        keys.
        """
        super().__init__()
        self.embed = nn.ModuleDict(embed)
        self.quarter = config.embedding_size // 4
        self.channel = nn.ParameterDict(
            {m: nn.Parameter(torch.zeros(len(sets), self.quarter)) for m, sets in config.band_sets.items()}
        )
        self.added_positions = added_positions
        self.register_buffer("month_table", month_table(self.quarter))

    def layout(self, batch: Batch) -> Layout:
        """Which tokens there are: all band sets of a modality wherever it is present."""
        return Layout({m: batch.present(m, len(self.channel[m])) for m in batch.data}, batch.full)

    def forward(self, batch: Batch, layout: Layout) -> Tensor:
        """All tokens of the timesteps in `layout.frames`, by modality, frame, row, column, band set: (R, D)."""
        tokens = []
        for m in batch.data:
            frames = layout.frames[m]
            image = self.normalise(MODALITIES[m], batch, frames)  # (F, C, H, W)
            x = self.patches(m, image, batch)  # (F, h, w, G, D)
            tokens.append(self.encode(m, x, batch, frames).flatten(0, 3))
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens)

    def normalise(self, modality: Modality, batch: Batch, frames: NDArray[np.intp] | None) -> Tensor:
        """The normalised bands that the encoder reads, of the timesteps in `frames`: (F, C, H, W); 0 where invalid."""
        x = batch.data[modality.name].flatten(0, 1)
        valid = batch.valid[modality.name].reshape(len(x), 1, *batch.valid[modality.name].shape[2:])
        if frames is not None:
            x, valid = x[to_device(frames, x.device)], valid[frames]
        x = self.scale(modality, to_device(x, self.month_table.device), batch.bands[modality.name])
        if not batch.full and not valid.all():
            x = x.masked_fill(to_device(~valid, x.device), 0.0)
        return x

    @abstractmethod
    def scale(self, modality: Modality, x: Tensor, supplied: tuple[str, ...]) -> Tensor:
        """From physical values x (F, C, H, W) of the `supplied` bands to those that the encoder reads, normalised."""

    @abstractmethod
    def patches(self, name: str, image: Tensor, batch: Batch) -> Tensor:
        """Project `image` (F, C, H, W) of the modality `name` to tokens (F, h, w, G, D)."""

    def encode(self, name: str, x: Tensor, batch: Batch, frames: NDArray[np.intp] | None) -> Tensor:
        """Add the encodings to x (F, h, w, G, D), a quarter of D each: band set | time slot | month | place."""
        n = self.quarter
        (_, timesteps, _, _), (h, w) = batch.shape, batch.grid
        frame = np.arange(batch.dates.size) if frames is None else frames
        band_set, slot, month, place = x.float().split(n, dim=-1)  # each (F, h, w, G, n)
        band_set = band_set + self.channel[name]
        month = month + rows(self.month_table, month_of(batch.dates).ravel()[frame])
        if self.added_positions:
            slot = slot + rows(slot_table(timesteps, n, x.device), frame % timesteps)
            place = place + place_table(h, w, batch.resolution * batch.patch_size / 10.0, n, x.device)
        return torch.cat([band_set, slot, month, place], dim=-1)


def normal(x: Tensor, bands: tuple[Band, ...]) -> Tensor:
    """(x - (mean - 2 std)) / (4 std), not clipped, in float64 and then fp32, of x (F, C, H, W)."""
    low, span = value_range(bands, x.device)
    # in place: a copy each costs five times as much
    return x.to(torch.float64, copy=True).sub_(low).div_(span).float()


# Tables that depend on little and are asked for with every batch. They are made outside of inference mode, so that a
# table first needed while mapping can be used while training.


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def value_range(bands: tuple[Band, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower end and width of mean +- 2 std, by band, (C, 1, 1) float64."""
    low = [b.mean - 2 * b.std for b in bands]
    high = [b.mean + 2 * b.std for b in bands]
    span = [b - a for a, b in zip(low, high, strict=True)]
    a, b = (torch.tensor(v, dtype=torch.float64, device=device)[:, None, None] for v in (low, span))
    return a, b


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def slot_table(timesteps: int, size: int, device: torch.device) -> Tensor:
    """(T, size): the place in the sequence."""
    return sincos(torch.arange(timesteps, device=device), size)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def place_table(h: int, w: int, step: float, size: int, device: torch.device) -> Tensor:
    """(h, w, 1, size): the column in the first half, the row in the second, in units of `step` * 10 m."""
    col, row = (sincos(torch.arange(k, device=device) * step, size // 2) for k in (w, h))
    return torch.cat([col.expand(h, w, -1), row[:, None].expand(h, w, -1)], dim=-1)[:, :, None]


def rows(table: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Rows of a (K, n) table, one per frame: (F, 1, 1, 1, n)."""
    return table.index_select(0, to_device(index, table.device))[:, None, None, None]


def channels(order: tuple[str, ...], bands: tuple[str, ...]) -> slice | list[int]:
    """Where `bands` stand in `order`; a slice where they are neighbours, which costs no copy."""
    index = [order.index(b) for b in bands]
    first = index[0]
    return slice(first, first + len(index)) if index == list(range(first, first + len(index))) else index


def sincos(position: Tensor, size: int) -> Tensor:
    """Sine, then cosine, of `position` (L,) at size / 2 frequencies: (L, size).

    The family was trained with frequencies 10000^-(i / (2 size)), not the textbook's 10000^-(2i / size).
    """
    omega = 1.0 / 10000 ** (torch.arange(size // 2, device=position.device) / size / 2.0)
    angle = position[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def month_table(size: int) -> Tensor:
    """(12, size): sine of the month's place in the year in the first half, cosine in the second."""
    angle = (torch.arange(12, device="cpu") / (12 / (2 * math.pi)))[:, None].expand(12, size // 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def month_of(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Month from 0 (January), 0 where the date is NaT."""
    months = dates.astype("datetime64[M]").astype(np.int64)
    return np.where(np.isnat(dates), 0, months % 12)
