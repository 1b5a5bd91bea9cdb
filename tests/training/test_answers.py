"""What a model says of windows: every task in one look of the encoder, no more in memory than a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from training_set import BANDS, shore_sample

from olmoearth_core.dataset.cubes import Sample, Truth
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import HeadSpec, TaskCard
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.training.data import Windows
from olmoearth_core.training.predictions import answers

TASKS = {
    "main": TaskCard(classes=["land", "water"]),
    "depth": TaskCard(name="depth", kind="regression", unit="m", range=(0, 10)),
    "scene": TaskCard(name="scene", kind="classification", classes=["land", "water"], head=HeadSpec(kind="pool")),
}


def _samples(rows: Sequence[int]) -> list[Sample]:
    found = []
    for row in rows:
        sample = shore_sample(row)
        depth = np.where(sample.target == 1, np.float32(row), np.float32(0))
        truths = {"depth": Truth(sample.target, depth), "scene": Truth(np.full_like(sample.target, row % 2))}
        found.append(replace(sample, truths=sample.truths | truths))
    return found


def test_the_encoder_looks_once_at_a_window_whatever_the_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Predictor(
        build_encoder("v1.1-nano"),
        list(TASKS.values()),
        bands={"sentinel2_l2a": BANDS},
        timesteps=2,
        patch_size=4,
        resolution=10.0,
    )
    windows = Windows(_samples, TASKS, np.arange(5), {}, 0, 0)
    looks: list[int] = []
    real = Predictor.look

    def look(self: Predictor, inputs: Any, dates: Any, valid: Any, seeds: Any = None, **more: Any) -> Any:
        looks.append(len(dates))
        return real(self, inputs, dates, valid, seeds, **more)

    monkeypatch.setattr(Predictor, "look", look)
    said = list(answers(model, windows, 2))
    assert looks == [2, 2, 1]
    assert [tuple(part) for part in said] == [tuple(TASKS)] * 3
    assert [part["main"].scores.shape for part in said] == [(2, 2, 16, 16), (2, 2, 16, 16), (1, 2, 16, 16)]
    assert [part["scene"].scores.shape[1:] for part in said] == [(2, 1, 1)] * 3
    whole = windows.batch(np.arange(5))
    with torch.inference_mode():
        expected = model(whole.inputs, whole.dates, whole.valid)
    for name, task in TASKS.items():
        found = np.concatenate([part[name].scores for part in said])
        np.testing.assert_allclose(found, task.within_range(expected[name]).numpy(), atol=1e-5)
        truths = np.concatenate([part[name].strata for part in said])
        np.testing.assert_array_equal(truths, whole.truths[name].strata)
