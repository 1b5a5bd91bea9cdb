"""Inputs and checkpoints that the encoder tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import official_model, write_official

from olmoearth_core.models import load_encoder
from olmoearth_core.models.encoder import Encoder

Pair = tuple[Any, Encoder]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Pair]]:
    """By name: the official model with random weights, and ours, loaded from what it wrote. Keeps the latest only."""
    kept: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in kept:
            kept.clear()
            model = official_model(name)
            folder: Path = write_official(tmp_path_factory.mktemp(name), name, model)
            kept[name] = (model, load_encoder(str(folder), precision="fp32", device="cpu"))
        return kept[name]

    yield make
    kept.clear()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the official v1.1-nano is published, with random weights; not to be changed."""
    return write_official(tmp_path_factory.mktemp("published"), "v1.1-nano", official_model("v1.1-nano"))


@pytest.fixture(autouse=True)
def _two_threads_at_most() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
