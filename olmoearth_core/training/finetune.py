"""The stage `finetune`: a dataset version and an encoder in, a trained and judged model out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.errors import CheckpointError, TrainingError
from olmoearth_core.models import build_encoder, load_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TrainingSet
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.models.segmenter import build_segmenter, load_model, save_card, save_model
from olmoearth_core.project import Project
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_json
from olmoearth_core.training.data import Windows, gather
from olmoearth_core.training.loop import State, fit
from olmoearth_core.training.segmentation import Evaluation, Segmentation

SPLITS = ("train", "validation", "test")


def finetune(run: StageRun) -> dict[str, Any]:
    """Train encoder and head on the training set; keep the best epoch by validation; read the test windows once.

    Leaves weights.safetensors, card.json, card.md, metrics.json (scores and confusion matrices of validation and test,
    of the saved model as `load_model` gives it to mapping, and in which precision) and history.json (loss and scores
    of every epoch, in fp32, as it is trained).

    Raises:
        TrainingError: nothing or one class only to learn from, or a loss that is no longer a number.
        CheckpointError: base weights that cannot be loaded or are not of the encoder named in project.yaml.
        DatasetError: a training set that cannot be opened or read.
    """
    config = run.project.config
    classes = config.task.class_names
    upstream = run.upstream["preprocess"]
    dataset = open_dataset(upstream.folder)
    windows = _windows(dataset, classes, run)

    encoder, base = _encoder(run.project)
    run.progress.note(f"Fine-tuning {encoder.name} from {base.sentence}.")
    imagery = upstream.manifest.settings["imagery"]
    card = ModelCard(
        encoder=encoder.name,
        base=base,
        head=HeadSpec(),
        classes=classes,
        bands={modality: list(names) for modality, names in dataset.bands.items()},
        patch_size=config.model.patch_size,
        window_size=config.model.window_size,
        resolution=imagery["resolution"],
        framing=imagery["framing"],
        training=config.training.model_dump(mode="json"),
        dataset=TrainingSet(
            digest=upstream.manifest.outputs_digest,
            windows={split: len(found) for split, found in windows.items()},
            pixels={split: _by_class(found, classes) for split, found in windows.items()},
        ),
        scores={},
        intended_use=_intended_use(classes, imagery["resolution"], list(dataset.bands)),
        restrictions=[*base.restrictions, *_OWN_RESTRICTIONS],
    )
    device = resolve_device("auto")
    run.meter.device = device.type
    segmenter = build_segmenter(encoder, card, seed=config.training.seed).to(device)
    task = Segmentation(classes)
    state = fit(
        segmenter,
        task,
        windows["train"],
        windows["validation"],
        config.training,
        run_key=run.key,
        scratch=run.scratch,
        progress=run.progress,
        meter=run.meter,
    )
    card = save_model(run.out, segmenter, card)
    model = load_model(run.out).segmenter  # the scores are those of the model that maps: from disk, in its precision
    with run.meter.on_device():
        judged = {s: task.evaluate(model, windows[s], config.training.batch_size) for s in ("validation", "test")}
    metrics = _metrics(state, judged, windows, classes, model.encoder.precision)
    warnings = [told for split in judged for told in _doubts(split, metrics[split], windows, classes)]
    for warning in warnings:
        run.progress.note(f"Warning: {warning}")
    restrictions = [*card.restrictions, *warnings]
    save_card(run.out, card.model_copy(update={"scores": metrics, "restrictions": restrictions}))
    write_json(run.out / "metrics.json", metrics)
    write_json(run.out / "history.json", state.history)
    return {
        "base_weights": base.sentence,
        "weights_sha256": card.weights_sha256,
        "parameters": sum(p.numel() for p in segmenter.parameters()),
        "windows": card.dataset.windows,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        **{split: _headlines(metrics[split]) for split in judged},
        "warnings": warnings,
    }


FEW_PIXELS = 100
"""A class with fewer labelled pixels in a split has a score that one field decides."""
NO_BETTER = 0.02
"""A gain in accuracy over the commonest class that counts as none."""
_OWN_RESTRICTIONS = (
    "Not judged outside the places, seasons and classes of its training set.",
    "Scores come from spatial blocks kept out of training, of the same labels: a map needs an independent check.",
    "Neighbouring blocks touch, with no buffer between them: a test window may lie beside a training window, and a "
    "labelled polygon that crosses a block's border trains on one side and tests on the other. Scores may be too high.",
)


def _windows(dataset: Dataset, classes: list[str], run: StageRun) -> dict[str, Windows]:
    """The usable windows of each split; what cannot be learned or judged is refused or told."""
    splits = dataset.windows["split"].to_numpy()
    with run.progress.bar("reading the training set", len(splits)) as advance:
        windows = gather(
            dataset.read,
            {split: np.flatnonzero(splits == split).tolist() for split in SPLITS},
            len(classes),
            at_once=dataset.at_once,
            advance=advance,
        )
    run.meter.bytes_read += sum(found.bytes_read for found in windows.values())
    _check_training(windows["train"], classes)
    for split, found in windows.items():
        if found.left_out:
            run.progress.note(
                f"{found.left_out} {split} windows are left out: no labelled pixel of theirs can be seen."
            )
        if note := _note(split, found, classes):
            run.progress.note(note)
    return windows


def _check_training(train: Windows, classes: list[str]) -> None:
    if not len(train):
        raise TrainingError(
            f"Nothing to learn from: {train.left_out or 'no'} windows are in the training split and none holds a "
            "labelled pixel that any timestep shows. Check labels, dates and dataset.split in project.yaml."
        )
    present = [name for name, pixels in _by_class(train, classes).items() if pixels]
    if len(present) == 1:
        raise TrainingError(
            f"The {len(train)} training windows hold the class '{present[0]}' only, so there is nothing to tell apart. "
            f"Add labels of {', '.join(c for c in classes if c not in present)}, or change dataset.split.seed."
        )


def _note(split: str, windows: Windows, classes: list[str]) -> str:
    """What is missing from a split, in one sentence; empty where nothing is."""
    if not len(windows):
        return f"The {split} split has no labelled pixel that can be seen: there are no {split} scores."
    absent = [name for name, pixels in _by_class(windows, classes).items() if not pixels]
    if not absent:
        return ""
    consequence = "the model cannot learn it" if split == "train" else "its recall there is unknown"
    return f"The {split} split has no pixel of {', '.join(absent)}: {consequence}."


def _doubts(split: str, scores: dict[str, Any], windows: dict[str, Windows], classes: list[str]) -> Iterator[str]:
    """Why the scores of a split should not be trusted, or the model should not be used; a sentence each."""
    if not len(windows[split]):
        return
    judged = _by_class(windows[split], classes)
    few = [f"{pixels} of {name}" for name, pixels in judged.items() if 0 < pixels < FEW_PIXELS]
    if few:
        yield f"the {split} split has only few labelled pixels ({', '.join(few)}): its scores are rough."
    trained = _by_class(windows["train"], classes)
    commonest = max(classes, key=lambda name: trained[name])
    alone = judged[commonest] / sum(judged.values())
    if scores["overall_accuracy"] <= alone + NO_BETTER:
        yield (
            f"the model is no better on the {split} split (accuracy {scores['overall_accuracy']:.2f}) than calling all "
            f"of it {commonest} ({alone:.2f}): do not use its map. More labels or more epochs may help."
        )


def _by_class(windows: Windows, classes: list[str]) -> dict[str, int]:
    return dict(zip(classes, windows.pixels.sum(axis=0).tolist(), strict=True))


def _encoder(project: Project) -> tuple[Encoder, BaseWeights]:
    """The encoder to start from, in fp32, and where its weights come from (no absolute path in it)."""
    name, weights, seed = project.config.model.encoder, project.config.model.weights, project.config.training.seed
    if weights is None:
        encoder = build_encoder(name, seed=seed)
        return encoder, BaseWeights.model_validate(encoder.origin.card())
    local = project.path(weights)
    source = str(local) if "://" not in weights and local.exists() else weights
    encoder = load_encoder(source, precision="fp32")
    if encoder.name != name:
        raise CheckpointError(
            f"model.weights: {weights} holds {encoder.name}, but model.encoder says {name}; make them agree."
        )
    origin = encoder.origin.card()
    if origin["source"] == source:  # may be an absolute path here; a folder that knows an older origin keeps that
        origin["source"] = weights
    return encoder, BaseWeights.model_validate(origin)


def _intended_use(classes: list[str], resolution: float, modalities: list[str]) -> str:
    return (
        f"Maps {', '.join(classes)} at {resolution:g} m from {', '.join(modalities)}, in places and seasons like those "
        "of its training set."
    )


def _metrics(
    state: State, judged: dict[str, Evaluation], windows: dict[str, Windows], classes: list[str], precision: str
) -> dict[str, Any]:
    chosen = (
        f"The best of {state.epoch} epochs by validation mIoU is kept: epoch {state.best_epoch}."
        if state.best_score is not None
        else f"Validation has no score, so the last of {state.epoch} epochs is kept."
    )
    return {
        "schema_version": 1,
        "chosen_by": chosen,
        "best_epoch": state.best_epoch,
        "precision": precision,
        **{
            split: {
                **evaluation.scores,
                "loss": evaluation.loss,
                "windows": len(windows[split]),
                "note": _note(split, windows[split], classes),
            }
            for split, evaluation in judged.items()
        },
    }


def _headlines(scores: dict[str, Any]) -> dict[str, Any]:
    by_class = {name: values["iou"] for name, values in scores["classes"].items()}
    return {name: scores[name] for name in ("miou", "overall_accuracy", "macro_f1", "note")} | {"iou": by_class}
