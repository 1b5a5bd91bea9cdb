"""How OlmoEarth makes tokens: patches are resized to 8 x 8 pixels and projected, missing bands filled as in training.

Three tokens per Sentinel-2 timestep in v1 (by native resolution), one from v1.1 on.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.config import OlmoEarthConfig
from olmoearth_core.models.modalities import MODALITIES, Modality
from olmoearth_core.models.tokenizer import Tokenizer, channels, month_of, normal, raise_contrast
from olmoearth_core.models.transfer import to_device

DAYS_BEFORE_MONTH = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])


class PatchEmbedding(nn.Module):
    """Tokens of one band set: patches of 8 x 8 pixels -> D.

    v1 projects the raw patch (published as a convolution with stride 8, which is the same); from v1.1 on each pixel
    passes a small hidden layer first.
    """

    def __init__(self, channels: int, config: OlmoEarthConfig) -> None:
        super().__init__()
        self.patch = config.base_patch
        hidden = config.pixel_hidden
        self.pixel = nn.Linear(channels, hidden) if hidden else None
        self.proj = nn.Linear((hidden or channels) * self.patch**2, config.embedding_size)

    def raise_contrast(self) -> None:
        """Of random first weights (`tokenizer.raise_contrast`), in each of the two layers where there are two."""
        raise_contrast(self.proj if self.pixel is None else self.pixel)
        if self.pixel is not None:  # the mean of relu(x) is 0.4 for a standard normal x
            with torch.no_grad():
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


class OlmoEarthTokenizer(Tokenizer):
    """Of all versions; time slot and place are added, or left to the rotation where the encoder has it."""

    def __init__(self, config: OlmoEarthConfig) -> None:
        embed = {
            m: nn.ModuleList([PatchEmbedding(len(bands), config) for bands in sets])
            for m, sets in config.band_sets.items()
        }
        super().__init__(config, embed, added_positions=not config.rope)
        self.config = config

    def scale(self, modality: Modality, x: Tensor, supplied: tuple[str, ...]) -> Tensor:
        """All bands in official order, normalised.

        A band that was not supplied becomes 0 after normalisation; v1, which never saw that, gets the raw values of the
        nearest wavelength instead.
        """
        absent: tuple[int, ...] = ()
        if supplied != modality.band_names:
            v1 = self.config.version == "v1"
            source = {
                b: b if b in supplied else modality.nearest(b, supplied) if v1 else None for b in modality.band_names
            }
            absent = tuple(i for i, b in enumerate(modality.band_names) if source[b] is None)
            x = x[:, [supplied.index(source[b] or supplied[0]) for b in modality.band_names]]
        x = normal(x, modality.bands)
        if absent:
            x[:, absent] = 0.0
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
        return torch.stack([e(image[:, channels(order, bands)]) for e, bands in zip(embeds, sets, strict=True)], dim=-2)

    def positions(self, batch: Batch, layout: Layout) -> Tensor:
        """(R, 3) fp32 coordinates of the tokens of `forward`: time (units of 30 days since 2000), row, column."""
        config, device = self.config, self.month_table.device
        (h, w), step = batch.grid, batch.resolution * batch.patch_size / 10.0 * self.config.rope_space_scale
        days = to_device(torch.as_tensor(_days(batch.dates)).flatten().float(), device) * config.rope_time_scale
        row, col = (torch.arange(k, dtype=torch.float32, device=device) * step for k in (h, w))
        out = []
        for m in batch.data:
            frames = layout.frames[m]
            t = days if frames is None else days[to_device(frames, device)]
            shape = (len(t), h, w, len(config.band_sets[m]))
            axes = (t[:, None, None, None], row[:, None, None], col[:, None])
            out.append(torch.stack([a.expand(shape) for a in axes], dim=-1).flatten(0, 3))
        return out[0] if len(out) == 1 else torch.cat(out)


def _days(dates: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Days since 2000 as the family counts them: years of 365.25 days, months of a common year; 0 where NaT."""
    months = dates.astype("datetime64[M]")
    year = np.where(np.isnat(dates), 2000, dates.astype("datetime64[Y]").astype(np.int64) + 1970)
    day = np.where(np.isnat(dates), 0, (dates - months.astype("datetime64[D]")).astype(np.int64))
    return np.asarray((year - 2000) * 365.25 + DAYS_BEFORE_MONTH[month_of(dates)] + day, dtype=np.float64)
