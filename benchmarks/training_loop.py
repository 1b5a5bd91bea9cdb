"""The training loop against the arithmetic that it cannot do without, and head-only training against full.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py

Loop: an epoch of `fit` (windows read from cubes.zarr, augmented, forward, backward, optimizer, metrics of validation,
history, checkpoint) against forward and backward alone, without an optimizer, on the very tensors of that epoch kept in
memory, and forward alone on those of validation. Nothing is kept in memory by the loop, so that reading is reading.

Heads: an epoch of head_only on what the frozen encoder kept, against an epoch of all weights, metrics and checkpoint
included in both.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from olmoearth_core.dataset.cubes import Composed, Cubes, Layout, TaskLayout, Truth, create_cubes, open_cubes
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.cube import Cube
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import HeadSpec, TaskCard
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.progress import Silent
from olmoearth_core.project_training import AugmentConfig
from olmoearth_core.stage import Meter
from olmoearth_core.training.data import Order, Windows, gather
from olmoearth_core.training.embeddings import embed
from olmoearth_core.training.loop import Job, Judgement, Source, fit
from olmoearth_core.training.losses import make_loss
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.recipe import Recipe
from olmoearth_core.training.step import forward
from olmoearth_core.training.tally import headline, tally

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
CLASSES = ("land", "water")
SIZE, BATCH = 64, 8


@dataclass(frozen=True)
class Case:
    """A workload.

    Attributes:
        encoder: catalogue name; weights are random, which costs the same.
        patch_size: in pixels.
        timesteps: T.
        windows: of training; a quarter as many of validation.
    """

    encoder: str
    patch_size: int
    timesteps: int
    windows: int


CASES = (
    Case("v1.1-nano", 8, 12, 32),
    Case("v1.1-nano", 4, 1, 96),
    Case("galileo-nano", 8, 1, 64),
)


def main() -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    rows = [_measure(case) for case in CASES]
    harness.write("training-loop", rows)
    loop = harness.markdown(
        ["encoder", "p", "T", "bare, windows/s", "whole loop", "ratio", "by CPU time", "waiting"],
        [
            [
                r["encoder"], str(r["patch_size"]), str(r["timesteps"]), f"{r['bare']:.1f}", f"{r['whole']:.1f}",
                f"{r['ratio']:.3f}", f"{r['cpu_ratio']:.3f}", f"{r['waiting']:.1%}",
            ]
            for r in rows
        ],
    )  # fmt: skip
    heads = harness.markdown(
        ["encoder", "p", "T", "all weights, windows/s", *(f"{head}, times as fast" for head in HEADS)],
        [
            [
                r["encoder"], str(r["patch_size"]), str(r["timesteps"]), f"{r['whole']:.1f}",
                *(f"{r['heads'][head]:.0f}x" for head in HEADS),
            ]
            for r in rows
        ],
    )  # fmt: skip
    text = (
        f"Windows of {SIZE} px, {len(BANDS)} bands, batches of {BATCH}; medians of interleaved repeats. Whole loop: "
        "reading, augmenting, forward, backward, optimizer, metrics of validation, history and checkpoint of an epoch; "
        "bare: forward and backward (and validation's forward) on the same tensors in memory. Waiting: the share of "
        f"the time that the device waited for windows. The goal: 0.95.\n\n{loop}\n"
        "Training a head on what the frozen encoder kept, against all weights with the head unet, per epoch, metrics "
        f"and checkpoint included. The goal: 20x.\n\n{heads}"
    )
    harness.put_section("training-loop", "Training loop", text)
    print(text)


HEADS = ("linear", "upsample", "unet")
REPEATS = 5


def _measure(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, validation = _windows(folder, case)
        model = _model(case, "unet")
        kept = list(train.shuffled(_order(0)))
        kept_validation = list(validation.in_order(BATCH))
        loss = make_loss(model.tasks["main"], "auto", train.pixels.sum(axis=0), balanced=False)
        meters: list[Meter] = []

        def whole() -> None:
            meters.append(_epoch(model, train, validation, "full", folder))

        def bare() -> None:
            model.train()
            for batch in kept:
                assert batch is not None
                model.zero_grad()
                truth = batch.truths["main"]
                (loss.sums(forward(model, batch)["main"], truth).sum() / loss.weights(truth)[0]).backward()
            model.eval()
            with torch.inference_mode():
                for batch in kept_validation:
                    forward(model, batch)

        wall, cpu = harness.interleave({"bare": bare, "whole": whole}, repeats=REPEATS)
        waiting = statistics.median(meter.waiting_seconds for meter in meters[1:])
        return {
            "encoder": case.encoder,
            "patch_size": case.patch_size,
            "timesteps": case.timesteps,
            "windows": case.windows,
            "bare": case.windows / statistics.median(wall["bare"]),
            "whole": case.windows / statistics.median(wall["whole"]),
            "ratio": harness.ratio(wall, "bare", "whole"),
            "cpu_ratio": harness.ratio(cpu, "bare", "whole"),
            "waiting": waiting / statistics.median(wall["whole"]),
            "heads": {
                head: statistics.median(wall["whole"]) / _head_only(case, head, train, validation, folder)
                for head in HEADS
            },
        }


def _head_only(case: Case, head: str, train: Windows, validation: Windows, folder: Path) -> float:
    """Seconds of an epoch of `head` on kept embeddings."""
    model = _model(case, head)
    model.encoder.requires_grad_(False)
    sources = []
    for split, windows in (("train", train), ("validation", validation)):
        place = folder / f"{head}-{split}"
        place.mkdir()
        sources.append(embed(model, windows, place, batch_size=BATCH, progress=Silent(), meter=Meter()))
    wall, _ = harness.interleave({"head": lambda: _epoch(model, *sources, "head_only", folder)}, repeats=REPEATS)
    return statistics.median(wall["head"])


def _epoch(model: Predictor, train: Source, validation: Source, name: str, folder: Path) -> Meter:
    """One epoch of `fit`, from a fresh optimizer, to its checkpoint."""
    meter = Meter()
    losses = {"main": make_loss(model.tasks["main"], "auto", np.ones(len(CLASSES)), balanced=False)}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        job = Job(model, losses, train, lambda m: _judge(m, validation), _recipe(name), "key", Path(scratch))
        fit(job, Silent(), meter)
    return meter


def _judge(model: Predictor, windows: Source) -> Judgement:
    task = TaskLayout("segmentation", CLASSES)
    scores = tally(answers_to("main", model, windows, BATCH), task).scores()
    return Judgement(headline(scores, task), scores)


def _recipe(name: str) -> Recipe:
    return Recipe(
        name=name, why="", heads={"main": "unet"}, epochs=1, batch_size=BATCH, at_once=BATCH, learning_rate=1e-5,
        weight_decay=0.01, schedule="cosine", warm_up=0.1, layer_decay=0.65, frozen_epochs=0, lora_rank=8, loss="auto",
        class_weights="none", augment=AugmentConfig(), patience=None, ema=0.0, checkpointing=False, precision="fp32",
        seed=0,
    )  # fmt: skip


def _order(epoch: int) -> Order:
    return Order(BATCH, 0, epoch, AugmentConfig())


def _model(case: Case, head: str) -> Predictor:
    task = TaskCard(classes=list(CLASSES), head=HeadSpec(kind=head))  # type: ignore[arg-type]
    return Predictor(
        build_encoder(case.encoder),
        [task],
        bands={"sentinel2_l2a": BANDS},
        timesteps=case.timesteps,
        patch_size=case.patch_size,
        resolution=10.0,
    )


def _windows(folder: Path, case: Case) -> tuple[Windows, Windows]:
    """Training and validation windows of a training set on disk, none of them kept in memory."""
    count = case.windows + case.windows // 4
    cubes = _write(folder / "cubes.zarr", case.timesteps, count)
    found = gather(
        cubes.read,
        {"train": range(case.windows), "validation": range(case.windows, count)},
        {"main": TaskCard(classes=list(CLASSES))},
        {"main": len(CLASSES)},
        at_once=BATCH,
        memory=0,
    )
    return found["train"], found["validation"]


def _write(path: Path, steps: int, count: int) -> Cubes:
    tasks = {"main": TaskLayout("segmentation", CLASSES)}
    grid = Grid("EPSG:32631")
    layout = Layout(grid, SIZE, steps, tasks, {"sentinel2_l2a": BANDS}, {"sentinel2_l2a": "uint16"})
    cubes = create_cubes(path, layout, count)
    for first in range(0, count, layout.shard_windows):
        rows = range(first, min(first + layout.shard_windows, count))
        cubes.write_shard(first, [_window(grid, steps, seed) for seed in rows])
    return open_cubes(path)


def _window(grid: Grid, steps: int, seed: int) -> Composed:
    """Noise, land on the left and water on the right."""
    random = np.random.default_rng(seed)
    dates = np.arange("2023-01", "2024-01", dtype="datetime64[M]").astype("datetime64[D]")[:steps]
    pixels = random.integers(1, 9000, (steps, len(BANDS), SIZE, SIZE)).astype(np.uint16)
    seen, days = np.ones((steps, SIZE, SIZE), np.uint8), np.full((steps, SIZE, SIZE), 19000, np.int32)
    cube = Cube("sentinel2_l2a", BANDS, pixels, seen, days, dates, grid.box(0, 0, SIZE, SIZE))
    truth = np.broadcast_to(np.arange(SIZE) >= SIZE // 2, (SIZE, SIZE)).astype(np.uint8)
    return Composed({"sentinel2_l2a": cube}, {"main": Truth(truth)})


if __name__ == "__main__":
    main()
