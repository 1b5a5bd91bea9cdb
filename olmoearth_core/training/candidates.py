"""Encoders to compare on one training set: which they are, and what their frozen view of its windows is kept under."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.card import BaseWeights
from olmoearth_core.models.catalogue import CATALOGUE, named
from olmoearth_core.models.cost import macs, workload_of
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.project import Project
from olmoearth_core.training.setup import base_encoder

RANDOM = "random"
"""Stands for weights in the place of a checkpoint."""


@dataclass(frozen=True)
class Candidate:
    """An encoder and the weights it begins with.

    Attributes:
        encoder: catalogue name.
        weights: as model.weights of project.yaml, a catalogue name too; None: random ones.
    """

    encoder: str
    weights: str | None

    def given_to(self, project: Project) -> Project:
        """The project with this encoder."""
        config = project.config
        model = config.model.model_copy(update={"encoder": self.encoder, "weights": self.weights})
        return Project(project.root, config.model_copy(update={"model": model}))

    def known(self, project: Project) -> Known:
        """What the weights are; refuses early what cannot be used.

        Raises:
            CheckpointError: weights that cannot be loaded, or are of another encoder.
            EncoderInputError: the encoder does not read the project's modalities.
        """
        self.macs(project)
        encoder, base = base_encoder(self.given_to(project))
        return Known(self, base, _digest(encoder))

    def macs(self, project: Project) -> int:
        """Multiply-accumulates of one window of the project.

        Raises:
            CheckpointError: no such encoder.
            EncoderInputError: the encoder does not read the project's modalities.
        """
        return macs(named(self.encoder), workload_of(project))

    @property
    def parameters(self) -> int:
        """Learned numbers of the encoder."""
        return named(self.encoder).parameters


def candidates(project: Project, encoders: Sequence[str] = (), weights: Sequence[str] = ()) -> list[Candidate]:
    """Pair encoders with weights, as options name them.

    Args:
        project: whose encoder is meant where none is named.
        encoders: catalogue names.
        weights: one for each encoder, or none at all: then the project's for its own encoder, and for others what the
            catalogue publishes under their names. "random" is no checkpoint.

    Raises:
        CheckpointError: as many weights as encoders are not there, or one comes twice.
    """
    own = project.config.model
    names = list(encoders) or [own.encoder]
    if weights and len(weights) != len(names):
        raise CheckpointError(
            f"{len(names)} encoders ({', '.join(names)}) and {len(weights)} weights are named: name as many weights, "
            "in the same order ('random' for none), or no weights at all, for those of the catalogue."
        )
    paired: Sequence[str | None] = weights or [
        own.weights if name == own.encoder else _published(name) for name in names
    ]
    found = [Candidate(name, None if weight == RANDOM else weight) for name, weight in zip(names, paired, strict=True)]
    if twice := [c for k, c in enumerate(found) if c in found[:k]]:
        raise CheckpointError(f"{twice[0].encoder} with weights {twice[0].weights or RANDOM} is named twice.")
    return found


@dataclass(frozen=True)
class Known:
    """A candidate whose weights are known.

    Attributes:
        candidate: which.
        base: where they come from; a fine-tuned encoder names what it was tuned from.
        digest: sha256 of the weights themselves.
    """

    candidate: Candidate
    base: BaseWeights
    digest: str

    def embedding_key(self, project: Project, dataset_digest: str) -> dict[str, Any]:
        """All that the frozen encoder's view of a training set depends on."""
        return {
            "embeddings": 1,
            "dataset": dataset_digest,
            "encoder": self.candidate.encoder,
            "weights": self.digest,
            "patch_size": project.config.model.patch_size,
        }


def _published(name: str) -> str:
    """Where the catalogue's weights are, written so that project.yaml can name them and a stage's key follows them."""
    entry = CATALOGUE.get(name)
    return name if entry is None or entry.folder else f"hf://{entry.hub}"


def _digest(encoder: Encoder) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()
