"""The Galileo encoder: a packed encoder with a tokenizer of its own, and its published files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.galileo_config import GALILEO, SIZES, GalileoConfig, named
from olmoearth_core.models.galileo_tokenizer import FlexiblePatchEmbedding, GalileoTokenizer
from olmoearth_core.models.modalities import SENTINEL1, SENTINEL2
from olmoearth_core.models.origin import Origin
from olmoearth_core.models.packed import PackedEncoder
from olmoearth_core.models.state import fuse, plain_floats

IGNORED = {"max_sequence_length", "freeze_projections"}
"""Options that do not change what the encoder computes: its table of time slots is computed, for any length."""

GROUPS = {
    SENTINEL1.name: ("S1",),
    SENTINEL2.name: ("S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_SWIR", "NDVI"),
}
"""The published names of the band sets, by modality; their channel encodings are rows of one table in this order."""


class Galileo(PackedEncoder):
    """Nano, tiny and base, for time series of Sentinel-2 and Sentinel-1.

    Published are also inputs without time, without place, and without both (relief, weather, land cover, coordinates):
    they are not read here.
    """

    config: GalileoConfig
    tokenizer: GalileoTokenizer

    def __init__(self, config: GalileoConfig, origin: Origin) -> None:
        super().__init__(config, origin, GalileoTokenizer(config), drop_path=config.drop_path)

    def draw(self) -> None:
        """Draw random first weights."""
        super().draw()
        for module in self.modules():
            if isinstance(module, FlexiblePatchEmbedding):
                module.raise_contrast()

    @classmethod
    def parse(cls, description: Any, where: str) -> GalileoConfig:
        """Read a published config.json; it says nothing of bands, which are the same in all sizes."""
        try:
            given = description["model"]["encoder"]
            shape = tuple(int(given[key]) for key in ("embedding_size", "depth", "num_heads"))
            size = next((name for name, known in SIZES.items() if known == shape), None)
            if size is None:
                raise ValueError(f"embedding_size, depth, num_heads are {shape}; known are {SIZES}")
            if strange := [k for k in given if k not in IGNORED | READ and given[k] not in (None, False, 0, [], {})]:
                raise ValueError(f"{strange[0]} is {given[strange[0]]!r}, which no known version has")
            known = named(f"galileo-{size}")
            config = GalileoConfig(
                name=known.name,
                embedding_size=shape[0],
                depth=shape[1],
                heads=shape[2],
                band_sets=known.band_sets,
                mlp_ratio=float(given["mlp_ratio"]),
                base_patch=int(given["max_patch_size"]),
                drop_path=float(given.get("drop_path", 0.0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{where}: model.encoder is not usable ({error.__class__.__name__}: {error}); expected is the "
                "config.json of a Galileo encoder."
            ) from error
        GALILEO.check(config, where)
        return config

    @classmethod
    def convert(cls, state: Mapping[str, Tensor], config: GalileoConfig, where: str) -> dict[str, Tensor]:
        """Rename a published state dict: Sentinel-2 and Sentinel-1 only, q, k, v fused.

        Raises:
            CheckpointError: a name is none of the family's.
        """
        return fuse(dict(_rename(state, config, where)), where)


READ = {"embedding_size", "depth", "num_heads", "mlp_ratio", "max_patch_size", "drop_path"}

KEPT = re.compile(r"blocks\.\d+\..+|norm\..+")
PATCH = re.compile(r"space_time_embed\.(\w+)\.proj\.(weight|bias)")
DROPPED = re.compile(r"pos_embed|(sp|t|st)_channel_embed|(space|time|static)_embed\..+")
"""Encodings that are computed, and inputs that are not read here."""


def _rename(state: Mapping[str, Tensor], config: GalileoConfig, where: str) -> Iterator[tuple[str, Tensor]]:
    groups = [(group, m, i) for m, names in GROUPS.items() for i, group in enumerate(names)]
    read = {group: (m, i) for group, m, i in groups if i < len(config.band_sets.get(m, ()))}
    for key, found in state.items():
        short = key.replace(".backbone", "")  # the original loader drops it, too
        if DROPPED.fullmatch(short):
            continue
        value = plain_floats(found, f"{where}: {key}")
        if KEPT.fullmatch(short):
            yield short, value
        elif short == "month_embed.weight":
            yield "tokenizer.month_table", value
        elif short == "s_t_channel_embed":
            if len(value) != len(groups):
                raise CheckpointError(f"{where}: {key} has {len(value)} rows; Galileo has {len(groups)} band sets.")
            for m, sets in config.band_sets.items():
                first = next(row for row, (_, modality, _) in enumerate(groups) if modality == m)
                yield f"tokenizer.channel.{m}", value[first : first + len(sets)]
        elif (match := PATCH.fullmatch(short)) and any(match[1] == group for group, _, _ in groups):
            if match[1] in read:
                m, i = read[match[1]]
                yield f"tokenizer.embed.{m}.{i}.proj.{match[2]}", value.flatten(1) if value.ndim == 4 else value
        else:
            raise CheckpointError(f"{where}: '{key}' is no weight of a Galileo encoder.")
