"""From physical values to tokens: normalise, resize patches to 8 x 8, project, say what, when and where.

A band set of a modality gives one token per patch and timestep: three per Sentinel-2 timestep in v1 (by native
resolution), one from v1.1 on. Everything after this file costs in proportion to their number, attention to its square.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.config import EncoderConfig
from olmoearth_core.models.modalities import MODALITIES, Modality

DAYS_BEFORE_MONTH = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])

CONTRAST = 10.0
"""Gain of the first layer of a random encoder.

4 makes standard scores of globally normalised values (mean +- 2 std lie at 0 and 1); a region varies less than the
globe. Measured on the simulated region (six timesteps, learning rate 1e-3): with 1 the loss stays at chance for 300
steps, with 4 and 10 it falls at once, with 10 fastest.
"""


class PatchEmbedding(nn.Module):
    """Tokens of one band set: patches of 8 x 8 pixels -> D.

    v1 projects the raw patch (published as a convolution with stride 8, which is the same); from v1.1 on each pixel
    passes a small hidden layer first.
    """

    def __init__(self, channels: int, config: EncoderConfig) -> None:
        super().__init__()
        self.patch = config.base_patch
        hidden = config.pixel_hidden
        self.pixel = nn.Linear(channels, hidden) if hidden else None
        self.proj = nn.Linear((hidden or channels) * self.patch**2, config.embedding_size)

    @torch.no_grad()
    def raise_contrast(self) -> None:
        """Make random first weights answer to what differs between pixels as loudly as to where and when they lie.

        Normalised values lie around 1/2 and differ by little within one region, the encodings by about 1: as drawn,
        the image is a fifteenth of what distinguishes two tokens, and training stands still for hundreds of steps.
        """
        first = self.proj if self.pixel is None else self.pixel
        first.weight.mul_(CONTRAST)
        first.bias.copy_(-0.5 * first.weight.sum(dim=1))
        if self.pixel is not None:  # the mean of relu(x) is 0.4 for a standard normal x
            self.proj.bias.copy_(-0.4 * self.proj.weight.sum(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """X (F, C, 8h, 8w) normalised -> (F, h, w, D)."""
        if self.pixel is None:
            x = x.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # (F, C, h, 8, w, 8)
            x = x.permute(0, 2, 4, 1, 3, 5)  # (F, h, w, C, 8, 8)
        else:
            x = F.relu(self.pixel(x.permute(0, 2, 3, 1)))  # (F, 8h, 8w, hidden)
            x = x.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))  # (F, h, 8, w, 8, hidden)
            x = x.transpose(2, 3)  # (F, h, w, 8, 8, hidden)
        out: Tensor = self.proj(x.flatten(3).to(self.proj.weight.dtype))
        return out


class Tokenizer(nn.Module):
    """The tokens of a batch, with their encodings, in fp32."""

    month_table: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.ModuleDict(
            {
                m: nn.ModuleList([PatchEmbedding(len(bands), config) for bands in sets])
                for m, sets in config.band_sets.items()
            }
        )
        quarter = config.embedding_size // 4
        self.channel = nn.ParameterDict(
            {m: nn.Parameter(torch.zeros(len(sets), quarter)) for m, sets in config.band_sets.items()}
        )
        self.register_buffer("month_table", month_table(quarter))

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
        """(x - (mean - 2 std)) / (4 std), not clipped, in float64 and then fp32: (F, C, H, W) in official band order.

        Invalid pixels become 0. A band that was not supplied becomes 0 after normalisation; v1, which never saw that,
        gets the raw values of the nearest wavelength instead.
        """
        x = batch.data[modality.name].flatten(0, 1)
        valid = batch.valid[modality.name].reshape(len(x), 1, *batch.valid[modality.name].shape[2:])
        if frames is not None:
            x, valid = x[torch.as_tensor(frames, device=x.device)], valid[frames]
        x = x.to(self.month_table.device)

        supplied = batch.bands[modality.name]
        absent: tuple[int, ...] = ()
        if supplied != modality.band_names:
            v1 = self.config.version == "v1"
            source = {
                b: b if b in supplied else modality.nearest(b, supplied) if v1 else None for b in modality.band_names
            }
            absent = tuple(i for i, b in enumerate(modality.band_names) if source[b] is None)
            x = x[:, [supplied.index(source[b] or supplied[0]) for b in modality.band_names]]
        low, span = value_range(modality, x.device)
        x = (
            x.to(torch.float64, copy=True).sub_(low).div_(span).float()
        )  # in place: a copy each costs five times as much
        if absent:
            x[:, absent] = 0.0
        if not batch.full and not valid.all():
            x = x.masked_fill(~torch.as_tensor(valid, device=x.device), 0.0)
        return x

    def patches(self, name: str, image: Tensor, batch: Batch) -> Tensor:
        """Project `image` (F, C, H, W) to tokens (F, h, w, G, D); patches are first resized to 8 x 8 pixels."""
        h, w = batch.grid
        size = self.config.base_patch
        if batch.patch_size != size:
            image = F.interpolate(image, (h * size, w * size), mode="bicubic", antialias=True)
        order = MODALITIES[name].band_names
        sets = self.config.band_sets[name]
        embeds = list(cast(nn.ModuleList, self.embed[name]))
        if sets == (order,):
            return cast(Tensor, embeds[0](image))[..., None, :]
        return torch.stack(
            [e(image[:, _channels(order, bands)]) for e, bands in zip(embeds, sets, strict=True)], dim=-2
        )

    def encode(self, name: str, x: Tensor, batch: Batch, frames: NDArray[np.intp] | None) -> Tensor:
        """Add the encodings to x (F, h, w, G, D), a quarter of D each: band set | time slot | month | place.

        Time slot and place are left to the rotation of queries and keys where the encoder has it.
        """
        n = self.config.embedding_size // 4
        (_, timesteps, _, _), (h, w) = batch.shape, batch.grid
        frame = np.arange(batch.dates.size) if frames is None else frames
        band_set, slot, month, place = x.float().split(n, dim=-1)  # each (F, h, w, G, n)
        band_set = band_set + self.channel[name]
        month = month + _rows(self.month_table, _month(batch.dates).ravel()[frame])
        if not self.config.rope:
            slot = slot + _rows(slot_table(timesteps, n, x.device), frame % timesteps)
            place = place + place_table(h, w, batch.resolution * batch.patch_size / 10.0, n, x.device)
        return torch.cat([band_set, slot, month, place], dim=-1)

    def positions(self, batch: Batch, layout: Layout) -> Tensor:
        """(R, 3) fp32 coordinates of the tokens of `forward`: time (units of 30 days since 2000), row, column."""
        config, device = self.config, self.month_table.device
        (h, w), step = batch.grid, batch.resolution * batch.patch_size / 10.0 * self.config.rope_space_scale
        days = torch.as_tensor(_days(batch.dates)).flatten().float().to(device) * config.rope_time_scale
        row, col = (torch.arange(k, dtype=torch.float32, device=device) * step for k in (h, w))
        out = []
        for m in batch.data:
            frames = layout.frames[m]
            t = days if frames is None else days[torch.as_tensor(frames, device=device)]
            shape = (len(t), h, w, len(config.band_sets[m]))
            axes = (t[:, None, None, None], row[:, None, None], col[:, None])
            out.append(torch.stack([a.expand(shape) for a in axes], dim=-1).flatten(0, 3))
        return out[0] if len(out) == 1 else torch.cat(out)


# Tables that depend on little and are asked for with every batch. They are made outside of inference mode, so that a
# table first needed while mapping can be used while training.


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def value_range(modality: Modality, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower end and width of mean +- 2 std, by band, (C, 1, 1) float64."""
    low = [b.mean - 2 * b.std for b in modality.bands]
    high = [b.mean + 2 * b.std for b in modality.bands]
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


def _rows(table: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Rows of a (K, n) table, one per frame: (F, 1, 1, 1, n)."""
    return table.index_select(0, torch.as_tensor(index, device=table.device))[:, None, None, None]


def _channels(order: tuple[str, ...], bands: tuple[str, ...]) -> slice | list[int]:
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


def _month(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Month from 0 (January), 0 where the date is NaT."""
    months = dates.astype("datetime64[M]").astype(np.int64)
    return np.where(np.isnat(dates), 0, months % 12)


def _days(dates: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Days since 2000 as the family counts them: years of 365.25 days, months of a common year; 0 where NaT."""
    months = dates.astype("datetime64[M]")
    year = np.where(np.isnat(dates), 2000, dates.astype("datetime64[Y]").astype(np.int64) + 1970)
    day = np.where(np.isnat(dates), 0, (dates - months.astype("datetime64[D]")).astype(np.int64))
    return np.asarray((year - 2000) * 365.25 + DAYS_BEFORE_MONTH[_month(dates)] + day, dtype=np.float64)
