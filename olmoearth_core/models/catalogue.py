"""The known encoders, as data: versions, sizes, parameters, band sets, licence, hub. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.config import NAMES, EncoderConfig, named
from olmoearth_core.models.origin import OLMOEARTH_LICENCE, OLMOEARTH_RESTRICTIONS

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


@dataclass(frozen=True)
class Entry:
    """One encoder that can be built, or loaded by its name."""

    name: str
    config: EncoderConfig
    hub: str
    """Repository on huggingface.co."""
    published_parameters: int
    news: str
    licence: str = OLMOEARTH_LICENCE
    restrictions: tuple[str, ...] = OLMOEARTH_RESTRICTIONS

    @property
    def parameters(self) -> int:
        """Learned numbers of the encoder as it is loaded here: the three sensors only."""
        return count_parameters(self.config)

    def cached(self) -> str | None:
        """The commit whose weights lie in the local hub cache, or None: `load_encoder(name)` would download them."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.hub, "weights.pth")
        return Path(path).parent.name if isinstance(path, str) else None


def count_parameters(config: EncoderConfig) -> int:
    """Learned numbers of an encoder, by arithmetic."""
    d, hidden = config.embedding_size, int(config.embedding_size * config.mlp_ratio)
    block = 4 * d * d + 4 * d + 2 * d * hidden + hidden + d + 4 * d  # attention, MLP, two norms
    rotation = 3 * d // 2 if config.rope else 0
    total = config.depth * (block + rotation) + 2 * d
    area = config.base_patch**2
    for sets in config.band_sets.values():
        for bands in sets:
            inner = config.pixel_hidden
            total += d // 4 + d + d * area * (inner or len(bands))
            total += inner * (len(bands) + 1) if inner else 0
    if config.location_tokens:
        total += d + 2 * block + 2 * 2 * d + (d + 1) * config.student_size + 2 * config.student_size
    return total


CATALOGUE: dict[str, Entry] = {
    name: Entry(
        name=name,
        config=named(name),
        hub=f"allenai/OlmoEarth-{name.rsplit('-', 1)[0].replace('.', '_')}-{name.rsplit('-', 1)[1].capitalize()}",
        published_parameters=PUBLISHED_PARAMETERS[name],
        news=NEWS[name.rsplit("-", 1)[0]],
    )
    for name in NAMES
}


def show(name: str) -> dict[str, Any]:
    """Everything the catalogue knows of `name`, as JSON values (`olmoearth encoders show`).

    Raises:
        CheckpointError: the catalogue has no such encoder.
    """
    if name not in CATALOGUE:
        raise CheckpointError(f"'{name}' is no known encoder; known are {', '.join(CATALOGUE)}.")
    entry = CATALOGUE[name]
    config = entry.config
    return {
        "name": name,
        "news": entry.news,
        "embedding_size": config.embedding_size,
        "depth": config.depth,
        "heads": config.heads,
        "parameters": entry.parameters,
        "published_parameters": entry.published_parameters,
        "band_sets": {m: [list(bands) for bands in sets] for m, sets in config.band_sets.items()},
        "patch_sizes": "1 to 8",
        "position": "rotary, learned, from days and metres" if config.rope else "added sines",
        "location_tokens": config.location_tokens,
        "hub": f"https://huggingface.co/{entry.hub}",
        "cached": entry.cached(),
        "licence": entry.licence,
        "restrictions": list(entry.restrictions),
    }


def table() -> list[dict[str, Any]]:
    """One row per encoder (`olmoearth encoders list`)."""
    return [
        {
            "name": entry.name,
            "parameters": entry.parameters,
            "embedding_size": entry.config.embedding_size,
            "depth": entry.config.depth,
            "tokens_per_sentinel2_timestep": len(entry.config.band_sets["sentinel2_l2a"]),
            "cached": entry.cached() is not None,
            "news": entry.news,
        }
        for entry in CATALOGUE.values()
    ]
