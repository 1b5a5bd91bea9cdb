"""The stage finetune on a small real training set: what it leaves, what it refuses, and how it survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_set import SHORE, Notes, only, shore_sample, stage_run, unlabelled, write_training_set

from olmoearth_core.dataset.cubes import Sample, TaskLayout, Truth
from olmoearth_core.dataset.dataset import open_dataset
from olmoearth_core.errors import CheckpointError, TrainingError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.manifest import SCRATCH
from olmoearth_core.models import build_encoder, save_encoder
from olmoearth_core.models.card import TaskCard
from olmoearth_core.models.model_folder import WEIGHTS, load_model
from olmoearth_core.models.origin import Origin
from olmoearth_core.project import AuxiliaryConfig, Project, TaskConfig
from olmoearth_core.stage import StageRun
from olmoearth_core.training.data import Windows
from olmoearth_core.training.finetune import class_doubts, finetune
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.setup import prepare
from olmoearth_core.training.tally import tally
from olmoearth_core.training.usable import usable_windows

OUTPUTS = [
    "card.json",
    "card.md",
    "confusion.png",
    "history.json",
    "metrics.json",
    "reliability.png",
    "report.html",
    "weights.safetensors",
    "worst.png",
]


def _contents(run: StageRun) -> dict[str, bytes]:
    return {name: (run.out / name).read_bytes() for name in OUTPUTS}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    run = stage_run(dataset, tmp_path_factory.mktemp("trained") / "out", Notes())
    finetune(run)
    return run


def test_it_leaves_a_model_that_has_learned(dataset: Path, tmp_path: Path) -> None:
    run = stage_run(dataset, tmp_path / "out", training={"epochs": 8, "batch_size": 1})
    summary = finetune(run)
    assert summary["test"]["miou"] > 0.8
    model = load_model(run.out, device="cpu", precision="fp32")
    sample = shore_sample(99)
    inputs = {m: cube[None] for m, cube in sample.inputs.items()}
    predicted = model.predict(inputs, sample.dates[None], {m: v[None] for m, v in sample.valid.items()}).argmax(axis=1)
    assert (predicted[0] == sample.target).mean() > 0.9


def test_log_and_card_say_that_the_weights_are_random(trained: StageRun) -> None:
    said = "random weights, seed 0; the encoder was not pretrained"
    assert any(said in told for told in trained.progress.told)  # type: ignore[attr-defined]
    assert said in (trained.out / "card.md").read_text()
    card = json.loads((trained.out / "card.json").read_text())
    assert card["base"]["source"] == "random"
    assert card["dataset"]["digest"] == trained.upstream["preprocess"].manifest.outputs_digest
    assert card["dataset"]["windows"] == {"train": 8, "validation": 3, "test": 3}


def test_the_history_has_every_epoch_and_the_best_is_kept(trained: StageRun) -> None:
    history = json.loads((trained.out / "history.json").read_text())
    metrics = json.loads((trained.out / "metrics.json").read_text())
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    scores = [entry["validation"]["miou"] for entry in history]
    assert metrics["best_epoch"] == 1 + int(np.argmax(scores))
    assert metrics["validation"]["miou"] == pytest.approx(max(scores), abs=0.05)  # judged in another precision perhaps
    assert np.array(metrics["test"]["confusion"]).sum() == metrics["test"]["pixels"] == 3 * 256


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_scores_are_those_of_the_model_that_maps(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("olmoearth_core.models.model_folder.resolve_precision", lambda _asked, _device: precision)
    run = stage_run(dataset, tmp_path / "out", training={"epochs": 1})
    finetune(run)
    metrics = json.loads((run.out / "metrics.json").read_text())
    card = json.loads((run.out / "card.json").read_text())
    assert card["scores"] == metrics
    assert metrics["precision"] == precision
    assert f"loaded for mapping, in {precision}." in (run.out / "card.md").read_text()
    trained = load_model(run.out)
    opened = open_dataset(dataset)
    windows = usable_windows(opened, {"main": trained.card.main}, Notes(), run.meter)["test"]
    said = answers_to("main", trained.predictor, windows, 4)
    judged = tally(said, opened.tasks["main"], trained.card.main.temperature).scores()
    assert trained.predictor.encoder.precision == precision
    assert metrics["test"]["log_loss"] == judged["log_loss"]  # to the last digit
    assert metrics["test"]["confusion"] == judged["confusion"]


def test_outputs_of_a_whole_run_that_lie_there_change_nothing(trained: StageRun, dataset: Path, tmp_path: Path) -> None:
    run = stage_run(dataset, tmp_path / "out")
    shutil.copytree(trained.out, run.out, ignore=shutil.ignore_patterns(SCRATCH, WEIGHTS))
    (run.out / "metrics.json").write_text("{}")
    finetune(run)
    assert _contents(run) == _contents(trained)


def test_the_card_says_that_held_out_blocks_touch(trained: StageRun) -> None:
    limits = (trained.out / "card.md").read_text().partition("## Restrictions")[2]
    assert "Neighbouring blocks touch, with no buffer" in limits
    assert "crosses a block's border trains on one side and tests on the other" in limits


def test_time_on_the_device_is_counted(trained: StageRun) -> None:
    assert trained.meter.device_seconds > 0
    assert trained.meter.bytes_read > 14 * 2 * 4 * 256 * 2


def test_the_same_training_gives_the_same_bytes_and_leaves_the_global_generator_alone(
    trained: StageRun, dataset: Path, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    run = stage_run(dataset, tmp_path / "out")
    finetune(run)
    assert torch.equal(before, torch.get_rng_state())
    assert _contents(run) == _contents(trained)


def test_another_seed_gives_another_model(trained: StageRun, dataset: Path, tmp_path: Path) -> None:
    run = stage_run(dataset, tmp_path / "out", training={"seed": 1})
    finetune(run)
    assert _contents(run)["weights.safetensors"] != _contents(trained)["weights.safetensors"]


def test_a_checkpoint_is_named_with_its_licence_and_its_restrictions_travel_along(
    dataset: Path, tmp_path: Path
) -> None:
    encoder = build_encoder("v1.1-nano", seed=5)
    encoder.origin = Origin("hf://some/where", "abc", "1" * 64, "Some Licence", ("No surveillance.",))
    save_encoder(encoder, tmp_path / "base")
    notes = Notes()
    run = stage_run(
        dataset, tmp_path / "out", notes, model={"weights": "base"}, training={"epochs": 1, "learning_rate": 1e-12}
    )
    finetune(run)
    text = (run.out / "card.md").read_text()
    said = f"checkpoint hf://some/where, revision abc, sha256 {'1' * 64}, licence: Some Licence"
    assert any(said in told for told in notes.told)
    assert said in text
    assert "- No surveillance." in text
    assert not any(str(tmp_path).encode() in (run.out / name).read_bytes() for name in OUTPUTS)
    trained = load_file(run.out / WEIGHTS)  # the steps were too small to move away from the checkpoint
    assert all(torch.allclose(trained[f"encoder.{k}"], v, atol=1e-6) for k, v in encoder.state_dict().items())


def test_a_checkpoint_of_another_encoder_is_refused(dataset: Path, tmp_path: Path) -> None:
    save_encoder(build_encoder("v1-nano"), tmp_path / "base")
    with pytest.raises(
        CheckpointError, match=r"^model\.weights: base holds v1-nano, but v1\.1-nano \(model\.encoder\) was asked for"
    ):
        finetune(stage_run(dataset, tmp_path / "out", model={"weights": "base"}))


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from training_set import Notes, stage_run
from olmoearth_core.training.finetune import finetune

class Killer(Notes):
    @contextmanager
    def bar(self, what, total=None):
        done = 0
        def advance(steps):
            nonlocal done
            done += steps
            if what == "training" and done == 3:  # the first of two steps of epoch 2
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

finetune(stage_run(Path(sys.argv[1]), Path(sys.argv[2]), Killer()))
"""


def _killed_in_epoch_2(dataset: Path, out: Path) -> None:
    threads = str(torch.get_num_threads())
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", KILLED, str(dataset), str(out)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL


def test_killed_in_epoch_2_and_run_again_it_ends_with_the_same_bits(
    trained: StageRun, dataset: Path, tmp_path: Path
) -> None:
    _killed_in_epoch_2(dataset, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))
    notes = Notes()
    run = stage_run(dataset, tmp_path / "out", notes)
    finetune(run)
    assert any("Going on after epoch 1" in told for told in notes.told)
    assert _contents(run) == _contents(trained)


def test_killed_after_the_last_epoch_nothing_is_trained_again(trained: StageRun, dataset: Path, tmp_path: Path) -> None:
    first = stage_run(dataset, tmp_path / "out")
    finetune(first)
    for name in OUTPUTS:
        (first.out / name).unlink()
    notes = Notes()
    again = stage_run(dataset, tmp_path / "out", notes)
    finetune(again)
    assert any("Going on after epoch 4" in told for told in notes.told)
    assert _contents(again) == _contents(trained)
    assert again.meter.device_seconds == pytest.approx(first.meter.device_seconds)  # what it cost is not forgotten
    assert again.meter.waiting_seconds == pytest.approx(first.meter.waiting_seconds)


@pytest.mark.parametrize("survivors", [1, 0])
def test_a_damaged_checkpoint_is_told_and_costs_only_time(
    trained: StageRun, dataset: Path, tmp_path: Path, survivors: int
) -> None:
    run = stage_run(dataset, tmp_path / "out", Notes())
    finetune(run)
    checkpoints = sorted(run.scratch.glob("*.checkpoint"))
    for checkpoint in checkpoints[survivors:]:
        checkpoint.write_bytes(checkpoint.read_bytes()[:10_000])
    notes = Notes()
    run = stage_run(dataset, tmp_path / "out", notes)
    finetune(run)
    assert sum("damaged" in told for told in notes.told) == len(checkpoints) - survivors
    assert any("Going on after epoch 3" in told for told in notes.told) == bool(survivors)
    assert _contents(run) == _contents(trained)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 1}'])
def test_a_damaged_recipe_is_decided_again(trained: StageRun, dataset: Path, tmp_path: Path, content: str) -> None:
    run = stage_run(dataset, tmp_path / "out")
    manifest = run.upstream["preprocess"].manifest
    run.scratch.joinpath("recipe.json").write_text(content)
    setup = prepare(run.project, dataset, manifest, scratch=run.scratch, progress=run.progress, meter=run.meter)
    assert setup.recipe.to_json() == json.loads((trained.scratch / "recipe.json").read_text())


def _with_auxiliary(tmp_path: Path, truth: Callable[[Sample], Truth]) -> StageRun:
    """A run with a further task, which has the name of a score."""

    def change(_split: str, sample: Sample) -> Sample:
        return replace(sample, truths={**sample.truths, "miou": truth(sample)})

    dataset = write_training_set(tmp_path / "dataset", change, auxiliary={"miou": SHORE})
    run = stage_run(dataset, tmp_path / "out", training={"epochs": 1})
    further = {"task": {**run.project.config.task.model_dump(), "name": "miou"}, "labels": {"files": ["more.geojson"]}}
    config = run.project.config.model_copy(update={"auxiliary": [AuxiliaryConfig.model_validate(further)]})
    return replace(run, project=Project(run.project.root, config))


def test_scores_of_further_tasks_hide_none_of_the_main_ones(tmp_path: Path) -> None:
    run = _with_auxiliary(tmp_path, lambda sample: Truth(1 - sample.target))
    finetune(run)
    [entry] = json.loads((run.out / "history.json").read_text())
    assert entry["validation"]["miou"] == entry["headline"]
    assert 0 <= entry["validation"]["auxiliary"]["miou"]["miou"] <= 1


def test_a_further_task_without_labels_is_refused_with_the_windows_there_are(tmp_path: Path) -> None:
    run = _with_auxiliary(tmp_path, lambda sample: Truth(np.full_like(sample.target, IGNORE)))
    with pytest.raises(TrainingError, match="for the task 'miou': 8 windows are in the training split"):
        finetune(run)


def test_measured_values_that_are_all_equal_are_told(tmp_path: Path) -> None:
    cover = TaskLayout("regression", ("0..20", "20..40", "40..60", "60..80", "80..100"), "%", (0.0, 100.0))
    values = Truth(np.full((16, 16), 2, np.uint8), np.full((16, 16), 50, np.float32))
    folder = write_training_set(
        tmp_path / "dataset", lambda _split, sample: replace(sample, truths={"main": values}), task=cover
    )
    run = stage_run(folder, tmp_path / "out", training={"epochs": 1})
    task = TaskConfig.model_validate({"kind": "regression", "unit": "%", "range": (0, 100)})
    run = replace(run, project=Project(run.project.root, run.project.config.model_copy(update={"task": task})))
    assert [told.partition(",")[0] for told in finetune(run)["warnings"]] == [
        f"the {split} split holds one value only" for split in ("validation", "test")
    ]


def _changed(folder: Path, change: Callable[[str, Sample], Sample]) -> Path:
    return write_training_set(folder / "dataset", change)


def test_labels_that_are_all_ignored_are_refused(tmp_path: Path) -> None:
    dataset = _changed(tmp_path, lambda _split, sample: unlabelled(sample))
    with pytest.raises(TrainingError, match="Nothing to learn from: 8 windows"):
        finetune(stage_run(dataset, tmp_path / "out"))


def test_one_class_only_is_refused_by_name(tmp_path: Path) -> None:
    dataset = _changed(tmp_path, lambda _split, sample: only(sample, 1))
    with pytest.raises(TrainingError, match=r"'water' only.*Add labels of land"):
        finetune(stage_run(dataset, tmp_path / "out"))


def test_an_empty_training_split_is_refused(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path / "dataset", splits=("validation", "test"))
    with pytest.raises(TrainingError, match="Nothing to learn from: no windows"):
        finetune(stage_run(dataset, tmp_path / "out"))


def test_a_class_missing_from_a_split_is_told_and_has_no_recall(tmp_path: Path) -> None:
    dataset = _changed(tmp_path, lambda split, sample: only(sample, 0) if split == "test" else sample)
    notes = Notes()
    run = stage_run(dataset, tmp_path / "out", notes, training={"epochs": 1})
    summary = finetune(run)
    assert "The test split has no pixel of water: its recall there is unknown." in notes.told
    test = json.loads((run.out / "metrics.json").read_text())["test"]
    assert test["classes"]["water"]["recall"] is None
    assert summary["test"]["note"] in notes.told


def test_without_validation_and_test_the_last_epoch_is_kept_and_it_is_said(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path / "dataset", splits=("train",) * 4)
    run = stage_run(dataset, tmp_path / "out", training={"epochs": 2})
    summary = finetune(run)
    metrics = json.loads((run.out / "metrics.json").read_text())
    assert summary["best_epoch"] == 2
    assert "the last of 2 epochs is kept" in metrics["chosen_by"]
    assert metrics["test"]["miou"] is None
    assert "no test scores" in (run.out / "card.md").read_text()


def test_windows_that_show_or_tell_nothing_change_nothing(tmp_path: Path) -> None:
    def blind(sample: Sample) -> Sample:
        hidden = {m: np.zeros_like(v) for m, v in sample.valid.items()}
        return Sample(sample.inputs, hidden, sample.dates, sample.truths)

    splits = ("train",) * 4 + ("validation",) * 2
    plain = write_training_set(tmp_path / "plain", splits=splits)
    changes = iter([None] * len(splits) + [unlabelled, blind])
    padded = write_training_set(
        tmp_path / "padded",
        lambda _split, sample: change(sample) if (change := next(changes)) else sample,
        splits=(*splits, "train", "train"),
    )
    models = []
    for folder in (plain, padded):
        run = stage_run(folder, tmp_path / f"{folder.name}-out", training={"epochs": 1})
        finetune(run)
        models.append((run.out / "weights.safetensors").read_bytes())
    assert models[0] == models[1]


def test_a_loss_that_does_not_fit_is_refused_before_the_encoder_looks(dataset: Path, tmp_path: Path) -> None:
    run = stage_run(dataset, tmp_path / "out", training={"recipe": "head_only", "loss": "huber"})
    with pytest.raises(TrainingError, match=r"^training\.loss: 'huber' is no loss for the segmentation"):
        finetune(run)
    assert not list(run.scratch.rglob("*.npy"))


def test_a_loss_that_is_no_number_stops_with_the_batch_saved(dataset: Path, tmp_path: Path) -> None:
    run = stage_run(dataset, tmp_path / "out", training={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"no longer a number.*bad_batch\.npz.*training\.learning_rate"):
        finetune(run)
    with np.load(run.scratch / "bad_batch.npz") as saved:
        assert saved["inputs_sentinel2_l2a"].shape == (4, 2, 4, 16, 16)
        assert len(saved["rows"]) == 4
    assert not (run.out / "weights.safetensors").exists()


def test_a_model_that_is_no_better_than_the_commonest_class_is_told() -> None:
    task = TaskCard(classes=["land", "water"])

    def windows(land: int, water: int) -> Windows:
        return Windows(lambda _rows: [], {"main": task}, np.arange(1), {"main": np.array([[land, water]])}, 0, 0)

    def told(accuracy: float, land: int, water: int) -> list[str]:
        return list(class_doubts("test", accuracy, windows(land, water), windows(9000, 1000), task))

    assert told(0.9, 800, 200) == []
    (warning,) = told(0.81, 800, 200)
    assert "no better on the test split (accuracy 0.81) than calling all of it land (0.80)" in warning
    (warning,) = told(0.99, 800, 40)
    assert "only few labelled pixels (40 of water)" in warning
    names = [f"c{k}" for k in range(10)]
    many = TaskCard(kind="classification", classes=names)
    each = Windows(lambda _rows: [], {"main": many}, np.arange(1), {"main": np.full((1, 10), 4)}, 0, 0)
    (warning,) = class_doubts("test", 0.8, each, each, many)
    assert "(4 of c0, 4 of c1, 4 of c2, and few of 7 more classes)" in warning
    assert told(0.3, 200, 800) == []  # wrong, but not because it calls all land
