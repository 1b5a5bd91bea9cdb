"""The known encoders of all families, as data: sizes, parameters, band sets, licence, hub. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.config import OLMOEARTH
from olmoearth_core.models.family import EncoderConfig, Entry, Family
from olmoearth_core.models.galileo_config import GALILEO

FAMILIES = (OLMOEARTH, GALILEO)

CATALOGUE: dict[str, Entry] = {entry.name: entry for family in FAMILIES for entry in family.entries}
"""The published encoders, which `load_encoder` fetches by name."""

KNOWN = tuple(name for family in FAMILIES for name in family.names)
"""All encoders that can be built."""


def family_of(name: str) -> Family:
    """The family of the encoder `name`.

    Raises:
        CheckpointError: no family has such an encoder.
    """
    for family in FAMILIES:
        if name in family.names:
            return family
    raise CheckpointError(f"'{name}' is no known encoder; known are {', '.join(CATALOGUE)}.")


def named(name: str) -> EncoderConfig:
    """The configuration of the encoder `name`.

    Raises:
        CheckpointError: no family has such an encoder.
    """
    return family_of(name).named(name)


def cached(entry: Entry) -> str | None:
    """The commit whose weights lie in the local hub cache, or None: `load_encoder(name)` would download them."""
    from huggingface_hub import try_to_load_from_cache

    file = entry.file(family_of(entry.name).weights_file)
    path = try_to_load_from_cache(entry.hub, file)
    return snapshot(Path(path), file) if isinstance(path, str) else None


def snapshot(path: Path, file: str) -> str:
    """The commit that `file` of a hub's repository is of, which lies at `path` in the cache: a folder per commit."""
    return path.parents[file.count("/")].name


def show(name: str) -> dict[str, Any]:
    """Everything the catalogue knows of `name`, as JSON values (`olmoearth encoders show`).

    Raises:
        CheckpointError: the catalogue has no such encoder.
    """
    if name not in CATALOGUE:
        raise CheckpointError(f"'{name}' is no known encoder; known are {', '.join(CATALOGUE)}.")
    entry, config, family = CATALOGUE[name], named(name), family_of(name)
    return {
        "name": name,
        "family": family.name,
        "news": entry.news,
        "embedding_size": config.embedding_size,
        "depth": config.depth,
        "heads": config.heads,
        "parameters": config.parameters,
        "published_parameters": entry.published_parameters,
        "band_sets": {m: [list(bands) for bands in sets] for m, sets in config.band_sets.items()},
        "patch_sizes": "1 to 8",
        "position": config.position,
        "location_tokens": config.location_tokens,
        "hub": "/".join(["https://huggingface.co", entry.hub, *(["tree/main", entry.folder] if entry.folder else [])]),
        "cached": cached(entry),
        "licence": family.licence,
        "restrictions": list(family.restrictions),
    }


def table() -> list[dict[str, Any]]:
    """One row per encoder (`olmoearth encoders list`)."""
    return [
        {
            "name": name,
            "parameters": named(name).parameters,
            "embedding_size": named(name).embedding_size,
            "depth": named(name).depth,
            "tokens_per_sentinel2_timestep": len(named(name).band_sets["sentinel2_l2a"]),
            "cached": cached(entry) is not None,
            "news": entry.news,
        }
        for name, entry in CATALOGUE.items()
    ]
