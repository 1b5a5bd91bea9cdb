"""Encoders compared: trained alike, remembered, resumed after a kill; the advice is plain, or plainly none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import LAND_COVER, land_cover
from training_set import Notes, stage_run, write_training_set

from olmoearth_core.errors import ProjectError
from olmoearth_core.models import build_encoder, save_encoder
from olmoearth_core.models.cost import Speed, Workload, estimate
from olmoearth_core.models.origin import Origin
from olmoearth_core.project import Project
from olmoearth_core.training import compare_encoders as comparing
from olmoearth_core.training.advice import Compared, advise
from olmoearth_core.training.candidates import Candidate
from olmoearth_core.training.compare_encoders import compare_encoders
from olmoearth_core.training.compare_encoders_report import write_comparison
from olmoearth_core.training.loop import fit
from olmoearth_core.training.tally import Counter, Tally


def answered(skill: float, seed: int = 0) -> Tally:
    """Of thirty windows whose truth is the same whatever the skill."""
    counter = Counter(LAND_COVER)
    counter.add(land_cover(30, seed, skill=skill))
    return counter.tally()


def row(encoder: str, skill: float, *, random: bool = False) -> Compared:
    [cost] = estimate([encoder], Workload(16, 4, 2), windows=5000.0, price_per_hour=2.0)
    cost = replace(cost, speed=Speed(20.0, True, "cpu", "fp32", 1))
    weights = "random" if random else f"hf://{encoder}"
    return Compared(encoder, weights, random, "full", 4, answered(skill), cost)


def blocks(tally: Tally) -> np.ndarray:
    return np.stack([tally.rows, np.zeros_like(tally.rows)], axis=1)


def advice(own: Compared, *others: Compared, of: Any = blocks) -> dict[str, Any]:
    return advise([own, *others], own, LAND_COVER, of)


def test_a_cheaper_encoder_that_is_as_good_is_recommended() -> None:
    found = advice(row("v1-tiny", 2.0), row("v1.1-nano", 2.0))
    cheap = found["encoders"][0]
    assert cheap["encoder"] == "v1.1-nano", "cheapest first"
    assert cheap["difference"]["value"] == 0
    assert found["recommendation"] == {
        "verdict": "switch",
        "encoder": "v1.1-nano",
        "sentence": f"v1.1-nano: {cheap['difference']['cheaper']:.1f}x cheaper, mean IoU +0.0 ± 0.0 points: switch",
    }
    assert cheap["difference"]["cheaper"] == pytest.approx(found["encoders"][1]["macs"] / cheap["macs"])
    assert cheap["money"] == pytest.approx(2 * cheap["hours"])
    assert cheap["low"] < cheap["value"] < cheap["high"]


def test_a_better_one_is_told_with_its_price_and_a_worse_one_is_left() -> None:
    better = advice(row("v1.1-nano", 1.0), row("v1.1-tiny", 2.0))["recommendation"]
    assert (better["verdict"], better["encoder"]) == ("switch", "v1.1-tiny")
    assert "x dearer, mean IoU +" in better["sentence"]
    assert better["sentence"].endswith("switch, if that is worth it to you")
    worse = advice(row("v1.1-tiny", 2.0), row("v1.1-nano", 1.0))["recommendation"]
    assert (worse["verdict"], worse["encoder"]) == ("stay", "v1.1-tiny")
    assert "x cheaper, mean IoU -" in worse["sentence"]
    assert worse["sentence"].endswith("stay with v1.1-tiny")


def test_where_nothing_is_known_nothing_is_recommended() -> None:
    found = advice(row("v1.1-nano", 1.0, random=True), row("v1.1-tiny", 2.0))["recommendation"]
    assert found["verdict"] == "none"
    assert "v1.1-nano began with random weights" in found["sentence"]
    few = advice(row("v1.1-nano", 1.0), row("v1.1-tiny", 2.0), of=lambda tally: blocks(tally) // 10)
    assert few["recommendation"]["verdict"] == "none"
    assert "3 blocks of ground only" in few["recommendation"]["sentence"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"), splits=("train",) * 8 + ("validation", "test") * 6)


@pytest.fixture
def project(dataset: Path, tmp_path: Path) -> Project:
    for name in ("v1.1-nano", "v1-nano"):
        encoder = build_encoder(name, seed=7)
        encoder.origin = Origin(source=f"hf://{name}", sha256="0" * 64, licence="free")
        save_encoder(encoder, tmp_path / name)
    return stage_run(dataset, tmp_path / "out", model={"weights": "v1.1-nano"}, training={"recipe": "full"}).project


def compare(project: Project, dataset: Path, names: tuple[str, ...] = ("v1-nano", "v1.1-nano"), **asked: Any) -> Any:
    manifest = stage_run(dataset, project.root / "out").upstream["preprocess"].manifest
    named = [Candidate(name, name) for name in names]
    asked |= {"epochs": 2, "area_km2": 50.0, "measure": False}
    return compare_encoders(project, dataset, manifest, named, progress=Notes(), **asked)


def test_killed_it_goes_on_and_asked_again_it_remembers(
    project: Project, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    for name in ("v1.1-nano", "v1-nano"):
        (tmp_path / "other" / name).symlink_to(project.root / name)
    whole = compare(Project(tmp_path / "other", project.config), dataset)
    trained: list[str] = []

    def killed(job: Any, *arguments: Any, **options: Any) -> Any:
        trained.append(job.model.encoder.name)
        if len(trained) == 2:  # in the second training, after an epoch
            fit(job, *arguments, until=1)
            raise KeyboardInterrupt
        return fit(job, *arguments, **options)

    monkeypatch.setattr(comparing, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(project, dataset)
    found = compare(project, dataset)
    assert trained == ["v1-nano", "v1.1-nano", "v1.1-nano"], "what was finished is not trained again"
    assert found == whole
    assert compare(project, dataset) == whole
    assert len(trained) == 3
    assert not list(project.state.rglob("training")), "no checkpoints stay"

    assert found["own"] == "v1.1-nano"
    assert [row["epochs"] for row in found["encoders"]] == [2, 2]
    assert found["blocks"] == 6
    assert found["recommendation"]["verdict"] in ("switch", "stay")
    json, text, plot = write_comparison(found, tmp_path / "comparison")
    assert found["recommendation"]["sentence"] in text.read_text()
    assert "| v1-nano | hf://v1-nano | full, 2 |" in text.read_text()
    assert json.stat().st_size > 1000
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_compared_is_refused(project: Project, dataset: Path) -> None:
    with pytest.raises(ProjectError, match="two encoders at least"):
        compare(project, dataset, ("v1-nano",))
    with pytest.raises(ProjectError, match="'train' is nothing to judge by"):
        compare(project, dataset, split="train")
