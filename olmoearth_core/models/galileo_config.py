"""What tells the Galileo encoders apart, what they read, and the statistics of what they were trained on. Data only.

Galileo (Tseng et al. 2025, https://arxiv.org/abs/2502.09356): code and weights by NASA Harvest, MIT.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.family import FREE, BandSets, EncoderConfig, Entry, Family
from olmoearth_core.models.modalities import SENTINEL1, SENTINEL2, Band

if TYPE_CHECKING:
    from olmoearth_core.models.cost import Workload
    from olmoearth_core.models.encoder import Encoder

NDVI = "NDVI"
"""The token of (B08 - B04) / (B08 + B04): computed, not supplied."""

BAND_SETS: dict[str, BandSets] = {
    SENTINEL2.name: (("B02", "B03", "B04"), ("B05", "B06", "B07"), ("B08",), ("B8A",), ("B11", "B12")),
    SENTINEL1.name: (("vv", "vh"),),
}
"""B01 and B09 have no part in it."""

STATISTICS: dict[str, dict[str, Band]] = {
    modality: {band.name: band for band in bands}
    for modality, bands in {
        SENTINEL2.name: (
            Band("B02", 1395.3408730676722, 917.7041440370853, 490),
            Band("B03", 1338.4026921784578, 913.2988423581528, 560),
            Band("B04", 1343.09883810357, 1092.678723527555, 665),
            Band("B05", 1543.8607982512297, 1047.2206083460424, 705),
            Band("B06", 2186.2022069512263, 1048.0101611156767, 740),
            Band("B07", 2525.0932853316694, 1143.6903026819996, 783),
            Band("B08", 2410.3377187373408, 1098.979177731649, 842),
            Band("B8A", 2750.2854646886753, 1204.472755085893, 865),
            Band("B11", 2234.911100061487, 1145.9774063078878, 1610),
            Band("B12", 1474.5311266077113, 980.2429840007796, 2190),
        ),
        SENTINEL1.name: (
            Band("vv", -11.728724389184965, 4.887145774840316),
            Band("vh", -18.85558188024017, 5.730270320384293),
        ),
    }.items()
}
"""By modality and band, of the pretraining data (`config/normalization.json` of nasaharvest/galileo, MIT)."""


@dataclass(frozen=True)
class GalileoConfig(EncoderConfig):
    """Everything that the weights of one Galileo encoder presuppose."""

    ndvi: bool = False
    """Sentinel-2 has a token of the vegetation index besides those of its bands."""
    drop_path: float = field(default=0.1, metadata=FREE)
    """Stochastic depth of every block, in training mode only."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is {self.drop_path}; it is a share, below 1")

    @property
    def position(self) -> str:
        """How tokens are told where and when they lie, in words."""
        return "added sines"

    @property
    def parameters(self) -> int:
        """Learned numbers of the encoder as it is loaded here: Sentinel-2 and Sentinel-1 only."""
        d = self.embedding_size
        bands = [len(names) for sets in self.band_sets.values() for names in sets]
        tokens = sum(d // 4 + d + d * self.base_patch**2 * count for count in bands)
        return self.depth * self.block_parameters + 2 * d + tokens

    def embedding_macs(self, work: Workload) -> int:
        """Of projecting the patches of one window: as many pixels as it has, whatever the patch size.

        Resizing the weights (C D 64 p^2) is done once a batch and not counted.
        """
        pixels = work.patches * work.timesteps * work.patch_size**2
        return sum(pixels * len(bands) * self.embedding_size for m in work.modalities for bands in self.band_sets[m])


SIZES = {"nano": (128, 4, 8), "tiny": (192, 12, 3), "base": (768, 12, 12)}
"""Embedding size, depth, heads."""

PUBLISHED = {f"galileo-{size}": size for size in SIZES}
NAMES = (*PUBLISHED, *(f"{name}-ndvi" for name in PUBLISHED))
"""With the NDVI token, an encoder has another name: a model trained with it is not read without."""


def named(name: str) -> GalileoConfig:
    """The configuration of an encoder, for example "galileo-nano" or "galileo-nano-ndvi".

    Raises:
        CheckpointError: no encoder of the family has that name.
    """
    if name not in NAMES:
        raise CheckpointError(f"'{name}' is no known encoder; known are {', '.join(NAMES)}.")
    width, depth, heads = SIZES[PUBLISHED[name.removesuffix("-ndvi")]]
    config = GalileoConfig(name.removesuffix("-ndvi"), width, depth, heads, BAND_SETS)
    return with_ndvi(config) if name.endswith("-ndvi") else config


def with_ndvi(config: GalileoConfig) -> GalileoConfig:
    """The same encoder with its NDVI token."""
    sets = config.band_sets | {SENTINEL2.name: (*config.band_sets[SENTINEL2.name], (NDVI,))}
    return replace(config, name=f"{config.name}-ndvi", band_sets=sets, ndvi=True)


def _encoder() -> type[Encoder]:
    from olmoearth_core.models.galileo import Galileo

    return Galileo


PUBLISHED_PARAMETERS = {"nano": 1_037_856, "tiny": 5_705_520, "base": 86_523_072}

GALILEO = Family(
    name="Galileo",
    entries=tuple(
        Entry(
            name=name,
            hub="nasaharvest/galileo",
            folder=f"models/{size}",
            published_parameters=PUBLISHED_PARAMETERS[size],
            news="NASA Harvest's: five tokens for a Sentinel-2 timestep, by native resolution and spectral range",
        )
        for name, size in PUBLISHED.items()
    ),
    names=NAMES,
    config=GalileoConfig,
    named=named,
    weights_file="encoder.pt",
    licence="MIT, copyright (c) 2024 Presto Authors",
    restrictions=(),
    encoder=_encoder,
    variant=lambda config, name: with_ndvi(config) if name == f"{config.name}-ndvi" else config,
)
