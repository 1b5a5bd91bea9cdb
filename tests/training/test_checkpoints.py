"""Checkpoints: what was saved comes back, what is damaged is told and passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from olmoearth_core.training.checkpoint import load_checkpoint, save_checkpoint


def _save(folder: Path, *epochs: int, run_key: str = "ours") -> None:
    for epoch in epochs:
        save_checkpoint(folder, epoch, {"run_key": run_key, "epoch": epoch, "weights": torch.arange(5.0) * epoch})


def test_the_newest_comes_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3)
    assert len(list(tmp_path.iterdir())) == 2
    state = load_checkpoint(tmp_path, pytest.fail, "ours")
    assert state is not None
    assert state["epoch"] == 3
    assert torch.equal(state["weights"], torch.arange(5.0) * 3)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-9] + b"x" + b[-8:], lambda _b: b""])
def test_a_damaged_one_is_told_and_the_one_before_is_used(tmp_path: Path, damage) -> None:
    _save(tmp_path, 1, 2)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    told: list[str] = []
    state = load_checkpoint(tmp_path, told.append, "ours")
    assert state is not None
    assert state["epoch"] == 1
    assert newest.name in told[0]
    assert "damaged" in told[0]


def test_nothing_good_is_nothing(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    next(tmp_path.iterdir()).write_bytes(b"rubbish")
    assert load_checkpoint(tmp_path, lambda _message: None, "ours") is None
    assert load_checkpoint(tmp_path / "empty", pytest.fail, "ours") is None


def test_one_of_another_training_is_told_and_does_not_push_ours_out(tmp_path: Path) -> None:
    _save(tmp_path, 50, 51, run_key="theirs")
    told: list[str] = []
    assert load_checkpoint(tmp_path, told.append, "ours") is None
    assert [("another training" in line) for line in told] == [True, True]
    _save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.checkpoint"]
    state = load_checkpoint(tmp_path, pytest.fail, "ours")
    assert state is not None
    assert state["epoch"] == 1
