"""Checkpoints: what was saved comes back, what is damaged is told and passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from olmoearth_core.training.checkpoint import load_checkpoint, save_checkpoint


def _save(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        save_checkpoint(folder, epoch, {"epoch": epoch, "weights": torch.arange(5.0) * epoch})


def test_the_newest_comes_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3)
    assert len(list(tmp_path.iterdir())) == 2
    state = load_checkpoint(tmp_path, pytest.fail)
    assert state is not None
    assert state["epoch"] == 3
    assert torch.equal(state["weights"], torch.arange(5.0) * 3)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-9] + b"x" + b[-8:], lambda _b: b""])
def test_a_damaged_one_is_told_and_the_one_before_is_used(tmp_path: Path, damage) -> None:
    _save(tmp_path, 1, 2)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    told: list[str] = []
    state = load_checkpoint(tmp_path, told.append)
    assert state is not None
    assert state["epoch"] == 1
    assert newest.name in told[0]
    assert "damaged" in told[0]


def test_nothing_good_is_nothing(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    next(tmp_path.iterdir()).write_bytes(b"rubbish")
    assert load_checkpoint(tmp_path, lambda _message: None) is None
    assert load_checkpoint(tmp_path / "empty", pytest.fail) is None
