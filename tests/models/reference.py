"""The official encoder (olmoearth-pretrain-minimal) as the measure: same weights, same inputs, sample by sample."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from samples import S2, cubes, days

BANDS = {"sentinel2_l2a": 12, "sentinel1": 2, "landsat": 11}


def official_model(name: str, seed: int = 0) -> Any:
    """The official model `name` ("v1.1-nano") with random weights, nothing left at its initial zero."""
    from olmoearth_pretrain_minimal import OlmoEarthPretrain_v1

    version, size = name.rsplit("-", 1)
    torch.manual_seed(seed)
    model = OlmoEarthPretrain_v1(size, version).model.eval()
    with torch.no_grad():
        for key, value in model.encoder.named_parameters():
            if key.endswith("bias") or "channel_embeddings" in key:
                value.normal_(0, 0.1)
    return model


def official_config(name: str) -> dict[str, Any]:
    """What stands in the published config.json of `name`."""
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1 import olmoearth_pretrain_v1 as package

    captured: list[Any] = []

    class Capture(package.LatentMIMConfig):  # type: ignore[misc, name-defined]
        def build(self) -> torch.nn.Module:
            captured.append(self)
            return torch.nn.Identity()

    version, size = name.rsplit("-", 1)
    original, package.LatentMIMConfig = package.LatentMIMConfig, Capture
    try:
        package.OlmoEarthPretrain_v1(size, version)
    finally:
        package.LatentMIMConfig = original
    config: dict[str, Any] = captured[0].as_config_dict() | {
        "_CLASS_": "olmoearth_pretrain.nn.latent_mim.LatentMIMConfig"
    }
    # The pretraining run's own record of what the encoder never saw; the official loader wants it.
    unseen = [m for m in config["encoder_config"]["supported_modality_names"] if m not in BANDS]
    masking = {"masking_config": {"strategy_config": {"only_decode_modalities": unseen}}}
    return {"model": config, "train_module": masking}


def write_official(folder: Path, name: str, model: Any) -> Path:
    """Write `model` as published: config.json + weights.pth (encoder, decoder and all)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(official_config(name)))
    torch.save(model.state_dict(), folder / "weights.pth")
    return folder


def encode_official(
    model: Any,
    name: str,
    inputs: dict[str, NDArray[Any]],
    dates: NDArray[np.datetime64],
    valid: dict[str, NDArray[np.bool_]] | None = None,
    *,
    patch_size: int,
    resolution: int = 10,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    """Tokens (B, T, h, w, G, D) by modality, pooled map (B, D, h, w), and v1.3's location tokens.

    Run sample by sample, so that no sample sees another's padding; values that are not valid are NaN, which the
    official normaliser fills. Pooled as facts/encoders.md says, written independently of our code.
    """
    samples = [
        _one(model, name, {m: x[i] for m, x in inputs.items()}, dates[i],
             {m: v[i] for m, v in (valid or {}).items()}, patch_size, resolution)
        for i in range(len(dates))
    ]  # fmt: skip
    tokens = {m: torch.stack([s[0][m] for s in samples]) for m in inputs}
    places = {k: torch.stack([s[2][k] for s in samples]) for k in samples[0][2]}
    return tokens, torch.stack([s[1] for s in samples]), places


def _one(model, name, inputs, dates, valid, patch_size, resolution):  # type: ignore[no-untyped-def]
    from olmoearth_pretrain_minimal import Normalizer
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

    normalizer = Normalizer(model_type=name.rsplit("-", 1)[0])
    months = dates.astype("datetime64[M]").astype(int)
    days = (dates - dates.astype("datetime64[M]").astype("datetime64[D]")).astype(int) + 1
    stamps = torch.as_tensor(np.stack([days, months % 12, months // 12 + 1970], axis=-1))[None]
    fields: dict[str, torch.Tensor] = {}
    grids = {}
    for m, cube in inputs.items():
        t, _, h, w = cube.shape
        mask = np.ones((t, h, w), bool)
        if m in valid:
            mask &= valid[m] if valid[m].ndim == 3 else valid[m][:, None, None]
        values = np.where(mask[:, None], cube.astype(np.float64), np.nan).transpose(2, 3, 0, 1)[None]  # (1, H, W, T, C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            normal = normalizer.normalize(Modality.get(m), values)
        groups = model.encoder.tokenization_config.get_num_bandsets(m)
        missing = torch.as_tensor(~mask.transpose(1, 2, 0)).long() * 3
        fields[m] = torch.as_tensor(normal, dtype=torch.float32)
        fields[f"{m}_mask"] = missing[None, ..., None].repeat(1, 1, 1, 1, groups)
        grids[m] = torch.as_tensor(mask[:, ::patch_size, ::patch_size])
    with torch.no_grad():
        out = model.encoder(
            MaskedOlmoEarthSample(timestamps=stamps, **fields), patch_size=patch_size, input_res=resolution
        )
    tokens = {m: getattr(out["tokens_and_masks"], m)[0].permute(2, 0, 1, 3, 4) for m in inputs}  # (T, h, w, G, D)
    means = []
    seen = []
    for m, x in tokens.items():
        here = grids[m][..., None, None].expand(*x.shape[:4], 1).to(x.dtype)
        count = here.sum(dim=(0, 3))
        means.append((x * here).sum(dim=(0, 3)) / count.clamp(min=1))
        seen.append((count > 0).to(x.dtype))
    pooled = torch.stack(means).sum(0) / torch.stack(seen).sum(0).clamp(min=1)
    places = {k: out[k][0].permute(2, 0, 1) for k in ("location_tokens", "student_location_tokens") if k in out}
    return tokens, pooled.permute(2, 0, 1), places


def pooled(encoder: Any) -> torch.Tensor:
    """The map that `encoder` makes of a small cube."""
    with torch.inference_mode():
        out: torch.Tensor = encoder.encode(cubes((S2,), 1, 2, 16, 16), days(1, 2), patch_size=4).map()
    return out
