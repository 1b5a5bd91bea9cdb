"""Building encoders and loading their weights: published or own format; from a folder, a hub, or a bucket."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models import official
from olmoearth_core.models.config import EncoderConfig, named
from olmoearth_core.models.olmoearth import OlmoEarth
from olmoearth_core.models.origin import OLMOEARTH_LICENCE, OLMOEARTH_RESTRICTIONS, Origin
from olmoearth_core.models.precision import apply_precision, resolve_device, resolve_precision


def build(name: str, *, seed: int = 0) -> OlmoEarth:
    """Build the catalogue encoder `name` with random weights drawn from `seed`."""
    config = named(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = OlmoEarth(config, Origin(source="random", seed=seed))
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if encoder.pooler is not None:
            nn.init.trunc_normal_(encoder.pooler.query, std=0.02)
    return encoder.eval()


def load(source: str, *, precision: str = "auto", device: str = "auto") -> OlmoEarth:
    """Load an encoder; see `olmoearth_core.models.load_encoder`."""
    place = resolve_device(device)
    chosen = resolve_precision(precision, place)
    encoder = _from_official(
        Path(source), Origin(source=source, licence=OLMOEARTH_LICENCE, restrictions=OLMOEARTH_RESTRICTIONS)
    )
    return apply_precision(encoder, chosen).to(place).eval()


def _from_official(folder: Path, origin: Origin) -> OlmoEarth:
    config = official.parse_config(json.loads((folder / "config.json").read_text()), str(folder / "config.json"))
    weights = folder / "weights.pth"
    state = _read_pth(weights)
    return _assemble(config, official.convert(state, config, str(weights)), origin, str(weights))


def _read_pth(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} would run code when loaded; only plain tensors are accepted.") from error
    return state


def _assemble(config: EncoderConfig, state: dict[str, Tensor], origin: Origin, where: str) -> OlmoEarth:
    """An encoder around the tensors of `state`, which are not copied."""
    with torch.device("meta"):
        encoder = OlmoEarth(config, origin)
    expected: dict[str, Any] = encoder.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise CheckpointError(f"{where}: {name} is missing.")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(state[name].shape)}; {config.name} needs {tuple(tensor.shape)}."
            )
    if extra := [name for name in state if name not in expected]:
        raise CheckpointError(f"{where}: {extra[0]} is no weight of {config.name}.")
    encoder.load_state_dict(state, assign=True)
    return encoder
