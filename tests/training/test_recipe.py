"""Recipes: what `auto` decides and says, what project.yaml overrides, how the learning rate goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from training_set import PROJECT

from olmoearth_core.models import build_encoder
from olmoearth_core.models.lora import add_lora, merge_lora
from olmoearth_core.project import parse_project
from olmoearth_core.training.optimizer import Average, Learned, learning_rate, plateaus
from olmoearth_core.training.recipe import FEW, Facts, Recipe, choose, resolve

ENOUGH = Facts(pretrained=True, windows=10 * FEW, device="cuda", device_seconds=1.0)


def _recipe(facts: Facts = ENOUGH, **training: Any) -> Recipe:
    settings = yaml.safe_load(PROJECT)
    settings["training"] = training
    return resolve(parse_project(yaml.safe_dump(settings)), facts)


@pytest.mark.parametrize(
    ("facts", "recipe", "why"),
    [
        (Facts(False, 10, "cpu", 1e9), "full", "random weights"),
        (Facts(True, FEW - 1, "cuda", 1.0), "head_only", f"only {FEW - 1} labelled windows"),
        (Facts(True, FEW, "cpu", 3600.0), "head_only", "about 40 hours on this CPU"),
        (Facts(True, FEW, "cpu", 1.0), "layer_decay", f"{FEW} labelled windows"),
        (Facts(True, FEW, "cuda", 3600.0), "layer_decay", f"{FEW} labelled windows"),
    ],
)
def test_auto_says_what_it_takes_and_why(facts: Facts, recipe: str, why: str) -> None:
    chosen, reason = choose("auto", facts)
    assert chosen == recipe
    assert why in reason


def test_what_project_yaml_says_is_taken() -> None:
    asked = {"recipe": "lora", "epochs": 7, "learning_rate": 0.5, "batch_size": 6, "at_once": 2, "augment": False}
    recipe = _recipe(**asked)
    assert (recipe.name, recipe.why) == ("lora", "project.yaml asks for it")
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size, recipe.at_once) == (7, 0.5, 6, 2)
    assert recipe.augment.nothing


def test_training_stops_by_itself_where_project_yaml_says_nothing() -> None:
    assert [_recipe(epochs=epochs).patience for epochs in (4, 12, 20, 100)] == [5, 5, 6, 30]
    assert _recipe(epochs=20, patience=2).patience == 2


@pytest.mark.parametrize("name", ["head_only", "freeze_then_unfreeze", "layer_decay", "lora", "full"])
def test_a_recipe_survives_json(name: str) -> None:
    recipe = _recipe(recipe=name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.frozen_epochs == (round(0.3 * recipe.epochs) if name == "freeze_then_unfreeze" else 0)


def test_the_rate_rises_and_falls_along_half_a_cosine() -> None:
    recipe = _recipe(recipe="full", epochs=10, learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(recipe, step, 10, []) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)), abs=0.02)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_the_encoder_learns_at_a_tenth_once_it_is_let_go() -> None:
    recipe = _recipe(recipe="freeze_then_unfreeze", epochs=10, learning_rate=1.0, schedule="plateau", warm_up=0)
    assert [learning_rate(recipe, 5 * epoch, 5, []) for epoch in range(10)] == [1.0] * 3 + [pytest.approx(0.1)] * 7


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40))
def test_plateaus_are_those_of_torch(scores: list[float | None]) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.2, patience=2, threshold=0, min_lr=0
    )
    reference.eps = 0.0
    for score in scores:
        reference.step(-math.inf if score is None else score)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 ** plateaus(scores))


def test_lora_changes_nothing_at_first_and_is_merged_without_a_trace() -> None:
    encoder = build_encoder("v1.1-nano")
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    add_lora(encoder.blocks, 4)  # type: ignore[arg-type]
    assert torch.equal(encoder.blocks[0].mlp.fc1.weight, before["blocks.0.mlp.fc1.weight"])  # type: ignore[index, union-attr]
    learned = [p for p in encoder.blocks.parameters() if p.requires_grad]  # type: ignore[union-attr]
    assert {min(p.shape) for p in learned} == {4}
    with torch.no_grad():
        for parameter in learned:
            parameter.add_(0.1)
    wanted = encoder.blocks[0].mlp.fc1.weight.detach().clone()  # type: ignore[index, union-attr]
    merge_lora(encoder)
    assert encoder.state_dict().keys() == before.keys()
    assert torch.equal(encoder.blocks[0].mlp.fc1.weight, wanted)  # type: ignore[index, union-attr]
    assert not torch.equal(wanted, before["blocks.0.mlp.fc1.weight"])


def test_an_average_follows_and_survives_a_checkpoint() -> None:
    model = torch.nn.Linear(1, 1)
    average = Average(Learned(model), 0.9)
    values = []
    for k in range(200):
        with torch.no_grad():
            model.weight.fill_(float(k >= 100))
        average.update()
        values.append(float(average.weights["weight"]))
    assert values[99] == pytest.approx(0, abs=1e-4)
    assert values[100] == pytest.approx(0.1, abs=1e-3)
    assert values[-1] == pytest.approx(1, abs=1e-4)
    other = Average(Learned(model), 0.9)
    other.unpack(average.pack())
    assert other.steps == 200
    assert torch.equal(other.weights["weight"], average.weights["weight"])


def test_only_weights_that_learn_are_kept() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    model[0].requires_grad_(False)
    learned = Learned(model)
    kept = {name: tensor.clone() for name, tensor in learned.now().items()}
    assert set(kept) == {"1.weight", "1.bias"}
    before = model[0].weight.clone()
    with torch.no_grad():
        model[1].weight.fill_(7)
    learned.put(kept)
    assert torch.equal(model[1].weight, kept["1.weight"])
    assert torch.equal(model[0].weight, before)
