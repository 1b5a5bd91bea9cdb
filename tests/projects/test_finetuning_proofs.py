"""What fine-tuning reaches on real data (benchmarks/finetuning.py): small here, in full where marked `verify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
Record = Callable[[str, Any], None]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def experiments(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments of the benchmarks, on the real data sets."""
    monkeypatch.setenv("OLMOEARTH_TEST_DATA", str(real_data))
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_pretrained_weights_tell_patches_apart_better_than_random_ones(tmp_path: Path, record_property: Record) -> None:
    import finetuning_eurosat as eurosat
    from learning import Plan, Subject, judged, learn, part, seen

    samples, classes = eurosat.patches()
    few = [sample for k, sample in enumerate(samples) if k % 20 < 8]  # eight patches a class
    subject = Subject(eurosat.TaskCard(kind="classification", classes=classes), eurosat.BANDS, 1)
    test = np.arange(len(few)) % 8 >= 5
    found = {}
    for pretrained in (True, False):
        plan = Plan("galileo-nano", pretrained, "head_only", "pool", 8, 60, 3e-3)
        folder = tmp_path / str(pretrained)
        folder.mkdir()
        kept = seen(subject.model(plan).eval(), eurosat.windows(subject, few, range(len(few))), folder)
        model, _ = learn(subject, plan, part(kept, np.flatnonzero(~test)))
        scores = judged(subject, model, part(kept, np.flatnonzero(test))).scores()
        found[pretrained] = scores["overall_accuracy"]
    record_property("accuracy", found)
    assert found[True] > found[False] + 0.1
    assert found[True] > 0.65


def test_the_months_of_the_forest_hold_clear_pixels_alone(record_property: Record) -> None:
    import finetuning_forest as forest

    ground = forest.Ground()
    assert ground.pixels.shape == (12, len(forest.BANDS), 100, 100)
    assert ground.clear[3:10].mean() > 0.99  # April to October are clear in some year
    assert not ground.pixels[np.broadcast_to(~ground.clear[:, None], ground.pixels.shape)].any()
    assert ground.pixels[np.broadcast_to(ground.clear[:, None], ground.pixels.shape)].all()
    inside = [ground.forest([other for other in forest.WEST if other is not strip], strip) for strip in forest.WEST]
    r2 = [float(found.scores()["r2"]) for found in inside]
    record_property("r2_of_the_random_forest_in_the_west", r2)
    assert np.mean(r2) > 0.55
    assert len({tuple(block) for block in ground.blocks(inside[0]).tolist()}) >= 5
