"""A challenger against the champion: the same windows, differences with intervals, gates, and going on from a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from judging import LAND_COVER, TREES, land_cover, tree_cover
from training_set import BANDS, Notes, only, stage_run, write_training_set

from olmoearth_core.dataset.cubes import Sample, TaskLayout
from olmoearth_core.dataset.dataset import open_dataset
from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import TrainingError
from olmoearth_core.models.model_folder import load_model, read_card
from olmoearth_core.progress import Silent
from olmoearth_core.project import GatesConfig, Project
from olmoearth_core.stages import STAGES
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.bootstrap import paired_difference
from olmoearth_core.training.compare_models import Comparison, Cost, Part, compare_models, newest_rows
from olmoearth_core.training.compare_models_report import comparison_markdown
from olmoearth_core.training.finetune import finetune
from olmoearth_core.training.gates import Gate, passed, run_gates, sentences
from olmoearth_core.training.tally import tally

SPLITS = ("train",) * 10 + ("validation",) * 3 + ("test",) * 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"), splits=SPLITS)


@pytest.fixture(scope="module")
def project(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return stage_run(dataset, tmp_path_factory.mktemp("project") / "out").project


def trained(dataset: Path, out: Path, *, start: Path | None = None, **training: Any) -> Path:
    run = stage_run(dataset, out, training={"seed": 3, **training})
    out.mkdir(parents=True)
    finetune(replace(run, project=replace(run.project, start=start)))
    return out


@pytest.fixture(scope="module")
def poor(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(dataset, tmp_path_factory.mktemp("poor") / "model", epochs=1, learning_rate=1e-6)


@pytest.fixture(scope="module")
def good(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(dataset, tmp_path_factory.mktemp("good") / "model", epochs=8)


def test_the_better_model_passes_and_the_worse_one_is_refused(
    project: Project, dataset: Path, poor: Path, good: Path
) -> None:
    found = compare_models(project, dataset, poor, good, before=None, progress=Silent())
    test = found.parts["test"]
    assert (test.windows, set(found.parts)) == (6, {"test"})
    # the scores are those that the model was judged by when it was trained
    assert test.challenger["miou"] == pytest.approx(read_card(good).scores["test"]["miou"])
    assert test.champion["miou"] == pytest.approx(read_card(poor).scores["test"]["miou"])
    gain = test.difference.values[("miou",)]
    assert gain == pytest.approx(test.challenger["miou"] - test.champion["miou"])
    assert gain > 0.1
    assert found.costs["champion"].macs_per_km2 == found.costs["challenger"].macs_per_km2 > 0
    gates = run_gates(found, GatesConfig(ece=1.0))
    assert passed(gates), list(sentences(gates))

    other = compare_models(project, dataset, good, poor, before=None, progress=Silent())
    refused = {gate.name for gate in run_gates(other, GatesConfig(ece=1.0)) if not gate.passed}
    assert {"score", "classes"} <= refused
    json.dumps(found.to_json(), allow_nan=False)

    page = comparison_markdown("small: 2 against 1", "Refused.", other, run_gates(other, GatesConfig()))
    assert "| score | **refused** |" in page
    assert "| mean IoU |" in page
    assert "IoU of water" in page


def test_a_model_against_itself_is_equal(project: Project, dataset: Path, good: Path) -> None:
    found = compare_models(project, dataset, good, good, before=None, progress=Silent())
    assert set(found.parts["test"].difference.values.values()) == {0.0}
    assert passed(run_gates(found, GatesConfig()))


def test_the_newest_labels_are_those_the_champion_never_had(
    project: Project, dataset: Path, poor: Path, good: Path, tmp_path: Path
) -> None:
    """Windows of other places, and windows whose labels changed since, are judged apart."""
    table = gpd.read_parquet(dataset / "windows.parquet")
    table["pixels_water"] = 5
    before = tmp_path / "before.parquet"
    table.iloc[:-2].to_parquet(before)
    now = open_dataset(dataset)
    now.windows["pixels_water"] = 5
    assert newest_rows(now, before).tolist() == [17, 18]
    now.windows.loc[3, "pixels_water"] = 6
    assert newest_rows(now, before).tolist() == [3, 17, 18]
    assert newest_rows(now, None).tolist() == []

    table.iloc[:-2].drop(columns="pixels_water").to_parquet(before)
    found = compare_models(project, dataset, poor, good, before=before, progress=Silent())
    assert {name: part.windows for name, part in found.parts.items()} == {"test": 4, "newest": 2}
    table.iloc[:5].drop(columns="pixels_water").to_parquet(before)
    found = compare_models(project, dataset, poor, good, before=before, progress=Silent())
    assert {name: part.windows for name, part in found.parts.items()} == {"test": 6}
    assert "no frozen test" in found.notes[0]


def test_a_model_of_other_classes_cannot_be_compared(
    project: Project, dataset: Path, good: Path, tmp_path: Path
) -> None:
    other = write_training_set(tmp_path / "other", splits=SPLITS, task=TaskLayout("segmentation", ("land", "sea")))
    with pytest.raises(TrainingError, match=r"answers land, water .* the labels are of land, sea"):
        compare_models(project, other, good, good, before=None, progress=Silent())

    def nothing_to_test(split: str, sample: Sample) -> Sample:
        return only(sample, 9) if split == "test" else sample

    blank = write_training_set(tmp_path / "blank", nothing_to_test, splits=SPLITS)
    with pytest.raises(TrainingError, match="test split has no labelled pixel"):
        compare_models(project, blank, good, good, before=None, progress=Silent())


def test_training_goes_on_from_the_champion(dataset: Path, good: Path, tmp_path: Path) -> None:
    notes = Notes()
    run = stage_run(dataset, tmp_path / "more", notes, training={"epochs": 1, "learning_rate": 1e-9, "seed": 3})
    (tmp_path / "more").mkdir()
    project = replace(run.project, start=good)
    finetune(replace(run, project=project))
    assert "The head of main goes on from the former model's." in notes.told
    card, before = read_card(tmp_path / "more"), read_card(good)
    assert card.base.sha256 == before.weights_sha256
    assert card.base.source == f"model {before.weights_sha256[:12]}, of random weights"
    assert card.base.licence == before.base.licence
    # with next to no learning rate it still is the champion
    cubes = {"sentinel2_l2a": np.full((1, 2, len(BANDS), 16, 16), 900, np.uint16)}
    dates = np.array([["2020-06-16", "2020-07-16"]], "datetime64[D]")
    valid = {"sentinel2_l2a": np.ones((1, 2, 16, 16), bool)}
    said = [load_model(folder).predictor(cubes, dates, valid)["main"] for folder in (good, tmp_path / "more")]
    np.testing.assert_allclose(*(s.detach().numpy() for s in said), atol=1e-3)
    # and the stage's key depends on it, where it is asked for
    files = STAGES["finetune"].files(project, Silent())
    assert {name: sha256_file(path) for name, path in files.items()}["start/weights.safetensors"] == card.base.sha256
    assert STAGES["finetune"].files(run.project, Silent()) == {}


def compared(champion: Answer, challenger: Answer, task: Any, blocks: int, costs: tuple[float, float]) -> Comparison:
    """Two answers to the same windows, which lie in so many blocks."""
    one, other = tally([champion], task), tally([challenger], task)
    place = np.stack([np.arange(len(one.rows)) % blocks, np.zeros(len(one.rows), int)], axis=1)
    part = Part(len(one.rows), one.scores(), other.scores(), paired_difference(other, one, place))
    each = {name: Cost(macs, 10.0) for name, macs in zip(("champion", "challenger"), costs, strict=True)}
    return Comparison(task, {"test": part}, each, ())


def gates_of(comparison: Comparison, **settings: Any) -> dict[str, Gate]:
    return {gate.name: gate for gate in run_gates(comparison, GatesConfig(**settings))}


def land(blocks: int = 12, *, skill: float = 2.0, against: float = 2.0, cost: float = 1.0) -> Comparison:
    champion, challenger = (land_cover(24, seed=1, skill=s) for s in (against, skill))
    return compared(champion, challenger, LAND_COVER, blocks, (1.0, cost))


def test_equal_within_the_interval_passes_where_the_interval_can_be_trusted() -> None:
    champion = land_cover(24, seed=1)
    noise = np.random.default_rng(2).normal(0, 0.6, champion.scores.shape).astype(np.float32)
    jittered = replace(champion, scores=champion.scores + noise)
    found = compared(champion, jittered, LAND_COVER, 12, (1.0, 1.0))
    gain = found.parts["test"].difference.values[("miou",)]
    assert gain < 0, "the noise has to cost something for this test to mean anything"
    interval = found.parts["test"].difference.intervals[("miou",)]
    score = gates_of(found, drop=1.0)["score"]
    assert score.passed is (interval.low <= 0 <= interval.high)
    assert not gates_of(found, drop=0.0)["score"].passed
    few = gates_of(compared(champion, jittered, LAND_COVER, 3, (1.0, 1.0)), drop=1.0)["score"]
    assert not few.passed
    assert "too few" in few.sentence


def test_clearly_worse_is_refused_whatever_drop_is_allowed() -> None:
    worse = land(skill=1.0)
    score = gates_of(worse, drop=1.0)["score"]
    assert not score.passed
    assert "leaves out 0" in score.sentence
    assert gates_of(land(skill=3.0))["score"].passed


def test_no_class_may_lose_more_than_the_limit() -> None:
    champion = land_cover(24, seed=1)
    scores = champion.scores.copy()
    scores[:, 2] -= 3.0  # snow is hardly ever said
    found = compared(champion, replace(champion, scores=scores), LAND_COVER, 12, (1.0, 1.0))
    gate = gates_of(found)["classes"]
    assert not gate.passed
    assert "snow -" in gate.sentence
    assert gate.found["gains"]["snow"] < -0.05
    assert gates_of(found, class_drop=1.0)["classes"].passed


def test_calibration_cost_and_limits() -> None:
    champion = land_cover(24, seed=1)
    sure = replace(champion, scores=champion.scores * 20)  # the same answers, far too sure
    found = compared(champion, sure, LAND_COVER, 12, (1.0, 2.0))
    gates = gates_of(found, limits={"overall_accuracy": 0.999, "ece": 0.01})
    assert gates["score"].passed
    assert not gates["calibration"].passed
    assert gates_of(found, ece=0.9)["calibration"].passed
    assert not gates["cost"].passed
    assert "2.00 times" in gates["cost"].sentence
    assert gates_of(found, cost=2.0)["cost"].passed
    assert not gates["limit overall_accuracy"].passed
    assert not gates["limit ece"].passed
    assert gates_of(found, limits={"overall_accuracy": 0.1})["limit overall_accuracy"].passed


def test_errors_of_a_regression_are_shares_of_its_range() -> None:
    one, other = tree_cover(24, seed=1, noise=5), tree_cover(24, seed=1, noise=25)
    worse = compared(one, other, TREES, 12, (1.0, 1.0))
    gates = gates_of(worse, metric="rmse", class_drop=0.02)
    difference = worse.parts["test"].difference.values[("rmse",)]
    assert gates["score"].found["gain"] == pytest.approx(-difference / 100)
    assert not gates["score"].passed
    assert not gates["classes"].passed
    assert "calibration" not in gates
    assert passed(run_gates(compared(other, one, TREES, 12, (1.0, 1.0)), GatesConfig(limits={"rmse": 10.0})))
