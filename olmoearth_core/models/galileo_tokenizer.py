"""How Galileo makes tokens: weights are resized to the patch, not patches to the weights; band sets may be absent."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmoearth_core.errors import EncoderInputError
from olmoearth_core.models.batch import Batch, Layout
from olmoearth_core.models.galileo_config import NDVI, STATISTICS, GalileoConfig
from olmoearth_core.models.modalities import Band, Modality
from olmoearth_core.models.tokenizer import Tokenizer, normal, raise_contrast


class FlexiblePatchEmbedding(nn.Module):
    """Tokens of one band set: patches of p x p pixels -> D, with weights stored for 8 x 8 (FlexiViT).

    The weights are multiplied by the pseudo-inverse of the resizing from 8 x 8 to p x p, so that a patch that was
    reduced gives what it gave before, as far as reducing it lost nothing (Beyer et al. 2023,
    https://arxiv.org/abs/2212.08013). That product is made for every batch: it costs about a hundredth of one
    64 px window, and what is made anew cannot be out of date; gradients flow through it.
    """

    def __init__(self, bands: int, config: GalileoConfig) -> None:
        super().__init__()
        self.bands, self.patch = bands, config.base_patch
        self.proj = nn.Linear(bands * self.patch**2, config.embedding_size)

    def raise_contrast(self) -> None:
        """Of random first weights (`tokenizer.raise_contrast`)."""
        raise_contrast(self.proj)

    def forward(self, x: Tensor, patch: int) -> Tensor:
        """X (F, C, h * patch, w * patch) normalised -> (F, h, w, D)."""
        x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (F, C, h, p, w, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (F, h, w, C p p)
        weight = self.weight(patch)
        out: Tensor = F.linear(x.to(weight.dtype), weight, self.proj.bias)
        return out

    def weight(self, patch: int) -> Tensor:
        """(D, C * patch * patch)."""
        stored: Tensor = self.proj.weight
        if patch == self.patch:
            return stored
        matrix = resize_weights(self.patch, patch, stored.device)
        kernels = stored.float().unflatten(1, (self.bands, -1))  # (D, C, 64)
        resized: Tensor = (kernels @ matrix).flatten(1).to(stored.dtype)
        return resized


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def resize_weights(stored: int, patch: int, device: torch.device) -> Tensor:
    """(stored^2, patch^2) fp32, for kernels on its left: pseudo-inverse of bicubic resizing with anti-aliasing."""
    basis = torch.eye(stored**2, dtype=torch.float64, device="cpu").view(-1, 1, stored, stored)
    resized = F.interpolate(basis, (patch, patch), mode="bicubic", antialias=True).flatten(1)  # (stored^2, patch^2)
    inverse: Tensor = torch.linalg.pinv(resized)
    return inverse.mT.float().to(device)


class GalileoTokenizer(Tokenizer):
    """Band sets of which no band is supplied have no token.

    A band that lacks beside others of its band set is taken to lie as far from its mean, in standard deviations, as
    the supplied band of the set that is nearest in wavelength: Galileo was trained without whole band sets, never with
    a part of one (docs/encoders.md).
    """

    def __init__(self, config: GalileoConfig) -> None:
        embed = {
            m: nn.ModuleList([FlexiblePatchEmbedding(len(bands), config) for bands in sets])
            for m, sets in config.band_sets.items()
        }
        super().__init__(config, embed)
        self.config = config

    def layout(self, batch: Batch) -> Layout:
        """Which tokens there are.

        Raises:
            EncoderInputError: of a modality, no band that the encoder reads is supplied.
        """
        read = {m: self.supplied(m, batch.bands[m]) for m in batch.data}
        for m, sets in read.items():
            if not any(sets):
                bands = ", ".join(band for names in self.config.band_sets[m] for band in names if band != NDVI)
                raise EncoderInputError(
                    f"{m}: only {', '.join(batch.bands[m])} supplied, which {self.config.name} does not use; it reads "
                    f"{bands}."
                )
        present = {m: batch.present(m, len(sets)) & np.array(sets) for m, sets in read.items()}
        return Layout(present, batch.full and all(map(all, read.values())))

    def supplied(self, name: str, bands: tuple[str, ...]) -> list[bool]:
        """Whether each band set of the modality `name` can be made from `bands`."""
        return [
            {"B08", "B04"} <= set(bands) if names == (NDVI,) else any(band in bands for band in names)
            for names in self.config.band_sets[name]
        ]

    def scale(self, modality: Modality, x: Tensor, supplied: tuple[str, ...]) -> Tensor:
        """The band sets one after the other, normalised; those that are absent are left out.

        NDVI is entered as it is, and 0 where both bands are.
        """
        sources, ndvi = self._sources(modality.name, supplied)
        image = normal(x[:, [supplied.index(band.name) for band in sources]], sources)
        if not ndvi:
            return image
        red, infrared = (x[:, supplied.index(band), None].to(torch.float64) for band in ("B04", "B08"))
        index = (infrared - red) / (infrared + red)
        index = torch.where(infrared + red == 0, 0.0, index)
        return torch.cat([image, index.float()], dim=1)

    def _sources(self, name: str, supplied: tuple[str, ...]) -> tuple[tuple[Band, ...], bool]:
        """The band that each channel is made from, and whether NDVI comes after them."""
        statistics, sources, ndvi = STATISTICS[name], [], False
        for names, here in zip(self.config.band_sets[name], self.supplied(name, supplied), strict=True):
            if names == (NDVI,):
                ndvi = here
            elif here:
                own = [statistics[band] for band in names if band in supplied]
                sources += [statistics[b] if b in supplied else _nearest(statistics[b], own) for b in names]
        return tuple(sources), ndvi

    def patches(self, name: str, image: Tensor, batch: Batch) -> Tensor:
        """Project `image` (F, C, H, W) to tokens (F, h, w, G, D); 0 for band sets that are absent."""
        tokens: list[Tensor | None] = []
        first = 0
        for embed, here in zip(
            cast(nn.ModuleList, self.embed[name]), self.supplied(name, batch.bands[name]), strict=True
        ):
            bands = cast(FlexiblePatchEmbedding, embed).bands
            tokens.append(embed(image[:, first : first + bands], batch.patch_size) if here else None)
            first += bands if here else 0
        some = next(x for x in tokens if x is not None)
        return torch.stack([torch.zeros_like(some) if x is None else x for x in tokens], dim=-2)


def _nearest(band: Band, supplied: list[Band]) -> Band:
    """The supplied band nearest in wavelength; ties and radar go to the first."""
    return min(supplied, key=lambda other: abs((other.wavelength or 0) - (band.wavelength or 0)))
