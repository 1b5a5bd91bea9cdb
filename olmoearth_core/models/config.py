"""What tells the encoders of the family apart: four versions, five sizes, one dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.modalities import MODALITIES

BandSets = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that the weights of one OlmoEarth encoder presuppose."""

    name: str
    """Catalogue name, for example "v1.1-tiny"."""
    embedding_size: int
    depth: int
    heads: int
    band_sets: dict[str, BandSets]
    """Bands that share a token, by modality; each band set gives one token per patch and timestep."""
    pixel_hidden: int | None = None
    """Width of the per-pixel layer before patches are cut (v1.1 and later); None is v1's convolution."""
    rope: bool = False
    """Position by rotation of queries and keys (v1.2 and later) instead of by addition."""
    rope_time_scale: float = 1 / 30
    """Days to units of the rotary time axis."""
    rope_space_scale: float = 1.0
    location_tokens: bool = False
    """An attention pooler reads the tokens into one location token per patch (v1.3)."""
    student_size: int = 128
    """Width of v1.3's small readout of the location tokens."""
    mlp_ratio: float = 4.0
    base_patch: int = 8
    """Patches of any size are resized to this one before they are projected."""

    @property
    def version(self) -> str:
        """For example "v1.1"."""
        return self.name.rsplit("-", 1)[0]


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


def check_known(config: EncoderConfig, where: str) -> None:
    """Refuse a configuration that is not one of the family's; it may lack modalities.

    Raises:
        CheckpointError: the first field that differs, what it is and what it should be.
    """
    if config.name not in NAMES:
        raise CheckpointError(
            f"{where}: describes an encoder '{config.name}' ({config.embedding_size} features, depth {config.depth}, "
            f"{config.heads} heads), which is none of the family: {', '.join(NAMES)}."
        )
    expected = named(config.name)
    for field in fields(EncoderConfig):
        found, wanted = getattr(config, field.name), getattr(expected, field.name)
        if field.name == "band_sets":
            same = bool(found) and all(wanted.get(modality) == sets for modality, sets in found.items())
        elif isinstance(wanted, float):
            same = math.isclose(found, wanted, rel_tol=1e-6)
        else:
            same = found == wanted
        if not same:
            raise CheckpointError(f"{where}: {field.name} is {found}, but in {config.name} it is {wanted}.")


def named(name: str) -> EncoderConfig:
    """The configuration of a published encoder, for example "v1.1-tiny".

    Raises:
        CheckpointError: no encoder of the family has that name.
    """
    if name not in NAMES:
        raise CheckpointError(f"'{name}' is no known encoder; known are {', '.join(NAMES)}.")
    version, size = name.rsplit("-", 1)
    width, depth, heads = SIZES[size]
    return EncoderConfig(
        name=name,
        embedding_size=width,
        depth=depth,
        heads=heads,
        band_sets=band_sets(version),
        pixel_hidden=None if version == "v1" else 12 if size == "nano" else 64,
        rope=version in ("v1.2", "v1.3"),
        location_tokens=version == "v1.3",
    )
