"""An encoder with a segmentation head, and the folder it is saved in: weights.safetensors, card.json, card.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import CARD, CARD_SCHEMA, CARD_TEXT, HeadSpec, ModelCard, render
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.heads import PatchUpsampler
from olmoearth_core.models.precision import apply_precision, resolve_device, resolve_precision
from olmoearth_core.store import write_bytes, write_json, write_text

WEIGHTS = "weights.safetensors"


class Segmenter(nn.Module):
    """Scores each pixel of a window for each class."""

    def __init__(
        self,
        encoder: Encoder,
        head: HeadSpec,
        *,
        classes: int,
        bands: Mapping[str, Sequence[str]],
        patch_size: int,
        resolution: float,
        seed: int = 0,
    ) -> None:
        """Put a new head, with random weights that depend on `seed` alone, on `encoder`.

        Args:
            encoder: any encoder; its weights are trained along.
            head: which head.
            classes: K.
            bands: modality -> bands, in the order of the inputs' channels.
            patch_size: pixels per patch edge.
            resolution: metres per pixel.
            seed: of the head's first weights.
        """
        super().__init__()
        self.encoder = encoder
        self.bands = {modality: tuple(names) for modality, names in bands.items()}
        self.patch_size = patch_size
        self.resolution = resolution
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = PatchUpsampler(encoder.embedding_size, classes, patch_size, head.hidden)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    def forward(self, inputs: Mapping[str, Any], dates: np.ndarray, valid: Mapping[str, np.ndarray]) -> Tensor:
        """Score every pixel, before softmax.

        Args:
            inputs: modality -> (B, T, C, H, W), physical values.
            dates: (B, T) datetime64[D].
            valid: modality -> (B, T, H, W) bool.

        Returns:
            (B, K, H, W) float32. A window with nothing to see gets finite scores that mean nothing.

        Raises:
            EncoderInputError: inputs that the encoder refuses.
        """
        p = self.patch_size
        if any(mask[:, :, ::p, ::p].any() for mask in valid.values()):
            features = self.encoder.encode(
                inputs, dates, valid, patch_size=p, resolution=self.resolution, bands=self.bands
            ).map()
        else:  # the encoder refuses a batch without a single token
            b, _, h, w = next(iter(valid.values())).shape
            features = torch.zeros(b, self.encoder.embedding_size, h // p, w // p, device=self.device)
        scores: Tensor = self.head(features)
        return scores


@dataclass(frozen=True)
class TrainedModel:
    """A segmenter and the card that says what it is."""

    card: ModelCard
    segmenter: Segmenter

    def predict(self, inputs: Mapping[str, Any], dates: np.ndarray, valid: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probability of each class at each pixel; the same batch gives the same bits.

        Args:
            inputs: modality -> (B, T, C, H, W), physical values, channels as in `card.bands`; H and W are multiples of
                `card.patch_size`.
            dates: (B, T) datetime64[D].
            valid: modality -> (B, T, H, W) bool.

        Returns:
            (B, K, H, W) float32, summing to 1 over K. A window without a valid pixel is uniform.

        Raises:
            EncoderInputError: inputs that the encoder refuses.
        """
        self.segmenter.eval()
        with torch.inference_mode():
            probabilities: np.ndarray = self.segmenter(inputs, dates, valid).softmax(dim=1).cpu().numpy()
        blind = ~np.any([mask.any(axis=(1, 2, 3)) for mask in valid.values()], axis=0)
        probabilities[blind] = 1 / len(self.card.classes)
        return probabilities


def build_segmenter(encoder: Encoder, card: ModelCard, *, seed: int = 0) -> Segmenter:
    """The segmenter that `card` describes, on `encoder`, with a new head."""
    return Segmenter(
        encoder,
        card.head,
        classes=len(card.classes),
        bands=card.bands,
        patch_size=card.patch_size,
        resolution=card.resolution,
        seed=seed,
    )


def save_model(folder: Path, segmenter: Segmenter, card: ModelCard) -> ModelCard:
    """Write weights (fp32), card.json and card.md; return the card with the weights' sha256.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in segmenter.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(weights))
    return save_card(folder, card.model_copy(update={"weights_sha256": sha256_file(folder / WEIGHTS)}))


def save_card(folder: Path, card: ModelCard) -> ModelCard:
    """Write card.json and card.md anew, for the weights that lie there; return the card."""
    write_json(folder / CARD, card.model_dump(mode="json"))
    write_text(folder / CARD_TEXT, render(card))
    return card


def load_model(folder: Path, *, device: str = "auto", precision: str = "auto") -> TrainedModel:
    """Load what `save_model` wrote, in evaluation mode.

    Args:
        folder: with weights.safetensors and card.json.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...
        precision: of the encoder: "fp32", "bf16" or "auto", as for `load_encoder`; the head stays fp32.

    Raises:
        CheckpointError: a file that is missing or damaged, a card of another schema, weights that do not fit the card.
    """
    place = resolve_device(device)
    chosen = resolve_precision(precision, place)
    card = read_card(folder)
    weights = _read_weights(folder / WEIGHTS, card)
    segmenter = build_segmenter(build_encoder(card.encoder), card)
    _fit(segmenter, weights, folder / WEIGHTS)
    apply_precision(segmenter.encoder, chosen)
    return TrainedModel(card, segmenter.to(place).eval())


def read_card(folder: Path) -> ModelCard:
    """Read card.json of a model folder.

    Raises:
        CheckpointError: no card, no JSON, a card of another schema, or one that lacks something.
    """
    path = folder / CARD
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a model folder holds {CARD} and {WEIGHTS}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}). Run `olmoearth finetune` again.") from error
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if schema != CARD_SCHEMA:
        raise CheckpointError(
            f"{path}: the card has schema_version {schema!r}; this version of the platform reads {CARD_SCHEMA}. "
            "Use the version that trained the model, or train it again."
        )
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors(include_url=False))
        raise CheckpointError(f"{path}: not a whole model card ({wrong}).") from error


def _read_weights(path: Path, card: ModelCard) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); it belongs to the card beside it."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.weights_sha256:
        raise CheckpointError(
            f"{path}: sha256 is {found[:12]}..., the card says {card.weights_sha256[:12]}...: the file is damaged or "
            "belongs to another model. Restore it, or run `olmoearth finetune` again."
        )
    try:
        weights: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}).") from error
    return weights


def _fit(segmenter: Segmenter, weights: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in segmenter.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointError(f"{path}: lacks '{name}', which the card's encoder and head need.")
        if name not in expected:
            raise CheckpointError(f"{path}: holds '{name}', which the card's encoder and head do not have.")
        if (shape := tuple(weights[name].shape)) != expected[name]:
            raise CheckpointError(f"{path}: '{name}' has shape {shape}; the card's model needs {expected[name]}.")
    segmenter.load_state_dict(dict(weights))
