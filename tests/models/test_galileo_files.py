"""Galileo's published files: what is read of them, what is refused, and the way from project.yaml to a saved model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from reference import pooled
from samples import S1, S2, cubes, days

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError
from olmoearth_core.models import build_encoder, load_encoder, save_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.galileo import GROUPS, Galileo
from olmoearth_core.models.galileo_config import named, with_ndvi
from olmoearth_core.models.model_folder import load_model, save_model
from olmoearth_core.models.predictor import build_predictor
from olmoearth_core.validate import _model

UNREAD = {
    "pos_embed": (24, 32), "sp_channel_embed": (3, 32), "t_channel_embed": (3, 32), "st_channel_embed": (4, 32),
    "space_embed.SRTM.proj.weight": (128, 2, 8, 8), "time_embed.ERA5.weight": (128, 2),
    "static_embed.location.bias": (128,),
}  # fmt: skip


def write_galileo(folder: Path, encoder: Galileo) -> Path:
    """Write `encoder` (with its NDVI token) as the original does: config.json and encoder.pt."""
    folder.mkdir(parents=True, exist_ok=True)
    config, ours = encoder.config, encoder.state_dict()
    options = {
        "embedding_size": config.embedding_size, "depth": config.depth, "num_heads": config.heads, "mlp_ratio": 4,
        "max_sequence_length": 24, "freeze_projections": False, "drop_path": 0.2, "max_patch_size": 8,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"training": {}, "model": {"encoder": options, "decoder": {}}}))
    state = {name: torch.zeros(shape) for name, shape in UNREAD.items()}
    for name, value in ours.items():
        if name.startswith(("norm", "blocks")) and ".qkv." not in name:
            state[name] = value
        elif ".qkv." in name:
            state |= dict(zip((name.replace("qkv", x) for x in "qkv"), value.chunk(3), strict=True))
    for m, groups in GROUPS.items():
        for i, group in enumerate(groups):
            kernel = ours[f"tokenizer.embed.{m}.{i}.proj.weight"]
            state[f"space_time_embed.{group}.proj.weight"] = kernel.unflatten(1, (-1, 8, 8))
            state[f"space_time_embed.{group}.proj.bias"] = ours[f"tokenizer.embed.{m}.{i}.proj.bias"]
    state["s_t_channel_embed"] = torch.cat([ours[f"tokenizer.channel.{m}"] for m in GROUPS])
    state["month_embed.weight"] = ours["tokenizer.month_table"]
    torch.save(state, folder / "encoder.pt")
    return folder


@pytest.fixture(scope="module")
def original() -> Galileo:
    encoder = build_encoder("galileo-nano-ndvi", seed=5)
    assert isinstance(encoder, Galileo)
    with torch.no_grad():
        for channel in encoder.tokenizer.channel.values():
            channel.normal_()
    return encoder


@pytest.fixture
def folder(original: Galileo, tmp_path: Path) -> Path:
    return write_galileo(tmp_path / "galileo", original)


def change_config(folder: Path, **options: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["encoder"].update(options)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    torch.save(change(torch.load(folder / "encoder.pt", weights_only=True)), folder / "encoder.pt")


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_files_of_the_original_are_read(folder: Path, original: Galileo) -> None:
    encoder = load_encoder(str(folder), name="galileo-nano-ndvi", precision="fp32", device="cpu")
    state, expected = encoder.state_dict(), original.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_without_a_name_they_are_the_encoder_without_ndvi(folder: Path, original: Galileo) -> None:
    encoder = load_encoder(str(folder), precision="fp32", device="cpu")
    assert encoder.name == "galileo-nano"
    channel = encoder.state_dict()[f"tokenizer.channel.{S2}"]
    assert torch.equal(channel, original.state_dict()[f"tokenizer.channel.{S2}"][:5])
    assert not any(".5." in name and "embed" in name for name in encoder.state_dict())


def test_stochastic_depth_is_what_the_config_says(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, Galileo)
    assert {block.drop_path for block in encoder.blocks} == {0.2}  # type: ignore[union-attr]


def test_licence_and_checksum_go_along_and_no_restriction_of_olmoearth(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(folder), precision="fp32")
    card = encoder.origin.card()
    assert card["licence"].startswith("MIT")
    assert card["restrictions"] == []
    assert card["sha256"] == sha256_file(folder / "encoder.pt")
    save_encoder(encoder, tmp_path / "own")
    again = load_encoder(str(tmp_path / "own"), precision="fp32")
    assert again.origin.card() == card
    assert again.config == encoder.config  # the rate of stochastic depth, too
    assert torch.equal(pooled(again), pooled(encoder))


def test_random_weights_survive_their_own_format(tmp_path: Path) -> None:
    encoder = build_encoder("galileo-nano-ndvi", seed=9)
    save_encoder(encoder, tmp_path)
    again = load_encoder(str(tmp_path), precision="fp32")
    assert (again.name, again.origin.seed, again.config) == ("galileo-nano-ndvi", 9, encoder.config)
    assert torch.equal(pooled(again), pooled(encoder))


def test_the_config_of_every_size_is_known() -> None:
    for name in ("galileo-nano", "galileo-tiny", "galileo-base"):
        plain, index = named(name), named(f"{name}-ndvi")
        assert with_ndvi(plain) == index
        options = {"embedding_size": plain.embedding_size, "depth": plain.depth, "num_heads": plain.heads}
        found = Galileo.parse({"model": {"encoder": options | {"mlp_ratio": 4, "max_patch_size": 8}}}, "config.json")
        assert found.name == name
        assert found.drop_path == 0


def test_the_published_nano_is_what_its_catalogue_says(real_data: Path) -> None:
    path = real_data / "weights" / "galileo_nano"
    encoder = load_encoder(str(path), precision="fp32", device="cpu")
    assert encoder.name == "galileo-nano"
    assert sum(p.numel() for p in encoder.parameters()) == named("galileo-nano").parameters
    digest = "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c"
    assert encoder.origin.card()["sha256"] == digest
    shipped = torch.load(path / "encoder.pt", map_location="cpu", weights_only=True)
    slots = build_encoder("galileo-nano").tokenizer  # type: ignore[attr-defined]
    assert torch.allclose(slots.month_table, shipped["month_embed.weight"], atol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        lambda f: (f / "encoder.pt").write_bytes((f / "encoder.pt").read_bytes()[:-5000]),
        "encoder.pt is truncated",
    ),
    "a weight is missing": (
        lambda f: change_weights(f, lambda s: {k: v for k, v in s.items() if k != "blocks.2.mlp.fc1.bias"}),
        "lacks blocks.2.mlp.fc1.bias, which galileo-nano needs",
    ),
    "a key is missing": (
        lambda f: change_weights(f, lambda s: {k: v for k, v in s.items() if k != "blocks.2.attn.k.bias"}),
        "blocks.2.attn.k.bias is missing",
    ),
    "a strange weight": (
        lambda f: change_weights(f, lambda s: s | {"cls_token": torch.zeros(1)}),
        "'cls_token' is no weight of a Galileo encoder",
    ),
    "a strange group": (
        lambda f: change_weights(f, lambda s: s | {"space_time_embed.S3.proj.bias": torch.zeros(128)}),
        "'space_time_embed.S3.proj.bias' is no weight",
    ),
    "a wrong shape": (
        lambda f: change_weights(f, lambda s: s | {"space_time_embed.S1.proj.weight": torch.zeros(128, 3, 8, 8)}),
        r"tokenizer.embed.sentinel1.0.proj.weight is \(128, 192\), but galileo-nano needs \(128, 128\)",
    ),
    "a table with other groups": (
        lambda f: change_weights(f, lambda s: s | {"s_t_channel_embed": torch.zeros(8, 32)}),
        "s_t_channel_embed has 8 rows; Galileo has 7 band sets",
    ),
    "no floats": (
        lambda f: change_weights(f, lambda s: s | {"norm.weight": torch.zeros(128, dtype=torch.int64)}),
        "norm.weight holds torch.int64",
    ),
    "weights of OlmoEarth": (
        lambda f: change_weights(f, lambda s: {f"encoder.{k}": v for k, v in s.items()}),
        "is no weight of a Galileo encoder",
    ),
    "no weights": (lambda f: (f / "encoder.pt").unlink(), "no weights.pth or encoder.pt beside it"),
    "another size": (lambda f: change_config(f, depth=5), r"embedding_size, depth, num_heads are \(128, 5, 8\)"),
    "depth in words": (lambda f: change_config(f, depth="deep"), "model.encoder is not usable"),
    "another ratio": (lambda f: change_config(f, mlp_ratio=2), "mlp_ratio is 2.0, but in galileo-nano it is 4.0"),
    "another patch": (lambda f: change_config(f, max_patch_size=16), "base_patch is 16, but in galileo-nano it is 8"),
    "an unknown option": (lambda f: change_config(f, qk_norm=True), "qk_norm is True, which no known version has"),
    "no share": (lambda f: change_config(f, drop_path=1.5), "drop_path is 1.5"),
    "the config of OlmoEarth": (
        lambda f: (f / "config.json").write_text('{"model": {"encoder_config": {}}}'),
        "expected is the config.json of a Galileo encoder",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGE.values(), ids=DAMAGE)
def test_files_that_are_no_galileo_are_refused_by_name(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(str(folder))


def test_weights_of_galileo_are_not_taken_for_those_of_olmoearth(folder: Path, published: Path, tmp_path: Path) -> None:
    shutil.copy(published / "config.json", folder / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json of a Galileo encoder"):
        load_encoder(str(folder))
    mixed = Path(shutil.copytree(published, tmp_path / "mixed"))
    (folder / "encoder.pt").replace(mixed / "weights.pth")
    with pytest.raises(CheckpointError, match="no weight of an OlmoEarth"):
        load_encoder(str(mixed))


def test_another_encoder_than_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"galileo holds galileo-nano, but galileo-tiny-ndvi was asked for"):
        load_encoder(str(folder), name="galileo-tiny-ndvi")


# --- in a project -----------------------------------------------------------------------------------------------------


def findings(folder: Path, changes: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f.where, f.message) for f in _model(toy.write_project(folder, changes))]


def test_a_project_may_name_it(folder: Path, tmp_path: Path) -> None:
    galileo = {"model.encoder": "galileo-nano", "model.weights": str(folder)}
    modalities = {"imagery.modalities": [S2, S1]}
    assert findings(tmp_path / "a", galileo) == []
    assert findings(tmp_path / "b", galileo | modalities) == []
    assert findings(tmp_path / "c", {"model.encoder": "galileo-nano-ndvi"}) == []
    ((where, message),) = findings(tmp_path / "d", galileo | {"imagery.modalities": [S2, "landsat"]})
    assert where == "model.encoder"
    assert "galileo-nano does not read landsat" in message
    ((where, message),) = findings(tmp_path / "e", {"model.encoder": "galileo-large"})
    assert where == "model.encoder"
    assert "galileo-base" in message


def test_a_model_on_it_learns_and_survives_its_folder(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(folder), precision="fp32", device="cpu")
    bands = {S2: ["B02", "B03", "B04", "B08"], S1: ["vv", "vh"]}
    card = ModelCard(
        encoder=encoder.name,
        base=BaseWeights.model_validate(encoder.origin.card()),
        tasks=[TaskCard(classes=["land", "water"], head=HeadSpec(hidden=8))],
        bands=bands,
        patch_size=4,
        window_size=16,
        resolution=10.0,
        framing={"kind": "period", "timesteps": 2},  # type: ignore[arg-type]
        training={},
        dataset=TrainingSet(digest="0" * 64, windows={}, pixels={}),
        scores={},
        intended_use="Tests.",
        restrictions=[],
    )
    model = build_predictor(encoder, card).train()
    inputs, dates = cubes((S2, S1), 4, 2, 16, 16), days(4, 2)
    inputs[S2] = inputs[S2][:, :, :4]
    valid = {m: np.ones((4, 2, 16, 16), bool) for m in inputs}
    target = torch.as_tensor(inputs[S2][:, 0, 3].astype(np.int64) > 2755).long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    torch.manual_seed(0)
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(inputs, dates, valid)["main"], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    save_model(tmp_path / "model", model, card)
    again = load_model(tmp_path / "model", device="cpu", precision="fp32")
    with torch.inference_mode():
        expected = model.eval()(inputs, dates, valid)["main"]
        assert torch.equal(again.predictor(inputs, dates, valid)["main"], expected)
    assert "licence: MIT" in (tmp_path / "model" / "card.md").read_text()
