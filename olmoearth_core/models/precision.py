"""Which numbers an encoder computes with, decided once when it is loaded and recorded as `encoder.precision`.

fp32: everything. bf16: the weights of the large matrices (and so their products and attention) are bfloat16, the
residual stream, norms, rotations and encodings stay fp32; so does attention on CPUs without AMX, where bf16 slows it.
Measured gains are in docs/benchmarks.md. Train in fp32.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.encoder import Encoder

PRECISIONS = ("auto", "fp32", "bf16")
E_ = TypeVar("E_", bound=Encoder)


def resolve_device(device: str) -> torch.device:
    """The device meant by `device`; "auto" is CUDA where there is one.

    Raises:
        CheckpointError: no such device, or it is not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(f"device '{device}' is not known; allowed are auto, cpu, cuda, cuda:0 ...") from error
    if place.type not in ("cpu", "cuda"):
        raise CheckpointError(f"device '{device}' is not supported; allowed are auto, cpu, cuda, cuda:0 ...")
    if place.type == "cuda" and torch.cuda.is_available() and (place.index or 0) >= torch.cuda.device_count():
        raise CheckpointError(
            f"device '{device}' was asked for; there are {torch.cuda.device_count()} CUDA devices here."
        )
    if place.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            f"device '{device}' was asked for, but torch {torch.__version__} sees no CUDA device here."
        )
    return place


def resolve_precision(precision: str, device: torch.device) -> str:
    """Choose fp32 or bf16; "auto" is bf16 on a GPU or CPU (AMX, AVX512-BF16) that multiplies it.

    There the windows of mapping run faster (docs/benchmarks.md); windows of a few tokens may run a little slower.

    Raises:
        CheckpointError: `precision` is none of auto, fp32, bf16.
    """
    if precision not in PRECISIONS:
        raise CheckpointError(f"precision '{precision}' is not known; allowed are {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # a GPU that is elsewhere (a plan for a cluster) is taken to be of 2020 or younger
        return "bf16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported() else "fp32"
    multiplies = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and multiplies else "fp32"


def apply_precision(encoder: E_, precision: str) -> E_:
    """Convert the weights of `encoder` in place, whatever precision they came in."""
    encoder.float()
    if precision == "bf16":
        for name, module in encoder.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(".pixel"):
                module.to(torch.bfloat16)
    encoder.precision = precision
    return encoder
