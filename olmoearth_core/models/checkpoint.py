"""Building encoders, loading their weights (published or own format), and writing the own format."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.catalogue import FAMILIES, KNOWN, family_of
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.family import EncoderConfig
from olmoearth_core.models.origin import Origin
from olmoearth_core.models.precision import apply_precision, resolve_device, resolve_precision
from olmoearth_core.models.sources import OWN, Files, locate
from olmoearth_core.models.state import plain_floats
from olmoearth_core.store import whole_file, write_json

FORMAT = 1
"""Of `encoder.json`."""


def build(name: str, *, seed: int = 0) -> Encoder:
    """Build the encoder `name` with random weights drawn from `seed`."""
    family = family_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = family.encoder()(family.named(name), Origin(source="random", seed=seed))
        encoder.draw()
    return encoder.eval()


def load(source: str, *, name: str | None = None, precision: str = "auto", device: str = "auto") -> Encoder:
    """Load an encoder; see `olmoearth_core.models.load_encoder`."""
    place = resolve_device(device)
    chosen = resolve_precision(precision, place)
    files = locate(source)
    encoder = _published(files, source, name) if files.published else _own(files)
    if name is not None and encoder.name != name:
        raise CheckpointError(f"{source} holds {encoder.name}, but {name} was asked for.")
    return apply_precision(encoder, chosen).to(place).eval()


def save(encoder: Encoder, folder: Path) -> None:
    """Write `encoder` to `folder` in the own format: encoder.safetensors, and encoder.json with what it is.

    The origin (source, revision, sha256 of the base weights, licence, restrictions) travels along.
    """
    from safetensors.torch import save_file

    description, weights = (Path(folder) / name for name in OWN)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with whole_file(weights) as partial:
        save_file(state, partial)
    content = {
        "format": FORMAT,
        "config": asdict(encoder.config),
        "origin": encoder.origin.card(),
        "weights_sha256": sha256_file(weights),
    }
    write_json(description, content)


def _published(files: Files, source: str, name: str | None) -> Encoder:
    family = next(family for family in FAMILIES if family.weights_file == files.weights.name)
    origin = Origin(
        source=source,
        revision=files.revision,
        licence=family.licence,
        restrictions=family.restrictions,
        file=files.weights,
    )
    encoder = family.encoder()
    config = encoder.parse(_read_json(files.description), str(files.description))
    config = family.variant(config, name)
    state = encoder.convert(_read_pth(files.weights), config, str(files.weights))
    return _assemble(encoder, config, state, origin, str(files.weights))


def _own(files: Files) -> Encoder:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = _read_json(files.description)
    try:
        if card["format"] != FORMAT:
            raise CheckpointError(f"{files.description}: format is {card['format']!r}; this software reads {FORMAT}.")
        if (name := card["config"]["name"]) not in KNOWN:
            raise CheckpointError(
                f"{files.description} is no card of an encoder known here: {name!r} is none of the "
                f"known ones, {', '.join(KNOWN)}."
            )
        family = family_of(name)
        config = TypeAdapter(family.config).validate_python(card["config"])
        origin = TypeAdapter(Origin).validate_python(card["origin"])
        expected = card["weights_sha256"]
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{files.description} is no card of an encoder: {error}") from error
    if (found := sha256_file(files.weights)) != expected:
        raise CheckpointError(
            f"{files.weights} has sha256 {found}, its card says {expected}: it is truncated or was changed. Fetch it "
            "again."
        )
    try:
        state = load_file(files.weights)
    except SafetensorError as error:
        raise CheckpointError(f"{files.weights} cannot be read: {error}") from error
    family.check(config, str(files.description))
    for name, tensor in state.items():
        plain_floats(tensor, f"{files.weights}: {name}")
    return _assemble(family.encoder(), config, state, origin, str(files.weights))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error


def _read_pth(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a torch file, mapped rather than read; only plain tensors are accepted.

    Raises:
        CheckpointError: the file is truncated, is no torch file, or would run code when loaded.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"  # files from before torch 1.6 are not, and cannot be mapped
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that is no good is refused below anyhow
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than plain tensors and could run code when loaded: refused. Fetch it again from "
            "its source, or ask whoever made it to save a state dict of tensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or no torch file ({error}). Fetch it again.") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} is no state dict: expected are tensors by name.")
    return state


def _assemble(
    cls: type[Encoder], config: EncoderConfig, state: dict[str, Tensor], origin: Origin, where: str
) -> Encoder:
    """An encoder around the tensors of `state`, which are not copied.

    Built on the meta device, where constructors may create but not compute: arithmetic there would import torch's
    compiler, which takes seconds.
    """
    with torch.device("meta"):
        encoder = cls(config, origin)
    needed: dict[str, Tensor] = encoder.state_dict()
    for name, tensor in needed.items():
        if name not in state:
            raise CheckpointError(f"{where}: lacks {name}, which {config.name} needs.")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(state[name].shape)}, but {config.name} needs {tuple(tensor.shape)}."
            )
    if extra := [name for name in state if name not in needed]:
        raise CheckpointError(f"{where}: holds {extra[0]}, which {config.name} does not have.")
    encoder.load_state_dict(state, assign=True)
    return encoder
