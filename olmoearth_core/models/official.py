"""The published format of the OlmoEarth weights: `config.json` and the names in `weights.pth`.

`parse_config` turns the one into an `OlmoEarthConfig`, `convert` the other into names of `olmoearth.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.config import OLMOEARTH, SIZES, OlmoEarthConfig
from olmoearth_core.models.family import BandSets
from olmoearth_core.models.modalities import MODALITIES
from olmoearth_core.models.state import fuse, plain_floats

IGNORED = {
    "_CLASS_", "supported_modality_names", "min_patch_size", "drop_path", "max_sequence_length",
    "learnable_channel_embeddings", "random_channel_embeddings", "num_projection_layers", "aggregate_then_project",
    "use_flash_attn", "frozen_patch_embeddings", "log_token_norm_stats", "band_dropout_rate", "random_band_dropout",
    "band_dropout_modalities", "rope_mixed_base", "temporal_rope_dim_frac", "rope_temporal_base",
}  # fmt: skip
"""Options that matter to pretraining, or to parts of it that the encoder does not have."""

READ = {
    "embedding_size", "depth", "num_heads", "mlp_ratio", "max_patch_size", "tokenization_config",
    "use_linear_patch_embed", "patch_embed_hidden_sizes", "position_encoding", "spatial_pos_encoding",
    "rope_coordinate_scale", "rope_temporal_coordinate_scale", "attention_pooler_config",
}  # fmt: skip

FIXED: dict[str, tuple[Any, ...]] = {"max_patch_size": (8,), "rope_base": (10000, None)}
"""Options that have had one value in every version."""


def parse_config(config: Any, where: str) -> OlmoEarthConfig:
    """Read a published `config.json`; `where` names the file in errors.

    Raises:
        CheckpointError: a key is missing, or the configuration is of no version that is known (v1 to v1.3).
    """
    try:
        parsed = _parse(config["model"]["encoder_config"], where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: model.encoder_config is not usable ({error.__class__.__name__}: {error}); expected is the "
            "config.json of an OlmoEarth encoder."
        ) from error
    OLMOEARTH.check(parsed, where)
    return parsed


def _parse(given: Mapping[str, Any], where: str) -> OlmoEarthConfig:
    width, depth, heads = (int(given[k]) for k in ("embedding_size", "depth", "num_heads"))
    modalities = [m for m in MODALITIES if m in given["supported_modality_names"]]

    def refuse(key: str, allowed: str) -> CheckpointError:
        return CheckpointError(
            f"{where}: encoder_config.{key} is {given.get(key)!r}, which belongs to no version known here (v1, v1.1, "
            f"v1.2, v1.3: {allowed}). A newer version of this software may know it."
        )

    for key, value in given.items():
        if key in FIXED and value not in FIXED[key]:
            raise refuse(key, f"always {FIXED[key][0]}")
        if key not in IGNORED | READ | FIXED.keys() and value not in (None, False, 0, [], {}):
            raise refuse(key, "without it")

    position = given.get("spatial_pos_encoding") or given.get("position_encoding") or "absolute"
    if position not in ("absolute", "rope_3d_mixed"):
        raise refuse(
            "spatial_pos_encoding" if given.get("spatial_pos_encoding") else "position_encoding",
            "absolute or rope_3d_mixed",
        )
    rope = position == "rope_3d_mixed"
    linear, hidden = bool(given.get("use_linear_patch_embed")), given.get("patch_embed_hidden_sizes") or []
    if len(hidden) != linear:
        raise refuse("patch_embed_hidden_sizes", "one size with use_linear_patch_embed, none without")
    pooler = given.get("attention_pooler_config")
    if pooler is not None and not _is_v1_3(pooler, width, heads):
        raise refuse("attention_pooler_config", "depth 1, as wide as the encoder, with a normed student")

    version = "v1.3" if pooler else "v1.2" if rope else "v1.1" if linear else "v1"
    size = next((name for name, shape in SIZES.items() if shape == (width, depth, heads)), f"{width}x{depth}x{heads}")
    return OlmoEarthConfig(
        name=f"{version}-{size}",
        embedding_size=width,
        depth=depth,
        heads=heads,
        mlp_ratio=float(given.get("mlp_ratio", 1.0)),
        band_sets={m: _band_sets(m, given, where) for m in modalities},
        pixel_hidden=int(hidden[0]) if linear else None,
        rope=rope,
        rope_time_scale=float(given.get("rope_temporal_coordinate_scale", 1.0)) if rope else 1 / 30,
        rope_space_scale=float(given.get("rope_coordinate_scale", 1.0)) if rope else 1.0,
        location_tokens=pooler is not None,
        student_size=max(pooler["student_dims"]) if pooler else 128,
    )


def _is_v1_3(pooler: Mapping[str, Any], width: int, heads: int) -> bool:
    return (
        pooler.get("pooler_dim") == pooler.get("attn_dim") == width
        and pooler.get("pooler_depth", 2) == 1
        and pooler.get("num_heads") in (None, heads)
        and bool(pooler.get("student_dims"))
        and pooler.get("student_output_norm") is True
    )


def _band_sets(modality: str, given: Mapping[str, Any], where: str) -> BandSets:
    overrides = (given.get("tokenization_config") or {}).get("overrides") or {}
    if modality not in overrides:
        return MODALITIES[modality].band_sets
    sets = tuple(tuple(bands) for bands in overrides[modality]["band_groups"])
    official = MODALITIES[modality].band_names
    if unknown := [b for bands in sets for b in bands if b not in official]:
        raise CheckpointError(
            f"{where}: band_groups of {modality} name '{unknown[0]}'; the bands are {', '.join(official)}."
        )
    return sets


PATCH = r"patch_embeddings\.per_modality_embeddings\.(\w+)\.\1__(\d+)\."
RENAMED = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(blocks\.\d+\.attn)\.rope_mixed_freqs", r"\1.frequencies"),
        (r"(blocks\.\d+\..+)", r"\1"),
        (r"(norm\..+)", r"\1"),
        (r"composite_encodings\.month_embed\.weight", r"tokenizer.month_table"),
        (r"composite_encodings\.per_modality_channel_embeddings\.(\w+)", r"tokenizer.channel.\1"),
        (PATCH + r"proj\.(.+)", r"tokenizer.embed.\1.\2.proj.\3"),
        (PATCH + r"pixel_proj\.0\.(.+)", r"tokenizer.embed.\1.\2.pixel.\3"),
        (r"attention_pooler\.learned_query", r"pooler.query"),
        (r"attention_pooler\.read_blocks\.0\.(.+)", r"pooler.read.\1"),
        (r"attention_pooler\.self_attn_blocks\.0\.(.+)", r"pooler.attend.\1"),
        (r"attention_pooler\.((?:input_norm|norm|student)\..+)", r"pooler.\1"),
    )
]  # fmt: skip

DROPPED = re.compile(r"composite_encodings\.pos_embed|project_and_aggregate\..+|patch_embeddings\.\w+_buffer")
"""A table that older checkpoints carry, the contrastive head, and indices: nothing the encoder reads."""


def convert(state: Mapping[str, Tensor], config: OlmoEarthConfig, where: str) -> dict[str, Tensor]:
    """Rename a published state dict to ours: the encoder only, its three modalities only, q, k, v fused.

    Raises:
        CheckpointError: a name below `encoder.` is none of the family's.
    """
    renamed = dict(_rename(state, config, where))
    return fuse(renamed, where)


def _rename(state: Mapping[str, Tensor], config: OlmoEarthConfig, where: str) -> Iterator[tuple[str, Tensor]]:
    prefix = next(
        (p for p in ("encoder.", "model.encoder.", "module.encoder.") if any(k.startswith(p) for k in state)), ""
    )
    for key in state:
        if not key.startswith(prefix) or DROPPED.fullmatch(key := key.removeprefix(prefix)):
            continue
        name = next((rule.sub(ours, key) for rule, ours in RENAMED if rule.fullmatch(key)), None)
        if name is None:
            raise CheckpointError(f"{where}: '{prefix}{key}' is no weight of an OlmoEarth {config.version} encoder.")
        if name.startswith(("tokenizer.embed.", "tokenizer.channel.")) and name.split(".")[2] not in config.band_sets:
            continue  # a map modality: it has weights, but the encoder never saw it
        value = plain_floats(state[prefix + key], f"{where}: {prefix}{key}")
        is_kernel = name.startswith("tokenizer.embed.") and value.ndim == 4  # v1: (D, C, 8, 8), applied with stride 8
        yield name, value.flatten(1) if is_kernel else value
