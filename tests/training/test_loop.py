"""The loop: a step is the same in parts, after a lack of memory, and in two processes; recipes train what they say."""

from __future__ import annotations

import gc
import itertools
import json
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_set import Notes, only, stage_run, write_training_set

from olmoearth_core.errors import TrainingError
from olmoearth_core.models import build_encoder, save_encoder
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.origin import Origin
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.models.transformer import chances
from olmoearth_core.project import AugmentConfig
from olmoearth_core.stage import StageRun
from olmoearth_core.training import augment, loop, step
from olmoearth_core.training.finetune import finetune
from olmoearth_core.training.loop import Judgement, State
from olmoearth_core.training.memory import out_of_memory
from olmoearth_core.training.optimizer import Learned
from olmoearth_core.training.parallel import LEADER_MAY_TAKE, torchrun_group
from olmoearth_core.training.worker import PROCESSES, _Heard, run_workers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"))


def _weights(run: StageRun) -> dict[str, torch.Tensor]:
    return load_file(run.out / "weights.safetensors")


def _differ(one: StageRun, other: StageRun) -> float:
    first, second = _weights(one), _weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def _trained(dataset: Path, out: Path, notes: Notes | None = None, **training: Any) -> StageRun:
    run = stage_run(dataset, out, notes, training={"epochs": 2, **training})
    finetune(run)
    return run


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return _trained(dataset, tmp_path_factory.mktemp("whole") / "out")


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_step_in_parts_is_the_same_step(whole: StageRun, dataset: Path, tmp_path: Path, at_once: int) -> None:
    assert _differ(whole, _trained(dataset, tmp_path / "out", at_once=at_once)) < 1e-5


@pytest.mark.parametrize("loss", ["dice", "focal"])
def test_a_step_in_parts_is_the_same_step_for_every_loss(dataset: Path, tmp_path: Path, loss: str) -> None:
    asked: dict[str, Any] = {"loss": loss, "class_weights": "balanced", "epochs": 1}
    one = _trained(dataset, tmp_path / "one", **asked)
    assert _differ(one, _trained(dataset, tmp_path / "parts", at_once=1, **asked)) < 1e-5


IN_A_WORKER = """
import os
if os.environ.get("RANK") == "1":
    import os, signal, torch
    from olmoearth_core.errors import TrainingError
    from olmoearth_core.training import step
    real = step.forward
    def forward(model, batch):
        if model.training:
            {body}
        return real(model, batch)
    step.forward = forward
"""
"""Python runs a module of the name sitecustomize when it starts."""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Two processes train; what is given happens in the second one whenever it is about to compute."""
    monkeypatch.setenv(PROCESSES, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))

    def happens(body: str) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(IN_A_WORKER.format(body=body))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return happens


def _models_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Predictor) for thing in gc.get_objects())


def test_two_processes_give_the_weights_of_one(
    whole: StageRun, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: Callable[[str], None]
) -> None:
    """Though in the second of them memory lasts for one window only, which is told. The stage holds no model then."""
    two("if len(batch) > 1: raise torch.OutOfMemoryError('CUDA out of memory')")
    before, while_training = _models_alive(), []

    def counted(run: StageRun, count: int) -> None:
        while_training.append(_models_alive())
        run_workers(run, count)

    monkeypatch.setattr("olmoearth_core.training.finetune.run_workers", counted)
    notes = Notes()
    both = _trained(dataset, tmp_path / "out", notes)
    assert while_training == [before]
    assert sum("1 windows are computed at once from here on" in told for told in notes.told) == 1
    assert any("Going on after epoch 2" in told for told in notes.told)  # the processes had trained it to the end
    assert _differ(whole, both) < 1e-5
    history = [json.loads((run.out / "history.json").read_text()) for run in (whole, both)]
    for alone, shared in zip(*history, strict=True):
        assert shared["training_loss"] == pytest.approx(alone["training_loss"], abs=1e-5)
    assert both.meter.device_seconds > 0.1  # theirs, by the checkpoint they left


def test_what_goes_wrong_in_one_process_names_it(dataset: Path, tmp_path: Path, two: Callable[[str], None]) -> None:
    two("raise TrainingError('A single window does not fit.')")
    with pytest.raises(TrainingError, match=r"^Training process 2 of 2 \(rank 1\): A single window does not fit\.$"):
        run_workers(stage_run(dataset, tmp_path / "out"), 2)


def test_a_process_that_is_killed_is_named(dataset: Path, tmp_path: Path, two: Callable[[str], None]) -> None:
    two("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(TrainingError, match=r"^Training process 2 of 2 \(rank 1\) was killed by signal SIGKILL"):
        run_workers(stage_run(dataset, tmp_path / "out"), 2)


def test_what_all_processes_say_is_told_once(dataset: Path, tmp_path: Path) -> None:
    notes, steps = Notes(), list[int]()
    heard = _Heard(stage_run(dataset, tmp_path / "out", notes))
    for told in ({"note": "a"}, {"note": "b"}, {"note": "a"}, {"steps": 2}):
        heard(json.dumps(told), steps.append)
    heard("a library's own word", steps.append)
    assert (notes.told, steps) == (["a", "b"], [2])
    heard(json.dumps({"error": "rank 0 lost sight of rank 1", "unexpected": True}), steps.append)
    heard(json.dumps({"error": "rank 1 diverged", "unexpected": False}), steps.append)
    assert heard.error == "rank 1 diverged"


def test_processes_wait_for_a_leader_that_judges_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    with torchrun_group() as group:
        waits = torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout
        assert (group.size, waits) == (1, LEADER_MAY_TAKE)
    assert waits > timedelta(hours=12)


def test_what_every_process_refuses_is_told(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path / "dataset", lambda _split, sample: only(sample, 1))
    with pytest.raises(TrainingError, match=r"^The 8 training windows hold the class 'water' only"):
        run_workers(stage_run(dataset, tmp_path / "out"), 2)


@pytest.mark.parametrize("asked", ["two", "0", "²"])
def test_a_number_of_processes_that_is_none_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv(PROCESSES, asked)
    with pytest.raises(TrainingError, match=f"{PROCESSES} is '{asked}'"):
        _trained(dataset, tmp_path / "out")


def _short_of_memory(fits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, more than `fits` windows at once do not fit the memory."""
    real = step.forward

    def forward(model: Any, batch: Any) -> Any:
        if model.training and len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch)

    monkeypatch.setattr(step, "forward", forward)


def test_a_batch_larger_than_memory_is_halved_and_that_is_said(
    whole: StageRun, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _short_of_memory(1, monkeypatch)
    notes = Notes()
    halved = _trained(dataset, tmp_path / "out", notes)
    told = [note for note in notes.told if "computed at once from here on" in note]
    assert ["2 windows" in told[0], "1 windows" in told[1], len(told)] == [True, True, 2]
    assert _differ(whole, halved) < 1e-5


@pytest.mark.parametrize(
    "said",
    ["could not create a primitive", "std::bad_alloc", "DefaultCPUAllocator: can't allocate memory"],
)
def test_a_cpu_without_memory_is_understood(said: str) -> None:
    assert out_of_memory(RuntimeError(said))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_window_larger_than_memory_is_refused_with_what_to_do(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _short_of_memory(0, monkeypatch)
    with pytest.raises(TrainingError, match=r"single window does not fit.*training\.checkpointing"):
        _trained(dataset, tmp_path / "out")


def test_checkpointing_changes_nothing_but_memory(whole: StageRun, dataset: Path, tmp_path: Path) -> None:
    assert _differ(whole, _trained(dataset, tmp_path / "out", checkpointing=True)) < 1e-6


def _pretrained(folder: Path) -> Encoder:
    encoder = build_encoder("v1.1-nano", seed=7)
    encoder.origin = Origin(source="hf://somewhere", sha256="0" * 64, licence="free")
    save_encoder(encoder, folder)
    return encoder


def _moved(run: StageRun, encoder: Encoder) -> set[str]:
    """Parts of the encoder that training moved."""
    trained = _weights(run)
    return {
        name.split(".")[0]
        for name, before in encoder.state_dict().items()
        if not torch.equal(trained[f"encoder.{name}"], before)
    }


@pytest.mark.parametrize(
    ("recipe", "moved"),
    [
        ("head_only", set()),
        ("lora", {"blocks"}),
        ("layer_decay", {"tokenizer", "blocks", "norm"}),
        ("freeze_then_unfreeze", {"tokenizer", "blocks", "norm"}),
        ("full", {"tokenizer", "blocks", "norm"}),
    ],
)
def test_a_recipe_trains_what_it_says_and_is_resumed_to_the_same_bits(
    dataset: Path, tmp_path: Path, recipe: str, moved: set[str]
) -> None:
    encoder = _pretrained(tmp_path / "base")
    settings = {"recipe": recipe, "epochs": 3, "batch_size": 4, "ema": 0.5}
    run = stage_run(dataset, tmp_path / "out", model={"weights": "base"}, training=settings)
    finetune(run)
    assert _moved(run, encoder) == moved
    before = (run.out / "weights.safetensors").read_bytes()
    newest = max(run.scratch.glob("*.checkpoint"))
    newest.unlink()  # as if it had been killed in the last epoch
    again = stage_run(dataset, tmp_path / "out", Notes(), model={"weights": "base"}, training=settings)
    finetune(again)
    assert any("Going on after epoch 2" in told for told in again.progress.told)  # type: ignore[attr-defined]
    assert (run.out / "weights.safetensors").read_bytes() == before


def test_layers_learn_more_slowly_the_lower_they_are(dataset: Path, tmp_path: Path) -> None:
    encoder = _pretrained(tmp_path / "base")
    settings = {"recipe": "layer_decay", "epochs": 1, "batch_size": 8, "layer_decay": 0.2, "weight_decay": 0.0}
    run = stage_run(dataset, tmp_path / "out", model={"weights": "base"}, training=settings)
    finetune(run)
    trained, before = _weights(run), encoder.state_dict()
    names = [f"blocks.{k}.mlp.fc1.weight" for k in range(4)]
    steps = [float((trained[f"encoder.{name}"] - before[name]).abs().median()) for name in names]
    assert [round(b / a) for a, b in itertools.pairwise(steps)] == [5, 5, 5]  # Adam's first step is the rate


def test_the_card_says_which_recipe_and_why(dataset: Path, tmp_path: Path) -> None:
    run = stage_run(dataset, tmp_path / "out", Notes(), training={"epochs": 1})
    summary = finetune(run)
    assert "Recipe: full; the encoder has random weights" in "\n".join(run.progress.told)  # type: ignore[attr-defined]
    assert summary["recipe"].startswith("full: the encoder has random weights")
    card = json.loads((run.out / "card.json").read_text())
    assert card["training"]["name"] == "full"
    assert card["training"]["learning_rate"] == 3e-3


def test_training_stops_when_validation_gets_no_better(dataset: Path, tmp_path: Path) -> None:
    notes = Notes()
    run = stage_run(dataset, tmp_path / "out", notes, training={"epochs": 40, "patience": 1, "learning_rate": 1e-12})
    assert finetune(run)["epochs"] == 2
    epochs = [told for told in notes.told if told.startswith("Epoch ")]
    assert [told.split(":")[0] for told in epochs] == ["Epoch 1 of 40", "Epoch 2 of 40"]
    assert "training loss" in epochs[0]
    assert ", validation mIoU 0." in epochs[0]
    assert "training stopped" in json.loads((run.out / "metrics.json").read_text())["chosen_by"]


def test_the_time_of_waiting_is_measured(whole: StageRun) -> None:
    assert 0 < whole.meter.waiting_seconds < 60


def test_the_averaged_weights_are_judged_and_kept(dataset: Path, tmp_path: Path) -> None:
    """Of an average that never forgets, the kept weights move by a fraction of what the weights themselves move."""
    moved = []
    for ema in (0.0, 0.999):
        run = stage_run(dataset, tmp_path / f"out{ema}", training={"epochs": 1, "ema": ema})
        finetune(run)
        start = build_encoder("v1.1-nano", seed=0).state_dict()
        weights = _weights(run)
        moved.append(sum(float((weights[f"encoder.{n}"] - start[n]).abs().sum()) for n in start))
    assert 0 < moved[1] < 0.9 * moved[0]


def test_a_tie_keeps_the_earlier_epoch() -> None:
    state, model = State(), torch.nn.Linear(1, 1)
    recipe = type("R", (), {"patience": None, "frozen_epochs": 0})()
    for headline in (0.5, 0.5, 0.4):
        loop._record(state, Learned(model), 1.0, Judgement(headline, {}), recipe)
    assert state.best_epoch == 1
    assert [entry["headline"] for entry in state.history] == [0.5, 0.5, 0.4]


def test_what_a_window_is_without_does_not_follow_from_how_it_is_turned() -> None:
    """Both are drawn by the window's seed, from streams of their own."""
    seeds = range(2000)
    views = np.array([augment.drawn_view(AugmentConfig(), np.random.default_rng(seed)) for seed in seeds])
    dropped = (chances(seeds, 1, torch.device("cpu"))[0, 0] < 0.1).numpy()
    shares = [dropped[views == view].mean() for view in range(augment.VIEWS)]
    assert max(shares) - min(shares) < 0.08


@pytest.mark.parametrize("recipe", ["head_only", "full"])
def test_memory_that_does_not_last_for_looking_or_judging_is_no_end(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    real = Predictor.look

    def look(self: Predictor, inputs: Any, dates: Any, valid: Any, seeds: Any = None, **more: Any) -> Any:
        if len(dates) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, inputs, dates, valid, seeds, **more)

    _pretrained(tmp_path / "base")
    settings = {"recipe": recipe, "epochs": 1}
    whole = stage_run(dataset, tmp_path / "whole", model={"weights": "base"}, training=settings)
    finetune(whole)
    monkeypatch.setattr(Predictor, "look", look)
    short = stage_run(dataset, tmp_path / "short", model={"weights": "base"}, training=settings)
    finetune(short)
    assert _differ(whole, short) < 1e-5


def test_patience_begins_when_the_encoder_is_let_go() -> None:
    state, model = State(), torch.nn.Linear(1, 1)
    recipe = type("R", (), {"patience": 1, "frozen_epochs": 3})()
    stopped = []
    for headline in (0.5, 0.4, 0.4, 0.4, 0.6):
        loop._record(state, Learned(model), 1.0, Judgement(headline, {}), recipe)
        stopped.append(state.stopped)
    assert stopped[:4] == [False, False, False, True]
