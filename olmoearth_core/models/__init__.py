"""Encoders and what stands on them: `load_encoder`, `build_encoder`, `save_encoder`. torch is imported as they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from olmoearth_core.models.encoder import Encoder


def load_encoder(source: str, *, name: str | None = None, precision: str = "auto", device: str = "auto") -> Encoder:
    """Load an encoder with its published (or your own) weights, in evaluation mode.

    Args:
        source: a local folder (`config.json` + `weights.pth` of OlmoEarth or `encoder.pt` of Galileo, or what
            `save_encoder` wrote), `hf://org/name@revision`, `s3://bucket/folder`, or a catalogue name such as
            "v1.1-tiny" (fetched from its hub).
        name: the encoder that it must be; where the same files serve several, as those of "galileo-nano" also serve
            "galileo-nano-ndvi", the one to make of them.
        precision: "fp32", "bf16" (bf16 weights; residual and norms stay fp32), or "auto" (see `precision.py`).
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...

    Raises:
        CheckpointError: files that are missing, damaged, unsafe, or do not fit; the message names file and key.
    """
    from olmoearth_core.models.checkpoint import load

    return load(str(source), name=name, precision=precision, device=device)


def build_encoder(name: str, *, seed: int = 0) -> Encoder:
    """Build a catalogue encoder with random weights that depend on `seed` alone: fp32, CPU, evaluation mode.

    Raises:
        CheckpointError: `name` is not in the catalogue.
    """
    from olmoearth_core.models.checkpoint import build

    return build(name, seed=seed)


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write `encoder` to `folder` as encoder.safetensors + encoder.json (configuration, origin, licence)."""
    from olmoearth_core.models.checkpoint import save

    save(encoder, folder)


__all__ = ["build_encoder", "load_encoder", "save_encoder"]
