"""The joint between one family of encoders and everything that treats them alike: names, loading, cost, catalogue.

A family is data that needs no torch (an `EncoderConfig` of its own and a `Family`, as in `galileo_config.py`), an
`Encoder` that computes (as in `galileo.py`), and its entry in `catalogue.FAMILIES`. Nothing else knows it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from olmoearth_core.errors import CheckpointError, EncoderInputError

if TYPE_CHECKING:
    from olmoearth_core.models.cost import Workload
    from olmoearth_core.models.encoder import Encoder

BandSets = tuple[tuple[str, ...], ...]

FREE = {"free": True}
"""Metadata of a field in which files of one encoder may differ: training takes it from the file."""


@dataclass(frozen=True)
class EncoderConfig(ABC):
    """What the weights of an encoder presuppose: a transformer over tokens of patches, timesteps and band sets."""

    name: str
    """Catalogue name, for example "v1.1-tiny"."""
    embedding_size: int
    depth: int
    heads: int
    band_sets: dict[str, BandSets]
    """Bands that share a token, by modality; each band set gives one token per patch and timestep."""
    mlp_ratio: float = 4.0
    base_patch: int = 8
    """Edge of the patch that the weights are stored for."""
    location_tokens: bool = False
    """It can also give one token per patch that has read all others."""

    @property
    @abstractmethod
    def position(self) -> str:
        """How tokens are told where and when they lie, in words."""

    @property
    def reads_days(self) -> bool:
        """Whether the day of a timestep says more to it than its month."""
        return False

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Learned numbers, by arithmetic."""

    @abstractmethod
    def embedding_macs(self, work: Workload) -> int:
        """Multiply-accumulates of making tokens from one window."""

    def location_macs(self, work: Workload) -> int:
        """Multiply-accumulates of location tokens, where the encoder has them and is asked for them."""
        return 0

    def check_reads(self, modalities: Iterable[str]) -> None:
        """Refuse modalities that the encoder does not read.

        Raises:
            EncoderInputError: the first of them.
        """
        if unread := [m for m in modalities if m not in self.band_sets]:
            raise EncoderInputError(
                f"{self.name} does not read {unread[0]}; it reads {', '.join(self.band_sets)}. Choose another encoder, "
                "or other modalities."
            )

    def tokens(self, work: Workload) -> int:
        """Tokens of one window."""
        return work.patches * work.timesteps * sum(len(self.band_sets[m]) for m in work.modalities)

    def transformer_macs(self, tokens: int) -> int:
        """Multiply-accumulates of all blocks: projections and MLP per token, scores and their sum per pair."""
        d = self.embedding_size
        return self.depth * (tokens * (4 * d * d + 2 * d * self.hidden) + 2 * tokens * tokens * d)

    @property
    def hidden(self) -> int:
        """Width of the MLP."""
        return int(self.embedding_size * self.mlp_ratio)

    @property
    def block_parameters(self) -> int:
        """Learned numbers of one block: attention, MLP, two norms."""
        d = self.embedding_size
        return 4 * d * d + 4 * d + 2 * d * self.hidden + self.hidden + d + 4 * d


@dataclass(frozen=True)
class Entry:
    """An encoder of the catalogue: where its weights are published, and what is told of it."""

    name: str
    hub: str
    """Repository on huggingface.co."""
    published_parameters: int
    """Of the encoder as published, with weights that are not loaded here."""
    news: str
    folder: str = ""
    """Folder in the repository."""

    def file(self, name: str) -> str:
        """The path of the file `name` in the repository."""
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class Family:
    """Encoders of one architecture."""

    name: str
    entries: tuple[Entry, ...]
    names: tuple[str, ...]
    """All that can be built: those of `entries`, and others that are loaded from the same files (`variant`)."""
    config: type[EncoderConfig]
    named: Callable[[str], EncoderConfig]
    """The configuration of one of `names`."""
    weights_file: str
    """Beside config.json, as published."""
    licence: str
    """Of the published weights."""
    restrictions: tuple[str, ...]
    encoder: Callable[[], type[Encoder]]
    """Its class; calling this imports torch."""
    variant: Callable[[Any, str | None], EncoderConfig] = lambda config, name: config
    """The encoder that was asked for as the files of `config` give it: `config` itself where they hold one only."""

    def check(self, config: EncoderConfig, where: str) -> None:
        """Refuse a configuration that is not one of the family's; it may lack modalities.

        Raises:
            CheckpointError: the first field that differs, what it is and what it should be.
        """
        if config.name not in self.names:
            raise CheckpointError(
                f"{where}: describes an encoder '{config.name}' ({config.embedding_size} features, depth "
                f"{config.depth}, {config.heads} heads), which is none of the family: {', '.join(self.names)}."
            )
        expected = self.named(config.name)
        for field in fields(expected):
            found, wanted = getattr(config, field.name), getattr(expected, field.name)
            if field.name == "band_sets":
                same = bool(found) and all(wanted.get(modality) == sets for modality, sets in found.items())
            elif isinstance(wanted, float):
                same = math.isclose(found, wanted, rel_tol=1e-6)
            else:
                same = found == wanted
            if not same and not field.metadata.get("free"):
                raise CheckpointError(f"{where}: {field.name} is {found}, but in {config.name} it is {wanted}.")
