"""What a training run starts from: the windows, the model on its device, the recipe, the losses.

Every process of a run makes its own from the same project and training set, so that all start alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.errors import CheckpointError, TrainingError
from olmoearth_core.manifest import Manifest
from olmoearth_core.models import build_encoder, load_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.lora import add_lora
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.models.predictor import Predictor, build_predictor
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import Meter
from olmoearth_core.store import write_json
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.data import Batch, Windows, gather
from olmoearth_core.training.embeddings import embed
from olmoearth_core.training.loop import Job, Judgement, Source, forward
from olmoearth_core.training.losses import make_loss
from olmoearth_core.training.memory import in_parts
from olmoearth_core.training.recipe import Facts, Recipe, resolve
from olmoearth_core.training.tally import headline, tally

SPLITS = ("train", "validation", "test")
RECIPE = "recipe.json"
"""In scratch: what was decided when the run began, so that it goes on alike on another day or device."""
CPU_MACS, GPU_MACS = 3e10, 2e13
"""Multiply-accumulates per second that `auto` reckons with, of two CPU cores and of a GPU; only the order matters."""


@dataclass(frozen=True)
class Setup:
    """All that a training run needs.

    Attributes:
        dataset: the training set.
        windows: split -> its usable windows.
        card: of the model, without scores.
        recipe: how it is trained.
        model: on its device.
    """

    dataset: Dataset
    windows: Mapping[str, Windows]
    card: ModelCard
    recipe: Recipe
    model: Predictor


def prepare(
    project: Project,
    folder: Path,
    manifest: Manifest,
    *,
    scratch: Path,
    device: str = "auto",
    progress: Progress,
    meter: Meter,
    windows: Mapping[str, Windows] | None = None,
) -> Setup:
    """Look at the training set, decide the recipe, build the model.

    Args:
        project: whose.
        folder: of the training set, with its `manifest`.
        scratch: keeps the recipe once it is decided.
        device: as for `load_encoder`.
        progress: is told what is noteworthy.
        meter: is told what was read.
        windows: the usable windows of the training set, where somebody has read them already.

    Raises:
        TrainingError: nothing, or one class only, to learn from; a head or loss that does not fit the task.
        CheckpointError: base weights that cannot be loaded or are not of the encoder named in project.yaml.
        DatasetError: a training set that cannot be opened or read.
    """
    config = project.config
    dataset = open_dataset(folder)
    place = resolve_device(device)
    encoder, base = base_encoder(project)
    blank = task_cards(project)
    windows = windows or usable_windows(dataset, blank, progress, meter)
    recipe = _recipe(project, scratch, base, windows["train"], encoder, dataset, place.type)
    weights = {extra.task.name: extra.weight for extra in config.auxiliary}
    tasks = [
        task.model_copy(update={"head": HeadSpec(kind=recipe.heads[name]), "weight": weights.get(name, 1.0)})
        for name, task in blank.items()
    ]
    imagery = manifest.settings["imagery"]
    card = ModelCard(
        tasks=tasks,
        encoder=encoder.name,
        base=base,
        bands={modality: list(names) for modality, names in dataset.bands.items()},
        patch_size=config.model.patch_size,
        window_size=config.model.window_size,
        resolution=imagery["resolution"],
        framing=imagery["framing"],
        training=recipe.to_json(),
        dataset=TrainingSet(
            digest=manifest.outputs_digest,
            windows={split: len(found) for split, found in windows.items()},
            pixels={split: by_stratum(found, config.task.strata) for split, found in windows.items()},
        ),
        scores={},
        intended_use=_intended_use(tasks[0], imagery["resolution"], list(dataset.bands)),
        restrictions=list(base.restrictions),
    )
    return Setup(dataset, windows, card, recipe, make_model(encoder, card, recipe).to(place))


def task_cards(project: Project) -> dict[str, TaskCard]:
    """Name -> what each task of a project asks, the main one first, before any head is chosen."""
    return {
        name: TaskCard(name=name, kind=task.kind, classes=task.class_names, unit=task.unit, range=task.range)
        for name, task in project.config.tasks.items()
    }


def make_model(encoder: Encoder, card: ModelCard, recipe: Recipe) -> Predictor:
    """The model that `card` describes, ready for `recipe`: what never learns is frozen, what LoRA adds is there."""
    model = build_predictor(encoder, card, seed=recipe.seed)
    encoder.checkpointing = recipe.checkpointing
    if recipe.embeds or recipe.name == "lora":
        encoder.requires_grad_(False)
    if recipe.name == "lora":
        blocks = encoder.blocks
        add_lora(blocks, recipe.lora_rank, seed=recipe.seed)  # type: ignore[arg-type]
    return model


def make_job(
    setup: Setup, *, run_key: str, scratch: Path, progress: Progress, meter: Meter, seen_in: Path | None = None
) -> Job:
    """The training run of `setup`; where the encoder does not learn, its view of all windows is kept first.

    It is kept in `seen_in`, for all who ask the same encoder about the same windows, else in `scratch`.
    """
    sources: dict[str, Source] = {split: setup.windows[split] for split in ("train", "validation")}
    recipe, train = setup.recipe, setup.windows["train"]
    if recipe.embeds:
        for split in sources:
            place = scratch / f"embeddings-{split}" if seen_in is None else seen_in / split
            place.mkdir(parents=True, exist_ok=True)
            sources[split] = embed(
                setup.model, setup.windows[split], place, batch_size=recipe.at_once, progress=progress, meter=meter
            )
    validation = sources["validation"]
    return Job(
        model=setup.model,
        losses={
            task.name: make_loss(
                task,
                recipe.loss if k == 0 else "auto",
                train.counts[task.name].sum(axis=0),
                balanced=recipe.class_weights == "balanced",
            )
            for k, task in enumerate(setup.card.tasks)
        },
        train=sources["train"],
        judge=lambda model: judge_epoch(model, validation, setup.dataset, recipe.at_once),
        recipe=recipe,
        run_key=run_key,
        scratch=scratch,
    )


def judge_epoch(model: Predictor, windows: Source, dataset: Dataset, at_once: int) -> Judgement:
    """Scores of every task on `windows`; the main task's headline."""
    scores: dict[str, Any] = {}
    first: float | None = None
    for k, (name, task) in enumerate(dataset.tasks.items()):
        found = tally(answers(model, windows, name, at_once), task)
        told = {key: value for key, value in found.scores().items() if key not in ("confusion", "reliability")}
        scores |= told if k == 0 else {name: told}
        if k == 0:
            first = headline(found.scores(), task)
    return Judgement(first, scores)


def answers(model: Predictor, windows: Source, task: str, at_once: int) -> Iterator[Answer]:
    """What `model`, in evaluation mode, says of `windows` in one task."""
    import torch

    model.eval()

    def say(part: Batch) -> np.ndarray:
        with torch.inference_mode():
            said: np.ndarray = model.tasks[task].within_range(forward(model, part)[task].float()).cpu().numpy()
        return said

    for batch in windows.in_order(at_once):
        for part, scores in in_parts(batch, say):
            truth = part.truths[task]
            yield Answer(part.rows, truth.strata, truth.values, scores)


def usable_windows(
    dataset: Dataset,
    tasks: Mapping[str, TaskCard],
    progress: Progress,
    meter: Meter,
    asked: Sequence[str] = SPLITS,
) -> dict[str, Windows]:
    """The usable windows of each split in `asked`; what cannot be learned or judged is refused or told.

    Other splits are not read.

    Raises:
        TrainingError: nothing, or one class only, to learn from.
    """
    rows = {split: dataset.indices(split) for split in asked}
    with progress.bar("reading the training set", sum(map(len, rows.values()))) as advance:
        windows = gather(
            dataset.read,
            rows,
            tasks,
            {name: len(task.strata) for name, task in dataset.tasks.items()},
            at_once=dataset.at_once,
            advance=advance,
        )
    meter.bytes_read += sum(found.bytes_read for found in windows.values())
    for k, (name, task) in enumerate(tasks.items()):
        _check_training(windows["train"], name, list(dataset.tasks[name].strata), task, main=k == 0)
    main = next(iter(tasks.values()))
    for split, found in windows.items():
        if found.left_out:
            progress.note(f"{found.left_out} {split} windows are left out: no labelled pixel of theirs can be seen.")
        if told := missing(split, found, main):
            progress.note(told)
    return windows


def _check_training(train: Windows, name: str, strata: list[str], task: TaskCard, *, main: bool) -> None:
    counts = train.counts[name].sum(axis=0)
    of = "" if main else f" for the task '{name}'"
    if not counts.any():
        raise TrainingError(
            f"Nothing to learn from{of}: {train.left_out or 'no'} windows are in the training split and none holds a "
            "labelled pixel that any timestep shows. Check labels, dates and dataset.split in project.yaml."
        )
    present = [stratum for stratum, count in zip(strata, counts, strict=True) if count]
    if len(present) == 1 and task.kind != "regression":
        raise TrainingError(
            f"The {len(train)} training windows hold the class '{present[0]}' only{of}, so there is nothing to tell "
            f"apart. Add labels of {', '.join(c for c in strata if c not in present)}, or change dataset.split.seed."
        )


def missing(split: str, windows: Windows, task: TaskCard) -> str:
    """What is missing from a split, in one sentence; empty where nothing is."""
    if not len(windows) or not windows.pixels.any():
        return f"The {split} split has no labelled pixel that can be seen: there are no {split} scores."
    absent = [name for name, labels in by_stratum(windows, task.classes).items() if not labels]
    if not absent:
        return ""
    consequence = "the model cannot learn it" if split == "train" else "its recall there is unknown"
    what = "window" if task.kind == "classification" else "pixel"
    return f"The {split} split has no {what} of {', '.join(absent)}: {consequence}."


def by_stratum(windows: Windows, strata: list[str]) -> dict[str, int]:
    """Stratum of the main task -> labels in it."""
    return dict(zip(strata, windows.pixels.sum(axis=0).tolist(), strict=False))


def base_encoder(project: Project) -> tuple[Encoder, BaseWeights]:
    """The encoder to start from, in fp32, and where its weights come from (no absolute path in it).

    Raises:
        CheckpointError: base weights that cannot be loaded or are not of the encoder named in project.yaml.
    """
    name, weights, seed = project.config.model.encoder, project.config.model.weights, project.config.training.seed
    if weights is None:
        encoder = build_encoder(name, seed=seed)
        return encoder, BaseWeights.model_validate(encoder.origin.card())
    local = project.path(weights)
    source = str(local) if "://" not in weights and local.exists() else weights
    try:
        encoder = load_encoder(source, name=name, precision="fp32", device="cpu")
    except CheckpointError as error:  # named as project.yaml does, not by its place on this machine
        told = str(error).replace(source, weights).replace(f"but {name} was", f"but {name} (model.encoder) was")
        raise CheckpointError(f"model.weights: {told}") from error
    origin = encoder.origin.card()
    if origin["source"] == source:  # may be an absolute path here; a folder that knows an older origin keeps that
        origin["source"] = weights
    return encoder, BaseWeights.model_validate(origin)


def _recipe(
    project: Project, scratch: Path, base: BaseWeights, train: Windows, encoder: Encoder, dataset: Dataset, device: str
) -> Recipe:
    """The recipe, as it was decided when the run began."""
    kept = scratch / RECIPE
    if kept.is_file():
        return Recipe.from_json(json.loads(kept.read_text()))
    recipe = resolve(project.config, facts_of(project, encoder.name, base.source != "random", len(train), device))
    write_json(kept, recipe.to_json())
    return recipe


def facts_of(project: Project, encoder: str, pretrained: bool, windows: int, device: str) -> Facts:
    """What `auto` decides by, for so many training windows on a device ("cpu" or "cuda")."""
    from olmoearth_core.models.catalogue import named
    from olmoearth_core.models.cost import macs, workload_of

    work = 3 * macs(named(encoder), workload_of(project)) * windows
    return Facts(pretrained, windows, device, work / (CPU_MACS if device == "cpu" else GPU_MACS))


def _intended_use(task: TaskCard, resolution: float, modalities: list[str]) -> str:
    what = ", ".join(task.classes) or task.name.replace("_", " ")
    seen = ", ".join(modalities)
    return f"Maps {what} at {resolution:g} m from {seen}, in places and seasons like those of its training set."
