"""Precision and device: what is chosen, what is recorded, and CUDA where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import S1, S2, clouds, cubes, days, ragged
from torch import nn

from olmoearth_core.models import build_encoder, load_encoder, save_encoder, transformer
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.graphs import use_cuda_graphs
from olmoearth_core.models.olmoearth import OlmoEarth
from olmoearth_core.models.packed import PackedEncoder
from olmoearth_core.models.precision import apply_precision, resolve_precision

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(("amx", "avx", "chosen"), [(1, 1, "bf16"), (1, 0, "bf16"), (0, 1, "bf16"), (0, 0, "fp32")])
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx))
    assert resolve_precision("auto", CPU) == chosen
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


def test_the_precision_is_resolved_once_and_recorded(tmp_path: Path) -> None:
    for saved in ("fp32", "bf16"):
        save_encoder(apply_precision(build_encoder("v1.1-nano"), saved), tmp_path)
        for asked, dtypes in (("fp32", {torch.float32}), ("bf16", {torch.float32, torch.bfloat16})):
            loaded = load_encoder(str(tmp_path), precision=asked)
            assert loaded.precision == asked
            assert {parameter.dtype for parameter in loaded.parameters()} == dtypes
    assert load_encoder(str(tmp_path)).precision == resolve_precision("auto", torch.empty(0).device)


def test_bf16_keeps_residual_norms_encodings_and_rotations_in_fp32() -> None:
    encoder = apply_precision(build_encoder("v1.2-nano"), "bf16")
    for name, module in encoder.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.weight.dtype == torch.float32, name
    by_name = dict(encoder.named_parameters())
    assert by_name["blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
    assert by_name["blocks.0.attn.frequencies"].dtype == torch.float32
    assert by_name["tokenizer.channel.sentinel2_l2a"].dtype == torch.float32
    seen: list[torch.dtype] = []
    assert isinstance(encoder, OlmoEarth)
    for block in encoder.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    features = encoder.encode(cubes((S2,), 1, 2, 16, 16), days(1, 2), patch_size=4)
    assert set(seen) == {torch.float32}
    assert features.map().dtype == torch.float32


@pytest.mark.parametrize("name", ["v1.2-nano", "galileo-nano"])
@pytest.mark.parametrize("amx", [False, True])
def test_bf16_is_near_fp32_with_and_without_amx(monkeypatch: pytest.MonkeyPatch, amx: bool, name: str) -> None:
    """Both ways of attention run on any CPU; only their speed differs."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    inputs, dates, valid = cubes((S2, S1), 3, 4, 16, 16), days(3, 4), ragged((S2, S1), 3, 4)
    exact = pooled(build_encoder(name), inputs, dates, valid)
    near = pooled(apply_precision(build_encoder(name), "bf16"), inputs, dates, valid)
    assert 0 < (near - exact).square().mean().sqrt() < 0.02


def pooled(encoder: Encoder, inputs: object, dates: object, valid: object = None) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.encode(inputs, dates, valid, patch_size=4).map().cpu()  # type: ignore[arg-type]


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["v1-nano", "v1.1-nano", "v1.2-tiny", "v1.3-base", "galileo-nano"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2)])
def test_cuda_gives_what_the_cpu_gives(name: str, precision: str, tolerance: float) -> None:
    modalities = build_encoder(name).modalities
    inputs, dates, valid = cubes(modalities, 3, 4, 16, 16), days(3, 4), ragged(modalities, 3, 4)
    exact = pooled(build_encoder(name), inputs, dates, valid)
    there = apply_precision(build_encoder(name), precision).to("cuda")
    torch.testing.assert_close(pooled(there, inputs, dates, valid), exact, atol=tolerance, rtol=0)


@pytest.mark.gpu
@needs_cuda
def test_auto_is_cuda_in_bf16_where_it_can(tmp_path: Path) -> None:
    save_encoder(build_encoder("v1.1-nano"), tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert encoder.device.type == "cuda"
    assert encoder.precision == ("bf16" if torch.cuda.is_bf16_supported() else "fp32")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["v1.1-nano", "v1.2-nano", "galileo-nano"])
def test_cuda_graphs_give_what_single_launches_give(name: str) -> None:
    encoder = build_encoder(name).to("cuda")
    batches = [(cubes((S2,), 2, 3, 16, 16, seed=i), days(2, 3, every=20 + i)) for i in range(3)]
    single = [pooled(encoder, *batch) for batch in batches]
    graphed = use_cuda_graphs(encoder)  # type: ignore[arg-type]
    for batch, expected in zip(batches, single, strict=True):
        torch.testing.assert_close(pooled(graphed, *batch), expected, atol=1e-5, rtol=0)


def test_cuda_graphs_change_nothing_elsewhere() -> None:
    inputs, dates = cubes((S2,), 1, 2, 16, 16), days(1, 2)
    encoder = build_encoder("v1.1-nano")
    before = pooled(encoder, inputs, dates)
    assert isinstance(encoder, OlmoEarth)
    assert torch.equal(pooled(use_cuda_graphs(encoder), inputs, dates), before)


@pytest.mark.parametrize("name", ["v1-nano", "v1.1-nano", "v1.2-nano", "galileo-nano"])
def test_rows_that_are_nobodys_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 on a CPU: matrices of few heights, whatever patches clouds leave."""
    encoder = apply_precision(build_encoder(name, seed=1), "bf16").eval()
    assert isinstance(encoder, PackedEncoder)
    heights: list[int] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, args: heights.append(len(args[0])))
    inputs, valid = cubes((S2,), 2, 3, 16, 16), clouds((S2,), 2, 3, 16, 16)
    found = []
    for height in (1, 16):
        monkeypatch.setattr(transformer, "HEIGHTS", height)
        for whole in (False, True):
            with torch.inference_mode():
                found.append(encoder.encode(inputs, days(2, 3), valid, patch_size=4, whole_timesteps=whole).map())
    assert heights[0] % 16 != 0, "nothing to pad would prove nothing"
    assert heights[2] == heights[0] + -heights[0] % 16
    assert heights[3] % 16 == 0
    scale = found[0].square().mean().sqrt()
    for other in found[1:]:
        assert (other - found[0]).square().mean().sqrt() < 0.02 * scale


def test_training_in_bf16_has_a_gradient_whatever_patches_are_missing() -> None:
    encoder = apply_precision(build_encoder("v1.1-nano"), "bf16").train()
    inputs, valid = cubes((S2,), 2, 3, 16, 16), clouds((S2,), 2, 3, 16, 16)
    features = encoder.encode(inputs, days(2, 3), valid, patch_size=4, seeds=np.arange(2))
    features.map().sum().backward()
    gradients = [parameter.grad for parameter in encoder.blocks.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
