"""Loading: published and own format; damaged, unsafe and unknown files."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import official_config, pooled
from samples import S2, cubes, days

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError
from olmoearth_core.models import build_encoder, load_encoder, save_encoder
from olmoearth_core.models.config import NAMES, named
from olmoearth_core.models.official import parse_config


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "checkpoint"))


def change_config(folder: Path, **options: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["encoder_config"].update(options)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Any) -> None:
    state = torch.load(folder / "weights.pth", weights_only=True)
    torch.save(change(state), folder / "weights.pth")


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_published_config_is_that_of_the_catalogue(name: str) -> None:
    from dataclasses import asdict

    assert asdict(parse_config(official_config(name), "config.json")) == asdict(named(name))


def test_what_these_tests_write_is_what_the_official_loader_reads(published: Path) -> None:
    from olmoearth_pretrain_minimal import load_model_from_path

    state = load_model_from_path(published).state_dict()
    written = torch.load(published / "weights.pth", weights_only=True)
    assert all(torch.equal(state[key], written[key]) for key in state)


def test_older_spellings_are_understood(folder: Path) -> None:
    now = pooled(load_encoder(str(folder)))
    change_weights(folder, lambda s: s | {"encoder.composite_encodings.pos_embed": torch.zeros(12, 32)})
    config = json.loads((folder / "config.json").read_text())
    encoder = config["model"]["encoder_config"]
    encoder["_CLASS_"] = "helios.nn.flexihelios.EncoderConfig"
    encoder["spatial_pos_encoding"] = encoder.pop("position_encoding")
    encoder["attn_window_size"] = None
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(pooled(load_encoder(str(folder))), now)


def test_an_encoder_only_state_dict_and_one_of_before_torch_1_6_load(folder: Path) -> None:
    now = pooled(load_encoder(str(folder)))
    state = torch.load(folder / "weights.pth", weights_only=True)
    only = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    torch.save(only, folder / "weights.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(pooled(load_encoder(str(folder))), now)


def test_config_without_the_linear_embedding_means_the_convolution() -> None:
    config = official_config("v1-nano")
    config["model"]["encoder_config"].pop("use_linear_patch_embed", None)
    assert parse_config(config, "config.json") == named("v1-nano")


def test_weights_are_mapped_not_read(published: Path) -> None:
    encoder = load_encoder(str(published), precision="fp32", device="cpu")
    weight = dict(encoder.named_parameters())["blocks.0.mlp.fc1.weight"]
    start = weight.untyped_storage().data_ptr()
    maps = Path("/proc/self/maps").read_text().splitlines() if sys.platform == "linux" else []
    if not maps:
        pytest.skip("only Linux tells what is mapped")
    inside = [line for line in maps if int(line.split("-")[0], 16) <= start < int(line.split("-")[1].split()[0], 16)]
    assert inside[0].endswith("weights.pth")


def test_own_format_holds_weights_configuration_and_where_they_come_from(published: Path, tmp_path: Path) -> None:
    first = load_encoder(str(published), precision="fp32")
    save_encoder(first, tmp_path)
    card = json.loads((tmp_path / "encoder.json").read_text())
    assert card["origin"]["sha256"] == sha256_file(published / "weights.pth")
    assert card["origin"]["source"] == str(published)
    assert card["origin"]["licence"] == "OlmoEarth Artifact License"
    assert any("military" in rule for rule in card["origin"]["restrictions"])
    again = load_encoder(str(tmp_path), precision="fp32")
    assert torch.equal(pooled(first), pooled(again))
    assert again.origin.card() == first.origin.card()
    assert again.name == "v1.1-nano"


def test_random_weights_carry_no_licence(tmp_path: Path) -> None:
    save_encoder(build_encoder("v1.2-nano", seed=9), tmp_path)
    origin = load_encoder(str(tmp_path)).origin
    assert (origin.source, origin.seed, origin.restrictions) == ("random", 9, ())


# --- damage -----------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil-was-here",)


def _truncate(folder: Path) -> None:
    path = folder / "weights.pth"
    path.write_bytes(path.read_bytes()[:-5000])


def _empty(folder: Path) -> None:
    (folder / "weights.pth").write_bytes(b"")


def _code(folder: Path) -> None:
    torch.save({"encoder.norm.weight": Evil()}, folder / "weights.pth")


def _bare_pickle(folder: Path) -> None:
    (folder / "weights.pth").write_bytes(pickle.dumps({"encoder.norm.weight": Evil()}))


def _no_dict(folder: Path) -> None:
    torch.save(torch.zeros(3), folder / "weights.pth")


def _lacking(folder: Path) -> None:
    change_weights(folder, lambda s: {k: v for k, v in s.items() if "blocks.2.mlp.fc1.bias" not in k})


def _lacking_query(folder: Path) -> None:
    change_weights(folder, lambda s: {k: v for k, v in s.items() if "blocks.2.attn.q.weight" not in k})


def _strange(folder: Path) -> None:
    change_weights(folder, lambda s: s | {"encoder.cls_token": torch.zeros(1)})


def _too_deep(folder: Path) -> None:
    change_weights(folder, lambda s: s | {"encoder.blocks.4.norm1.weight": torch.zeros(128)})


def _misshapen(folder: Path) -> None:
    change_weights(folder, lambda s: s | {"encoder.norm.weight": torch.zeros(64)})


def _no_weights(folder: Path) -> None:
    (folder / "weights.pth").unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _half_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:100])


def _other_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


DAMAGE = {
    "truncated": (_truncate, "weights.pth is truncated"),
    "empty": (_empty, "weights.pth is truncated or no torch file"),
    "pickled code": (_code, "could run code"),
    "bare pickle with code": (_bare_pickle, "could run code"),
    "no state dict": (_no_dict, "no state dict"),
    "a weight is missing": (_lacking, "lacks blocks.2.mlp.fc1.bias"),
    "a part of qkv is missing": (_lacking_query, "blocks.2.attn.q.weight is missing"),
    "a strange weight": (_strange, "'encoder.cls_token' is no weight"),
    "a block too many": (_too_deep, "holds blocks.4.norm1.weight"),
    "a wrong shape": (_misshapen, r"norm.weight is \(64,\), but v1.1-nano needs \(128,\)"),
    "no weights": (_no_weights, "no weights.pth or encoder.pt beside it"),
    "no config": (_no_config, "neither config.json nor encoder.json"),
    "half a config": (_half_config, "config.json cannot be read as JSON"),
    "another model's config": (_other_config, "model.encoder_config"),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoints_are_refused_by_name(
    folder: Path, spoil: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(str(folder))
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"position_encoding": "rope_4d"}, {"qk_norm": True}, {"num_register_tokens": 4}, {"max_patch_size": 16},
        {"patch_embed_hidden_sizes": [12, 12]}, {"mixture_of_experts": 8}, {"use_linear_patch_embed": False},
        {"attention_pooler_config": {"pooler_dim": 64, "pooler_depth": 3}},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_of_an_unknown_version_is_refused(folder: Path, options: dict[str, Any]) -> None:
    change_config(folder, **options)
    with pytest.raises(CheckpointError, match="belongs to no version known here"):
        load_encoder(str(folder))


def test_a_config_that_names_an_unknown_band_is_refused(folder: Path) -> None:
    change_config(folder, tokenization_config={"overrides": {S2: {"band_groups": [["B02", "B42"]]}}})
    with pytest.raises(CheckpointError, match="'B42'"):
        load_encoder(str(folder))


UNLIKE = {
    "one band set in a v1": {"use_linear_patch_embed": False, "patch_embed_hidden_sizes": []},
    "three band sets in a v1.1": {"tokenization_config": None},
    "fewer bands": {"tokenization_config": {"overrides": {S2: {"band_groups": [["B02"]]}}}},
    "no modality": {"supported_modality_names": []},
    "no heads": {"num_heads": 0},
    "negative depth": {"depth": -1},
    "an unknown size": {"embedding_size": 130},
    "a ratio that is no number": {"mlp_ratio": float("nan")},
    "a ratio that is none": {"mlp_ratio": None},
    "a ratio in words": {"mlp_ratio": "x"},
    "hidden size as a number": {"patch_embed_hidden_sizes": 12},
    "hidden size in words": {"patch_embed_hidden_sizes": ["a"]},
    "band groups as a number": {"tokenization_config": {"overrides": {S2: {"band_groups": 5}}}},
    "band groups left out": {"tokenization_config": {"overrides": {S2: {}}}},
    "a pooler in words": {"attention_pooler_config": "yes"},
}


@pytest.mark.parametrize("options", UNLIKE.values(), ids=UNLIKE)
def test_a_config_that_no_published_encoder_has_is_refused(folder: Path, options: dict[str, Any]) -> None:
    change_config(folder, **options)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_encoder(str(folder))


def test_an_own_card_that_no_encoder_has_is_refused(tmp_path: Path) -> None:
    save_encoder(build_encoder("v1.1-nano"), tmp_path)
    card = json.loads((tmp_path / "encoder.json").read_text())
    for change, message in (({"name": "v9-nano"}, "none of the known ones"), ({"heads": 4}, "heads is 4, but in v1.1")):
        (tmp_path / "encoder.json").write_text(json.dumps({**card, "config": {**card["config"], **change}}))
        with pytest.raises(CheckpointError, match=message):
            load_encoder(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_fp32(folder: Path, dtype: torch.dtype) -> None:
    exact = pooled(load_encoder(str(folder), precision="fp32"))  # now: the weights are mapped, not read
    change_weights(folder, lambda s: {k: v.to(dtype) if v.is_floating_point() else v for k, v in s.items()})
    loaded = load_encoder(str(folder), precision="fp32")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.allclose(pooled(loaded), exact, atol=0.1)


def test_weights_that_are_no_dense_floats_are_refused(folder: Path) -> None:
    for spoil, found in (
        (lambda v: v.to(torch.int64), "int64"),
        (lambda v: v.to_sparse(), "sparse"),
    ):
        before = (folder / "weights.pth").read_bytes()
        change_weights(folder, lambda s, spoil=spoil: s | {"encoder.norm.weight": spoil(s["encoder.norm.weight"])})
        with pytest.raises(CheckpointError, match=rf"encoder.norm.weight holds .*{found}"):
            load_encoder(str(folder))
        (folder / "weights.pth").write_bytes(before)


def test_own_files_that_changed_are_refused(tmp_path: Path) -> None:
    save_encoder(build_encoder("v1.1-nano"), tmp_path)
    weights = tmp_path / "encoder.safetensors"
    spoiled = bytearray(weights.read_bytes())
    spoiled[-1] ^= 1
    weights.write_bytes(spoiled)
    with pytest.raises(CheckpointError, match="was changed"):
        load_encoder(str(tmp_path))


def test_an_own_card_of_another_format_is_refused(tmp_path: Path) -> None:
    save_encoder(build_encoder("v1.1-nano"), tmp_path)
    card = json.loads((tmp_path / "encoder.json").read_text())
    for change, message in (({"format": 99}, "format is 99"), ({"config": {"name": "v9"}}, "no card of an encoder")):
        (tmp_path / "encoder.json").write_text(json.dumps(card | change))
        with pytest.raises(CheckpointError, match=message):
            load_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("option", "value"), [("precision", "int8"), ("device", "abacus"), ("device", "meta"), ("device", "mps")]
)
def test_unknown_precision_and_device_are_refused(published: Path, option: str, value: str) -> None:
    with pytest.raises(CheckpointError, match=value):
        load_encoder(str(published), **{option: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_here_is_refused(published: Path) -> None:
    with pytest.raises(CheckpointError, match="sees no CUDA device"):
        load_encoder(str(published), device="cuda")


def test_loading_does_not_import_the_compiler_of_torch(published: Path) -> None:
    """Arithmetic on the meta device would, and take seconds: loading would be slower than the official loader."""
    import subprocess

    code = (
        "import sys; from olmoearth_core.models import load_encoder;"
        f"load_encoder({str(published)!r}, precision='fp32', device='cpu');"
        "print('torch._dynamo' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_official_package_is_never_imported_at_run_time() -> None:
    package = Path(str(sys.modules["olmoearth_core"].__file__)).parent
    sources = io.StringIO("".join(path.read_text() for path in package.rglob("*.py")))
    assert not [line for line in sources if line.lstrip().startswith(("import olmoearth_pre", "from olmoearth_pre"))]


def test_weights_can_be_trained_in_place(published: Path) -> None:
    """Mapped weights are private: a step of an optimiser changes them here and not in the file."""
    before = sha256_file(published / "weights.pth")
    encoder = load_encoder(str(published), precision="fp32").train()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    was = pooled(encoder.eval())
    encoder.encode(cubes((S2,), 1, 2, 16, 16), days(1, 2), patch_size=4).map().square().mean().backward()
    optimiser.step()
    assert not torch.equal(was, pooled(encoder))
    assert sha256_file(published / "weights.pth") == before
    assert np.isfinite(pooled(encoder).numpy()).all()
