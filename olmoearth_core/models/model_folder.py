"""The folder that a trained model is saved in: weights.safetensors, card.json, card.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import CARD, CARD_SCHEMA, CARD_TEXT, ModelCard, render
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.precision import apply_precision, resolve_device, resolve_precision
from olmoearth_core.models.predictor import Predictor, TrainedModel, build_predictor
from olmoearth_core.store import write_bytes, write_json, write_text

WEIGHTS = "weights.safetensors"


def save_model(folder: Path, predictor: Predictor, card: ModelCard) -> ModelCard:
    """Write weights (fp32), card.json and card.md; return the card with the weights' sha256.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in predictor.state_dict().items()}
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
        precision: of the encoder: "fp32", "bf16" or "auto", as for `load_encoder`; the heads stay fp32.

    Raises:
        CheckpointError: a file that is missing or damaged, a card of another schema, weights that do not fit the card.
    """
    place = resolve_device(device)
    chosen = resolve_precision(precision, place)
    card = read_card(folder)
    weights = _read_weights(folder / WEIGHTS, card)
    encoder = build_encoder(card.encoder)
    _check_shapes(_described(encoder, card, folder / CARD), weights, folder / WEIGHTS)
    predictor = build_predictor(encoder, card)
    predictor.load_state_dict(dict(weights))
    apply_precision(predictor.encoder, chosen)
    return TrainedModel(card, predictor.to(place).eval())


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


def _described(encoder: Encoder, card: ModelCard, path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all weights of the model that `card` describes; no memory is asked for heads, however large."""
    try:
        with torch.device("meta"):
            predictor = build_predictor(encoder, card)
    except (RuntimeError, OverflowError, TypeError) as error:  # more numbers than can be counted
        heads = ", ".join(f"{task.head.kind} of {task.head.hidden:g} channels" for task in card.tasks)
        raise CheckpointError(
            f"{path}: describes heads that no computer can hold ({heads}; patch_size {card.patch_size:g}); restore the "
            "card, or run `olmoearth finetune` again."
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in predictor.state_dict().items()}


def _check_shapes(expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor], path: Path) -> None:
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointError(f"{path}: lacks '{name}', which the card's encoder and heads need.")
        if name not in expected:
            raise CheckpointError(f"{path}: holds '{name}', which the card's encoder and heads do not have.")
        if (shape := tuple(weights[name].shape)) != expected[name]:
            raise CheckpointError(f"{path}: '{name}' has shape {shape}; the card's model needs {expected[name]}.")
