"""Which head learns on what a frozen encoder kept: water of the reservoir, judged inside the training days alone.

    OMP_NUM_THREADS=1 OLMOEARTH_TEST_DATA=... python benchmarks/finetuning_heads.py

Learned on one of the two training days and judged on the other, and likewise on halves of the ground; the test day and
the test half are not read. Galileo nano with its published weights, 100 epochs of head_only.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from finetuning_reservoir import Trial, _another_day, _another_half, _dataset, _windows
from learning import GALILEO, S2, Plan, Subject, judged, learn, seen

from olmoearth_core.models.card import TaskCard
from olmoearth_core.training.recipe import usual_learning_rate

HEADS = ("linear", "upsample")
PATCH_SIZES = (8, 4)
EPOCHS = 100


def main() -> None:
    """Measure, and write the section of docs/benchmarks.md."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        dataset = _dataset(Path(name) / "reservoir")
        subject = Subject(TaskCard(classes=list(dataset.classes)), dataset.bands[S2], dataset.timesteps)
        for title, trial in (("another day", _another_day(dataset)), ("another half", _another_half(dataset))):
            for patch_size in PATCH_SIZES:
                rows += _compare(subject, trial, title, patch_size)
    harness.write("finetuning-heads", rows)
    _tell(rows)


def _tell(rows: list[dict[str, Any]]) -> None:
    """The section of docs/benchmarks.md."""
    table = [[r["split"], str(r["patch_size"]), r["head"], f"{r['iou']:.3f}", f"{r['seconds']:.1f}"] for r in rows]
    text = INTRODUCTION + "\n" + harness.markdown(["held out", "p", "head", "IoU of water", "seconds"], table)
    harness.put_section("finetuning-heads", "Heads on kept embeddings", text)
    print(text)


INTRODUCTION = """\
Mean IoU of water over two folds inside the training part of the reservoir (the test is not read), and the seconds that
100 epochs of the head took after the encoder had looked. Galileo nano, pretrained, `head_only`.
"""


def _compare(subject: Subject, trial: Trial, title: str, patch_size: int) -> list[dict[str, Any]]:
    """Each head on both folds; what the encoder saw is shared."""
    rate = usual_learning_rate("head_only")
    scores: dict[str, list[float]] = {head: [] for head in HEADS}
    seconds: dict[str, list[float]] = {head: [] for head in HEADS}
    for learned, watched in trial.folds:
        looker = subject.model(Plan(GALILEO, True, "head_only", "linear", patch_size, EPOCHS, rate))
        with tempfile.TemporaryDirectory() as name:
            parts = []
            for part, rows in (("learned", learned), ("watched", watched)):
                (place := Path(name) / part).mkdir()
                parts.append(seen(looker, _windows(subject, trial.train[0], rows), place))
        for head in HEADS:
            plan = Plan(GALILEO, True, "head_only", head, patch_size, EPOCHS, rate)
            here, there = parts
            start = time.perf_counter()
            model, _ = learn(subject, plan, here)
            seconds[head].append(time.perf_counter() - start)
            scores[head].append(judged(subject, model, there).scores()["classes"]["water"]["iou"])
            print(title, patch_size, head, scores[head][-1], f"{seconds[head][-1]:.1f} s", flush=True)
    return [
        {
            "split": title,
            "patch_size": patch_size,
            "head": head,
            "iou": statistics.mean(scores[head]),
            "folds": scores[head],
            "seconds": statistics.mean(seconds[head]),
        }
        for head in HEADS
    ]


if __name__ == "__main__":
    main()
