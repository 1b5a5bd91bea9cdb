"""What a frozen encoder saw and keeps: never believed when it was damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from training_set import Notes, stage_run, write_training_set

from olmoearth_core.training.finetune import finetune


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"))


def _flip(content: bytes) -> bytes:
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("features.npy", lambda content: content[: len(content) // 2]),
        ("features.npy", lambda content: content[:50]),
        ("features.npy", _flip),
        ("digests.json", lambda _content: b"[]"),
        ("digests.json", lambda _content: b"{"),
    ],
)
def test_what_is_damaged_is_told_and_seen_again(
    dataset: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    settings = {"recipe": "head_only", "epochs": 1}
    first = stage_run(dataset, tmp_path / "out", training=settings)
    finetune(first)
    weights = (first.out / "weights.safetensors").read_bytes()
    for checkpoint in first.scratch.glob("*.checkpoint"):
        checkpoint.unlink()
    place = first.scratch / "embeddings-train" / name
    place.write_bytes(damage(place.read_bytes()))
    notes = Notes()
    again = stage_run(dataset, tmp_path / "out", notes, training=settings)
    finetune(again)
    assert [told for told in notes.told if name in told and "looks at the windows again" in told]
    assert (again.out / "weights.safetensors").read_bytes() == weights
