"""What a training run starts from: the windows, the model on its device, the recipe, the losses.

Every process of a run makes its own from the same project and training set, so that all start alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.errors import CheckpointError
from olmoearth_core.manifest import Manifest
from olmoearth_core.models import build_encoder, load_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.lora import add_lora
from olmoearth_core.models.model_folder import load_model, read_card
from olmoearth_core.models.precision import resolve_device
from olmoearth_core.models.predictor import Predictor, build_predictor
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import Meter
from olmoearth_core.store import write_json
from olmoearth_core.training.data import Windows
from olmoearth_core.training.embeddings import embed
from olmoearth_core.training.loop import Job, Source
from olmoearth_core.training.losses import make_loss
from olmoearth_core.training.predictions import judge_epoch
from olmoearth_core.training.recipe import Facts, Recipe, resolve
from olmoearth_core.training.usable import by_stratum, usable_windows

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
    encoder, base = base_encoder(project) if project.start is None else trained_encoder(project.start)
    blank = task_cards(project)
    windows = windows or usable_windows(dataset, blank, progress, meter)
    recipe = _recipe(project, scratch, base, windows["train"], encoder, dataset, place.type)
    if project.start is not None and config.model.head == "auto":  # the heads it has, so that they go on as well
        recipe = replace(recipe, heads=recipe.heads | _former_heads(project.start, blank))
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
    model = make_model(encoder, card, recipe)
    if project.start is not None:
        for name in take_heads(model, project.start):
            progress.note(f"The head of {name} goes on from the former model's.")
    return Setup(dataset, windows, card, recipe, model.to(place))


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
    losses = {  # refused, where one does not fit, before the encoder looks at anything
        task.name: make_loss(
            task,
            recipe.loss if k == 0 else "auto",
            train.counts[task.name].sum(axis=0),
            balanced=recipe.class_weights == "balanced",
        )
        for k, task in enumerate(setup.card.tasks)
    }
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
        losses=losses,
        train=sources["train"],
        judge=lambda model: judge_epoch(model, validation, setup.dataset, recipe.at_once),
        recipe=recipe,
        run_key=run_key,
        scratch=scratch,
    )


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


def trained_encoder(folder: Path) -> tuple[Encoder, BaseWeights]:
    """The encoder of a trained model to go on from, in fp32, and where its weights come from.

    Raises:
        CheckpointError: no whole model is there.
    """
    model = load_model(folder, device="cpu", precision="fp32")
    before, sha = model.card.base, model.card.weights_sha256
    came = "random weights" if before.source == "random" else before.source
    base = before.model_copy(update={"source": f"model {sha[:12]}, of {came}", "sha256": sha, "revision": None})
    return model.predictor.encoder, base


def _former_heads(folder: Path, tasks: Mapping[str, TaskCard]) -> dict[str, str]:
    """Task -> kind of the head that the trained model in `folder` has for it."""
    former = {task.name: task for task in read_card(folder).tasks}
    return {name: former[name].head.kind for name in tasks if name in former and former[name].kind == tasks[name].kind}


def take_heads(model: Predictor, folder: Path) -> list[str]:
    """Give the heads of `model` the weights of the trained model in `folder`, where they are built alike; their tasks.

    A head of other classes starts anew.
    """
    trained = load_model(folder, device="cpu", precision="fp32").predictor
    taken = []
    for (name, task), head in zip(model.tasks.items(), model.heads.values(), strict=True):
        known = trained.tasks.get(name)
        if known is None or (known.kind, known.classes, known.range) != (task.kind, task.classes, task.range):
            continue
        former = dict(zip(trained.tasks, trained.heads.values(), strict=True))[name].state_dict()
        shapes = {key: tensor.shape for key, tensor in head.state_dict().items()}
        if shapes == {key: tensor.shape for key, tensor in former.items()}:
            head.load_state_dict(former)
            taken.append(name)
    return taken


def _recipe(
    project: Project, scratch: Path, base: BaseWeights, train: Windows, encoder: Encoder, dataset: Dataset, device: str
) -> Recipe:
    """The recipe, as it was decided when the run began."""
    kept = scratch / RECIPE
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # damaged: decided again
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
