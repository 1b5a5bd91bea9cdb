"""A trained model survives its folder bit by bit, and a folder that is not whole is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError, EncoderInputError
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.model_folder import WEIGHTS, load_model, read_card, save_model
from olmoearth_core.models.predictor import Predictor, TrainedModel, build_predictor

BANDS = ["B02", "B03", "B04", "B08"]
Batch = tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]


def _card(**changes: object) -> ModelCard:
    absent = {"pixels": 0, "note": "The split has no labelled pixel."}
    values = {
        "encoder": "v1.1-nano",
        "base": BaseWeights(source="random", licence="none", seed=0),
        "tasks": [TaskCard(classes=["land", "water", "snow"], head=HeadSpec(hidden=8))],
        "bands": {"sentinel2_l2a": BANDS},
        "patch_size": 4,
        "window_size": 16,
        "resolution": 10.0,
        "framing": {"kind": "period", "timesteps": 2},
        "training": {"epochs": 1},
        "dataset": TrainingSet(digest="0" * 64, windows={"train": 1}, pixels={}),
        "scores": {"chosen_by": "nothing", "validation": absent, "test": absent},
        "intended_use": "Tests.",
        "restrictions": [],
    }
    return ModelCard.model_validate(values | changes)


def _predictor(seed: int = 0, **changes: object) -> Predictor:
    return build_predictor(build_encoder("v1.1-nano", seed=seed), _card(**changes), seed=seed).eval()


def _batch(windows: int = 3) -> Batch:
    random = np.random.default_rng(0)
    cube = random.integers(1, 4000, (windows, 2, len(BANDS), 16, 16)).astype(np.uint16)
    dates = np.tile(np.array(["2020-06-16", "2020-07-16"], "datetime64[D]"), (windows, 1))
    return {"sentinel2_l2a": cube}, dates, {"sentinel2_l2a": np.ones((windows, 2, 16, 16), bool)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(path, _predictor(), _card())
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_predictions_are_probabilities_and_the_same_each_time() -> None:
    model = TrainedModel(_card(), _predictor())
    inputs, dates, valid = _batch()
    probabilities = model.predict(inputs, dates, valid)
    assert probabilities.shape == (3, 3, 16, 16)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(probabilities, model.predict(inputs, dates, valid))


def test_a_window_without_a_valid_pixel_is_uniform_and_harms_no_other() -> None:
    model = TrainedModel(_card(), _predictor())
    inputs, dates, valid = _batch()
    alone = model.predict(inputs, dates, valid)
    valid["sentinel2_l2a"][1] = False
    beside = model.predict(inputs, dates, valid)
    assert (beside[1] == np.float32(1 / 3)).all()
    assert np.allclose(beside[[0, 2]], alone[[0, 2]], atol=1e-5)
    valid["sentinel2_l2a"][:] = False
    assert (model.predict(inputs, dates, valid) == np.float32(1 / 3)).all()


def test_a_batch_with_valid_pixels_but_no_token_is_finite() -> None:
    inputs, dates, valid = _batch(1)
    valid["sentinel2_l2a"][:] = False
    valid["sentinel2_l2a"][0, 0, 1, 1] = True  # a patch counts by its upper left pixel only
    assert np.isfinite(TrainedModel(_card(), _predictor()).predict(inputs, dates, valid)).all()


def test_wrong_inputs_are_refused() -> None:
    inputs, dates, valid = _batch()
    short = {"sentinel2_l2a": inputs["sentinel2_l2a"][:, :, :3]}
    with pytest.raises(EncoderInputError, match="3 channels"):
        TrainedModel(_card(), _predictor()).predict(short, dates, valid)


def test_the_head_depends_on_the_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = _predictor(0), _predictor(0), _predictor(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.heads["main"].spread.weight, again.heads["main"].spread.weight)
    assert not torch.equal(first.heads["main"].spread.weight, other.heads["main"].spread.weight)


def test_a_task_may_have_any_name_that_project_yaml_allows(tmp_path: Path) -> None:
    """Also one that torch has a use of its own for."""
    cards = [TaskCard(name=name, classes=["land", "water"]) for name in ("values", "type", "training", "main")]
    card = _card().model_copy(update={"tasks": cards})
    predictor = build_predictor(build_encoder(card.encoder), card)
    save_model(tmp_path, predictor, card)
    loaded = load_model(tmp_path, device="cpu", precision="fp32").predictor
    inputs, dates, valid = _batch()
    with torch.inference_mode():
        before, after = predictor.eval()(inputs, dates, valid), loaded(inputs, dates, valid)
    assert list(before) == ["values", "type", "training", "main"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_saved_model_predicts_the_same_bits(folder: Path) -> None:
    loaded = load_model(folder, device="cpu", precision="fp32")
    batch = _batch()
    assert np.array_equal(loaded.predict(*batch), TrainedModel(_card(), _predictor()).predict(*batch))
    assert loaded.card.weights_sha256 == sha256_file(folder / WEIGHTS)
    assert loaded.card.classes == ["land", "water", "snow"]


def test_bf16_is_near_fp32(folder: Path) -> None:
    loaded = load_model(folder, device="cpu", precision="bf16")
    assert loaded.predictor.encoder.precision == "bf16"
    exact = load_model(folder, device="cpu", precision="fp32")
    assert np.allclose(loaded.predict(*_batch()), exact.predict(*_batch()), atol=0.03)


def test_equal_models_give_equal_files(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path, _predictor(), _card())
    for file in sorted(folder.iterdir()):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_the_card_says_to_people_what_the_weights_are(folder: Path) -> None:
    text = (folder / "card.md").read_text()
    assert "random weights, seed 0; the encoder was not pretrained" in text
    assert sha256_file(folder / WEIGHTS) in text


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:1000], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b + b"more"],
    ids=["truncated", "empty", "one bit", "longer"],
)
def test_damaged_weights_are_refused(copy: Path, damage: Callable[[bytes], bytes]) -> None:
    weights = copy / WEIGHTS
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: sha256 .* the card says"):
        load_model(copy, device="cpu")


def _resign(folder: Path) -> None:
    """Make the card agree with the weights as they are."""
    values = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(values | {"weights_sha256": sha256_file(folder / WEIGHTS)}))


def test_weights_that_do_not_fit_are_refused_by_the_name_of_the_key(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    cases = {
        r"lacks 'heads\.main\.score\.bias'": {k: v for k, v in weights.items() if k != "heads.main.score.bias"},
        r"holds 'heads\.main\.extra'": weights | {"heads.main.extra": torch.zeros(1)},
        r"'heads\.main\.score\.bias' has shape \(4,\); the card's model needs \(3,\)": weights
        | {"heads.main.score.bias": torch.zeros(4)},
    }
    for message, changed in cases.items():
        save_file(changed, copy / WEIGHTS)
        _resign(copy)
        with pytest.raises(CheckpointError, match=message):
            load_model(copy, device="cpu")


def test_what_is_no_safetensors_file_is_refused(copy: Path) -> None:
    (copy / WEIGHTS).write_bytes(b"rubbish " * 100)
    _resign(copy)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(copy, device="cpu")


def test_missing_files_are_named(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be read"):
        load_model(copy, device="cpu")
    (copy / "card.json").unlink()
    with pytest.raises(CheckpointError, match=r"card\.json: no such file"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1}', "schema_version 1; this version of the platform reads 2"),
        ("[]", "schema_version None"),
        ("{", "not readable as JSON"),
        ('{"schema_version": 2, "encoder": "v1.1-nano"}', "not a whole model card .*tasks: Field required"),
    ],
)
def test_a_card_that_cannot_be_used_is_refused(copy: Path, text: str, message: str) -> None:
    (copy / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_card(copy)


MEASURED = TaskCard(name="cover", kind="regression", unit="%", range=(0.0, 100.0), head=HeadSpec(kind="unet", hidden=8))
EVENT = TaskCard(name="event", kind="classification", classes=["fire", "flood"], head=HeadSpec(kind="pool", hidden=8))


def test_a_regression_stays_within_its_range_and_says_the_middle_where_it_sees_nothing() -> None:
    model = TrainedModel(_card(tasks=[MEASURED]), _predictor(tasks=[MEASURED]))
    with torch.no_grad():
        model.predictor.heads["cover"].score.weight.mul_(100)
    inputs, dates, valid = _batch()
    valid["sentinel2_l2a"][1] = False
    estimates = model.predict(inputs, dates, valid)
    assert estimates.shape == (3, 1, 16, 16)
    assert estimates.min() >= 0
    assert estimates.max() <= 100
    assert estimates[0].std() > 1
    assert (estimates[1] == 50).all()


def test_a_classification_says_the_same_of_all_pixels_of_a_window() -> None:
    model = TrainedModel(_card(tasks=[EVENT]), _predictor(tasks=[EVENT]))
    said = model.predict(*_batch())
    assert said.shape == (3, 2, 16, 16)
    assert (said == said[:, :, :1, :1]).all()
    assert np.allclose(said.sum(axis=1), 1, atol=1e-5)


def test_a_temperature_makes_probabilities_softer_and_changes_no_class() -> None:
    plain = TrainedModel(_card(), _predictor())
    soft = TrainedModel(_card(tasks=[_card().main.model_copy(update={"temperature": 3.0})]), _predictor())
    sharp, mild = plain.predict(*_batch()), soft.predict(*_batch())
    assert mild.max() < sharp.max()
    assert np.array_equal(sharp.argmax(axis=1), mild.argmax(axis=1))


def test_several_tasks_share_an_encoder_and_survive_the_folder(tmp_path: Path) -> None:
    card = _card(tasks=[MEASURED, EVENT, _card().main])
    predictor = build_predictor(build_encoder("v1.1-nano"), card).eval()
    save_model(tmp_path, predictor, card)
    loaded = load_model(tmp_path, device="cpu", precision="fp32").predictor
    with torch.inference_mode():
        before, after = predictor(*_batch()), loaded(*_batch())
    assert {name: tuple(said.shape) for name, said in after.items()} == {
        "cover": (3, 1, 16, 16),
        "event": (3, 2, 1, 1),
        "main": (3, 3, 16, 16),
    }
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (100_000, r"'heads\.main\.score\.weight' has shape \(3, 8, 1, 1\); the card's model needs \(3, 100000, 1, 1\)"),
        (
            1e9,
            r"has shape .*; the card's model needs .*1000000000|heads that no computer can hold \(upsample of 1e\+09",
        ),
        (10**30, r"heads that no computer can hold \(upsample of 1e\+30 channels; patch_size 4\)"),
    ],
)
def test_an_absurd_head_is_refused_before_memory_is_asked_for(
    copy: Path, hidden: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest of these would be hundreds of GB of weights, were they made."""
    made: list[torch.Tensor] = []
    real = torch.nn.Conv2d.reset_parameters

    def watched(self: torch.nn.Conv2d) -> None:
        made.append(self.weight)
        real(self)

    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", watched)
    values = json.loads((copy / "card.json").read_text())
    values["tasks"][0]["head"]["hidden"] = hidden
    (copy / "card.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(copy, device="cpu")
    assert "\n" not in str(caught.value)
    assert all(weight.is_meta for weight in made if weight.numel() > 2**24)
