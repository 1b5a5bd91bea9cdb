"""What tells the OlmoEarth encoders apart: four versions, five sizes, one dataclass. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.family import BandSets, EncoderConfig, Entry, Family
from olmoearth_core.models.modalities import MODALITIES
from olmoearth_core.models.origin import OLMOEARTH_LICENCE, OLMOEARTH_RESTRICTIONS

if TYPE_CHECKING:
    from olmoearth_core.models.cost import Workload
    from olmoearth_core.models.encoder import Encoder


@dataclass(frozen=True)
class OlmoEarthConfig(EncoderConfig):
    """Everything that the weights of one OlmoEarth encoder presuppose."""

    pixel_hidden: int | None = None
    """Width of the per-pixel layer before patches are cut (v1.1 and later); None is v1's convolution."""
    rope: bool = False
    """Position by rotation of queries and keys (v1.2 and later) instead of by addition."""
    rope_time_scale: float = 1 / 30
    """Days to units of the rotary time axis."""
    rope_space_scale: float = 1.0
    student_size: int = 128
    """Width of v1.3's small readout of the location tokens."""

    @property
    def version(self) -> str:
        """For example "v1.1"."""
        return self.name.rsplit("-", 1)[0]

    @property
    def position(self) -> str:
        """How tokens are told where and when they lie, in words."""
        return "rotary, learned, from days and metres" if self.rope else "added sines"

    @property
    def reads_days(self) -> bool:
        """Where positions are rotary, time is one of them."""
        return self.rope

    @property
    def parameters(self) -> int:
        """Learned numbers of the encoder as it is loaded here: the three sensors only."""
        d = self.embedding_size
        rotation = 3 * d // 2 if self.rope else 0
        total = self.depth * (self.block_parameters + rotation) + 2 * d
        area = self.base_patch**2
        for sets in self.band_sets.values():
            for bands in sets:
                inner = self.pixel_hidden
                total += d // 4 + d + d * area * (inner or len(bands))
                total += inner * (len(bands) + 1) if inner else 0
        if self.location_tokens:
            total += d + 2 * self.block_parameters + 2 * 2 * d + (d + 1) * self.student_size + 2 * self.student_size
        return total

    def embedding_macs(self, work: Workload) -> int:
        """Of projecting the patches of one window, resized to the base patch."""
        pixels = work.patches * work.timesteps * self.base_patch**2
        d, inner = self.embedding_size, self.pixel_hidden
        return sum(
            pixels * (len(bands) * inner + inner * d if inner else len(bands) * d)
            for m in work.modalities
            for bands in self.band_sets[m]
        )

    def location_macs(self, work: Workload) -> int:
        """Of v1.3's location tokens: they read all tokens, attend to each other, and are read out."""
        if not self.location_tokens:
            return 0
        d, n, places = self.embedding_size, self.tokens(work), work.patches
        per_token = 4 * d * d + 2 * d * self.hidden
        read = places * per_token - 2 * places * d * d + 2 * n * d * d + 2 * places * n * d
        return read + places * per_token + 2 * places * places * d + places * d * self.student_size


SIZES = {
    "nano": (128, 4, 8),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Embedding size, depth, heads."""

VERSIONS = {
    "v1": ("nano", "tiny", "base", "large"),
    "v1.1": ("nano", "tiny", "base"),
    "v1.2": ("nano", "tiny", "small", "base"),
    "v1.3": ("base",),
}
"""The sizes that were published, by version."""

NAMES = tuple(f"{version}-{size}" for version, sizes in VERSIONS.items() for size in sizes)


def band_sets(version: str) -> dict[str, BandSets]:
    """Token groups of every modality: by resolution in v1, one for all bands from v1.1 on."""
    if version == "v1":
        return {m.name: m.band_sets for m in MODALITIES.values()}
    return {m.name: (m.band_names,) for m in MODALITIES.values()}


def named(name: str) -> OlmoEarthConfig:
    """The configuration of a published encoder, for example "v1.1-tiny".

    Raises:
        CheckpointError: no encoder of the family has that name.
    """
    if name not in NAMES:
        raise CheckpointError(f"'{name}' is no known encoder; known are {', '.join(NAMES)}.")
    version, size = name.rsplit("-", 1)
    width, depth, heads = SIZES[size]
    return OlmoEarthConfig(
        name=name,
        embedding_size=width,
        depth=depth,
        heads=heads,
        band_sets=band_sets(version),
        pixel_hidden=None if version == "v1" else 12 if size == "nano" else 64,
        rope=version in ("v1.2", "v1.3"),
        location_tokens=version == "v1.3",
    )


NEWS = {
    "v1": "one token per native resolution: three for a Sentinel-2 timestep, two for Landsat",
    "v1.1": "one token for all bands of a timestep: a third of the tokens, a fifth of the compute",
    "v1.2": "v1.1 with learned rotary positions in time and space, from calendar days",
    "v1.3": "v1.2 with an attention pooler: one location token per patch",
}

PUBLISHED_PARAMETERS = {
    "v1-nano": 1_361_024, "v1-tiny": 6_202_560, "v1-base": 88_953_600, "v1-large": 307_770_368,
    "v1.1-nano": 1_697_328, "v1.1-tiny": 12_461_296, "v1.1-base": 113_973_952,
    "v1.2-nano": 1_698_096, "v1.2-tiny": 12_464_752, "v1.2-small": 35_615_200, "v1.2-base": 113_987_776,
    "v1.3-base": 128_266_048,
}  # fmt: skip
"""Of the encoder as published, which carries weights for six map modalities that it never saw."""


def _encoder() -> type[Encoder]:
    from olmoearth_core.models.olmoearth import OlmoEarth

    return OlmoEarth


def _entry(name: str) -> Entry:
    version, size = name.rsplit("-", 1)
    return Entry(
        name=name,
        hub=f"allenai/OlmoEarth-{version.replace('.', '_')}-{size.capitalize()}",
        published_parameters=PUBLISHED_PARAMETERS[name],
        news=NEWS[version],
    )


OLMOEARTH = Family(
    name="OlmoEarth",
    entries=tuple(_entry(name) for name in NAMES),
    names=NAMES,
    config=OlmoEarthConfig,
    named=named,
    weights_file="weights.pth",
    licence=OLMOEARTH_LICENCE,
    restrictions=OLMOEARTH_RESTRICTIONS,
    encoder=_encoder,
)
