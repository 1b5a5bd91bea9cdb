"""The stage `finetune`: a dataset version and an encoder in, a trained and judged model out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from olmoearth_core.models.card import ModelCard, TaskCard
from olmoearth_core.models.lora import merge_lora
from olmoearth_core.models.model_folder import load_model, save_card, save_model
from olmoearth_core.models.prediction_sets import PredictionSets
from olmoearth_core.project import SplitConfig
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_json
from olmoearth_core.training.data import Windows
from olmoearth_core.training.judge import judge
from olmoearth_core.training.loop import State, fit
from olmoearth_core.training.memory import free_memory
from olmoearth_core.training.metrics import SHORT
from olmoearth_core.training.predictions import answers
from olmoearth_core.training.setup import Setup, make_job, prepare
from olmoearth_core.training.usable import by_stratum, missing
from olmoearth_core.training.worker import processes, run_workers

SHOWN = 3
"""So many classes are named in a warning about classes; of more it says how many."""
FEW_PIXELS = 100
"""A class with fewer labelled pixels in a split has a score that one field decides."""
NO_BETTER = 0.02
"""A gain in accuracy over the commonest class that counts as none."""


def finetune(run: StageRun) -> dict[str, Any]:
    """Train encoder and heads on the training set; keep the best epoch by validation; read the test windows once.

    Leaves weights.safetensors, card.json, card.md, metrics.json (scores of validation and test with intervals, of the
    saved model as `load_model` gives it to mapping, and in which precision), report.html with its figures, and
    history.json (loss and scores of every epoch, as it is trained).

    Raises:
        TrainingError: nothing or one class only to learn from, a recipe that does not fit, no memory for a single
            window, or a loss that is no longer a number.
        CheckpointError: base weights that cannot be loaded or are not of the encoder named in project.yaml.
        DatasetError: a training set that cannot be opened or read.
    """
    upstream, progress, meter = run.upstream["preprocess"], run.progress, run.meter
    begin = partial(prepare, run.project, upstream.folder, upstream.manifest, scratch=run.scratch, meter=meter)
    setup = begin(progress=progress)
    recipe, card = setup.recipe, setup.card
    meter.device = str(setup.model.device)
    progress.note(f"Fine-tuning {card.encoder} from {card.base.sentence}.")
    progress.note(f"Recipe: {recipe.name}; {recipe.why}.")
    count = processes()
    if count > 1 and not recipe.embeds:
        windows = setup.windows
        del setup  # its model would only take memory that the processes need
        free_memory()
        run_workers(run, count)  # leave their last checkpoint, which `fit` finds
        setup = begin(progress=progress, windows=windows)
    job = make_job(setup, run_key=run.key, scratch=run.scratch, progress=progress, meter=meter)
    state = fit(job, progress, meter)
    if recipe.name == "lora":
        merge_lora(setup.model.encoder)
    card = save_model(run.out, setup.model, card)

    # the scores are those of the model that maps: from disk, in its precision
    model = load_model(run.out).predictor
    config = run.project.config
    metrics = judge(
        setup.dataset,
        config.tasks,
        lambda split: answers(model, setup.windows[split], recipe.at_once),
        run.out,
        colours={name: [c.color for c in task.classes] for name, task in config.tasks.items() if task.classes},
        seed=recipe.seed,
        progress=progress,
    )
    metrics |= {"chosen_by": _chosen_by(state, card.main), "best_epoch": state.best_epoch}
    metrics |= {"precision": model.encoder.precision, "recipe": recipe.name, "recipe_why": recipe.why}
    for split in ("validation", "test"):
        metrics[split]["note"] = missing(split, setup.windows[split], card.main)
    warnings = [told for split in ("validation", "test") for told in _doubts(split, metrics[split], setup)]
    for warning in warnings:
        progress.note(f"Warning: {warning}")
    card = _judged(card, metrics, warnings, SplitConfig.model_validate(upstream.manifest.settings["dataset"]["split"]))
    save_card(run.out, card)
    write_json(run.out / "metrics.json", metrics)
    write_json(run.out / "history.json", state.history)
    return {
        "report": "report.html",
        "base_weights": card.base.sentence,
        "recipe": f"{recipe.name}: {recipe.why}",
        "weights_sha256": card.weights_sha256,
        "parameters": sum(p.numel() for p in model.parameters()),
        "windows": card.dataset.windows,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        **{split: _headlines(metrics[split]) for split in ("validation", "test")},
        "warnings": warnings,
    }


def _judged(card: ModelCard, metrics: dict[str, Any], warnings: list[str], split: SplitConfig) -> ModelCard:
    """The card with scores, the temperatures that make probabilities honest, and what to beware of."""
    judged = [metrics if k == 0 else metrics["auxiliary"][task.name] for k, task in enumerate(card.tasks)]
    tasks = [task.model_copy(update=_calibrated(found)) for task, found in zip(card.tasks, judged, strict=True)]
    restrictions = [*card.restrictions, *_own_restrictions(split), *warnings]
    return card.model_copy(update={"tasks": tasks, "scores": metrics, "restrictions": restrictions})


def _calibrated(found: dict[str, Any]) -> dict[str, Any]:
    """What a task's card says of how sure to be."""
    calibration, sets = found["calibration"], found["sets"]
    return {
        "temperature": calibration["temperature"] if calibration else 1.0,
        "sets": PredictionSets(**{key: sets[key] for key in PredictionSets.model_fields}) if sets else None,
    }


def _own_restrictions(split: SplitConfig) -> Iterator[str]:
    yield "Not judged outside the places, seasons and classes of its training set."
    if split.kind == "time":
        yield "Scores come from dates kept out of training, on ground that it saw: another place needs an own check."
        return
    yield "Scores come from spatial blocks kept out of training, of the same labels: a map needs an independent check."
    if split.buffer == 0:
        yield (
            "Neighbouring blocks touch, with no buffer between them (dataset.split.buffer): a test window may lie "
            "beside a training window, and a labelled polygon that crosses a block's border trains on one side and "
            "tests on the other. Scores may be too high."
        )


def _chosen_by(state: State, task: TaskCard) -> str:
    if state.best_score is None:
        return f"Validation has no score, so the last of {state.epoch} epochs is kept."
    stopped = "; training stopped as it did not get better" if state.stopped else ""
    return (
        f"The best of {state.epoch} epochs by validation {SHORT[task.kind]} is kept: epoch {state.best_epoch}{stopped}."
    )


def _doubts(split: str, scores: dict[str, Any], setup: Setup) -> Iterator[str]:
    """Why the scores of a split should not be trusted, or the model should not be used; a sentence each."""
    task, windows = setup.card.main, setup.windows[split]
    if not len(windows) or not windows.pixels.any():
        return
    if task.kind == "regression":
        if scores["r2"] is None:
            yield (
                f"the {split} split holds one value only, so nothing says whether the model is better than a constant. "
                "Add labels of other values."
            )
        elif scores["r2"] <= 0:
            r2 = f"{scores['r2']:.2f}"
            yield f"the model is no better on the {split} split than its mean (R2 {r2}): do not use its map."
        return
    yield from class_doubts(split, scores["overall_accuracy"], windows, setup.windows["train"], task)


def class_doubts(split: str, accuracy: float, windows: Windows, train: Windows, task: TaskCard) -> Iterator[str]:
    """As `_doubts`, of a task with classes."""
    judged, trained = by_stratum(windows, task.classes), by_stratum(train, task.classes)
    what, least = ("windows", 10) if task.kind == "classification" else ("pixels", FEW_PIXELS)
    few = [f"{labels} of {name}" for name, labels in judged.items() if 0 < labels < least]
    if few:
        named = few if len(few) <= SHOWN else [*few[:SHOWN], f"and few of {len(few) - SHOWN} more classes"]
        yield f"the {split} split has only few labelled {what} ({', '.join(named)}): its scores are rough."
    commonest = max(task.classes, key=lambda name: trained[name])
    alone = judged[commonest] / sum(judged.values())
    if accuracy <= alone + NO_BETTER:
        yield (
            f"the model is no better on the {split} split (accuracy {accuracy:.2f}) than calling all "
            f"of it {commonest} ({alone:.2f}): do not use its map. More labels or more epochs may help."
        )


def _headlines(scores: dict[str, Any]) -> dict[str, Any]:
    names = ("miou", "overall_accuracy", "macro_f1", "r2", "rmse", "mae", "bias", "unit", "note")
    told = {name: scores[name] for name in names if name in scores}
    if "classes" in scores:
        told["iou"] = {name: values["iou"] for name, values in scores["classes"].items()}
    if scores.get("baseline"):
        told["baseline"] = scores["baseline"]["sentence"]
    return told
