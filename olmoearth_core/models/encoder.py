"""The face that every encoder shows: `encode` takes physical values, masks and dates, and returns `Features`.

`Encoder.encode` is sealed: it checks and lays out the input, so that no encoder family can forget it. A family fills
`_encode` (`packed.py` for OlmoEarth and Galileo), and says how its published files are read and first weights drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from olmoearth_core.models.batch import Batch, check
from olmoearth_core.models.family import EncoderConfig
from olmoearth_core.models.origin import Origin


@dataclass(frozen=True)
class Features:
    """What an encoder makes of a batch: B samples, T timesteps, G band sets, H/p x W/p patches, D features."""

    tokens: dict[str, Tensor]
    """(B, T, H/p, W/p, G, D) fp32 by modality; zeros where a token is missing."""
    present: dict[str, Tensor]
    """(B, T, H/p, W/p, G) bool by modality."""
    full: bool = False
    """Nothing is missing, so that pooling need not count."""
    read_locations: Callable[[], tuple[Tensor, Tensor]] | None = None

    def map(self) -> Tensor:
        """Pool to (B, D, H/p, W/p): by modality the mean over present (T, G), then the mean over modalities.

        A modality with nothing present at a patch does not count there; a patch without any is zero.
        """
        if self.full:
            means = [tokens.mean(dim=(1, 4)) for tokens in self.tokens.values()]
            return (sum(means[1:], means[0]) / len(means)).permute(0, 3, 1, 2)
        total: Tensor | None = None
        seen: Tensor | None = None
        for m, tokens in self.tokens.items():
            count = self.present[m].sum(dim=(1, 4))[..., None]  # (B, h, w, 1)
            mean = tokens.sum(dim=(1, 4)) / count.clamp(min=1)
            here = (count > 0).to(mean.dtype)
            total, seen = (mean, here) if total is None or seen is None else (total + mean, seen + here)
        assert total is not None
        assert seen is not None
        return (total / seen.clamp(min=1)).permute(0, 3, 1, 2)

    @cached_property
    def _locations(self) -> tuple[Tensor, Tensor]:
        if self.read_locations is None:
            raise AttributeError("only v1.3 encoders have location tokens")
        return self.read_locations()

    @property
    def locations(self) -> Tensor:
        """v1.3's location tokens (B, D, H/p, W/p), computed when first asked for; zeros for a sample with nothing."""
        return self._locations[0]

    @property
    def student(self) -> Tensor:
        """v1.3's small readout of the location tokens, (B, 128, H/p, W/p)."""
        return self._locations[1]


class Encoder(nn.Module, ABC):
    """A pretrained encoder of satellite time series. Trainable: gradients flow through `encode`."""

    config: EncoderConfig
    name: str
    """Catalogue name, for example "v1.1-nano"."""
    embedding_size: int
    """D, the features of a token."""
    modalities: tuple[str, ...]
    """What it can read."""
    precision: str = "fp32"
    """"fp32" or "bf16", as resolved when it was loaded."""
    origin: Origin
    """Where its weights come from, with licence and restrictions."""
    checkpointing: bool = False
    """While training, compute activations again for the gradient instead of keeping them."""

    def __init__(self, config: Any, origin: Origin) -> None:
        super().__init__()
        self.config, self.origin = config, origin
        self.name, self.embedding_size = config.name, config.embedding_size
        self.modalities = tuple(config.band_sets)

    @classmethod
    @abstractmethod
    def parse(cls, description: Any, where: str) -> EncoderConfig:
        """Read the config.json that is published with the weights; `where` names the file in errors.

        Raises:
            CheckpointError: it is of no encoder of the family.
        """

    @classmethod
    @abstractmethod
    def convert(cls, state: Mapping[str, Tensor], config: Any, where: str) -> dict[str, Tensor]:
        """Rename published weights to those of this class; what the encoder does not read is left out.

        Raises:
            CheckpointError: a weight that is none of the family's; `_assemble` finds those that lack or do not fit.
        """

    @abstractmethod
    def draw(self) -> None:
        """Draw random first weights."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(
        self,
        inputs: Mapping[str, Any],
        dates: Any,
        valid: Mapping[str, Any] | None = None,
        *,
        patch_size: int,
        resolution: float = 10.0,
        bands: Mapping[str, Sequence[str]] | None = None,
        seeds: NDArray[np.int64] | None = None,
        whole_timesteps: bool = False,
    ) -> Features:
        """Encode a batch. Values are physical; normalisation happens inside.

        Missing timesteps and patches are not computed, and no sample sees another. A sample with nothing present
        among others costs nothing and comes back as zeros with `present` False; a batch with nothing at all is refused.

        Args:
            inputs: by modality, array or tensor (B, T, C, H, W): sentinel2_l2a in DN (reflectance x 10000, baseline
                offset removed), sentinel1 in dB, landsat in Collection 2 Level 1 DN; bands in official order.
            dates: (B, T) datetime64[D]; the middle of each composite. NaT is allowed where nothing is valid.
            valid: by modality, booleans (B, T) or (B, T, H, W); all True where not given. A patch counts as present
                where its top-left pixel is valid (as in pretraining). What invalid pixels hold does not matter.
            patch_size: pixels per patch edge, 1 to 8; divides H and W.
            resolution: metres per pixel.
            bands: by modality, the bands supplied, in the order of C; all in official order where not given. Absent
                ones are zero after normalisation (v1: the raw values of the nearest wavelength).
            seeds: (B,) for training with stochastic depth: what a sample is left without follows from its seed alone.
            whole_timesteps: compute missing patches of a timestep that has others as well, and let nobody look at them.
                The features are the same up to rounding, and samples with equally many timesteps take the same shape,
                whatever patches they miss: so they can share a batch of a fixed shape (without location tokens).

        Raises:
            EncoderInputError: anything above that does not hold, before compute is spent.
        """
        batch = check(
            inputs, dates, valid, bands, patch_size=patch_size, resolution=resolution, allowed=self.modalities
        )
        given = None if seeds is None else np.asarray(seeds, np.int64)
        return self._encode(replace(batch, seeds=given, whole_timesteps=whole_timesteps))

    forward = encode

    @abstractmethod
    def _encode(self, batch: Batch) -> Features:
        """Encode a checked batch."""
