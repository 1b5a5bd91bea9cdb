"""Probes: the points are the patches, the learners learn, the answer is kept, and the test split is left alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import LAND_COVER, TREES, SomeTask
from sklearn.neighbors import KNeighborsClassifier
from training_set import PROJECT, Notes, stage_run, write_training_set

from olmoearth_core.dataset.cubes import TaskLayout, Truth
from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.errors import CheckpointError, ProjectError, TrainingError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.models import build_encoder, save_encoder
from olmoearth_core.models.origin import Origin
from olmoearth_core.project import Project, parse_project
from olmoearth_core.training import shallow
from olmoearth_core.training.candidates import Candidate, candidates
from olmoearth_core.training.data import Windows
from olmoearth_core.training.embeddings import Embedded
from olmoearth_core.training.kept import Kept
from olmoearth_core.training.points import Points, answers_of, coarse, draw_points, prior_of
from olmoearth_core.training.probe import probe

RANDOM = Candidate("v1.1-nano", None)
SHORE = SomeTask("segmentation", ("land", "water"))
CROPS = SomeTask("classification", ("wheat", "rice", "tea"))


def _seen(features: np.ndarray, truth: Truth) -> Embedded:
    rows = np.arange(len(features))
    windows = Windows(read=lambda _rows: [], tasks={}, rows=rows, counts={}, left_out=0, bytes_read=0)
    return Embedded(windows, features.astype(np.float32), None, {"main": truth})


def test_a_patch_has_the_commonest_class_of_its_labelled_pixels() -> None:
    strata = np.full((1, 4, 4), IGNORE, np.uint8)
    strata[0, :2, :2] = [[1, 1], [0, IGNORE]]
    strata[0, 2:, 2:] = [[0, 1], [IGNORE, IGNORE]]  # equally common: the first
    strata[0, 3, 0] = 1
    found, values = coarse(_seen(np.ones((1, 3, 2, 2)), Truth(strata)), "main")
    assert values is None
    assert found.tolist() == [[[1, IGNORE], [1, 0]]]


def test_a_patch_has_the_mean_of_its_known_values() -> None:
    values = np.full((1, 4, 4), np.nan, np.float32)
    values[0, :2, :2] = [[10, 30], [np.nan, np.nan]]
    strata = np.where(np.isfinite(values), np.uint8(1), np.uint8(IGNORE))
    _, mean = coarse(_seen(np.ones((1, 3, 2, 2)), Truth(strata, values)), "main")
    assert mean is not None
    np.testing.assert_array_equal(mean, [[[20, np.nan], [np.nan, np.nan]]])


def test_points_are_drawn_alike_and_bounded_and_leave_out_what_nothing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(6, 5, 4, 4))
    features[2, :, 1, 1] = 0  # no timestep shows it
    strata = random.integers(2, size=(6, 8, 8)).astype(np.uint8)
    seen = _seen(features, Truth(strata))
    blocks = np.array([0, 0, 1, 1, 2, 2])
    whole = draw_points(seen, "main", SHORE, blocks)
    assert len(whole) == 6 * 16 - 1
    assert np.bincount(whole.blocks).tolist() == [32, 31, 32]
    np.testing.assert_array_equal(whole.features[0], seen.features[0, :, 0, 0])
    monkeypatch.setattr("olmoearth_core.training.points.MOST_POINTS", 10)
    some, again = draw_points(seen, "main", SHORE, blocks), draw_points(seen, "main", SHORE, blocks)
    assert len(some) == 10
    np.testing.assert_array_equal(some.features, again.features)
    kinds = {tuple(f): s for f, s in zip(whole.features.tolist(), whole.strata.tolist(), strict=True)}
    assert [kinds[tuple(f)] for f in some.features.tolist()] == some.strata.tolist()


def test_a_window_of_a_classification_is_one_point_by_its_mean_token() -> None:
    features = np.random.default_rng(0).normal(size=(3, 5, 2, 2))
    features[1, :, 0, 0] = 0
    seen = _seen(features, Truth(np.array([2, 0, IGNORE], np.uint8).reshape(3, 1, 1)))
    points = draw_points(seen, "main", CROPS, np.arange(3))
    assert points.strata.tolist() == [2, 0]
    np.testing.assert_allclose(points.features[0], features[0].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(points.features[1], features[1].sum(axis=(1, 2)) / 3, rtol=1e-5)


def _clouds(count: int, seed: int, *, values: bool = False, width: int = 12) -> Points:
    """Three clouds, each in a direction of its own, on ten blocks of ground."""
    random = np.random.default_rng(seed)
    strata = random.integers(3, size=count)
    middles = np.random.default_rng(9).normal(size=(3, width))
    features = (middles[strata] + random.normal(scale=0.7, size=(count, width))).astype(np.float32)
    known = (20 + 30 * features[:, 0] + random.normal(size=count)).astype(np.float32) if values else None
    return Points(features, strata, known, random.integers(10, size=count))


def test_the_neighbours_are_those_of_scikit_learn() -> None:
    train, judged = _clouds(300, 0), _clouds(80, 1)
    reference = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.features, train.strata)
    expected = reference.predict_proba(judged.features)
    found = np.exp(shallow.neighbours(train, CROPS).scores(judged.features))
    np.testing.assert_allclose(found, np.maximum(expected, shallow.SURE), atol=1e-4)


def test_neighbours_of_values_answer_with_the_weighted_mean() -> None:
    train, judged = _clouds(300, 0, values=True), _clouds(5, 1, values=True)
    assert train.values is not None
    found = shallow.neighbours(train, TREES).scores(judged.features)
    unit = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
    for feature, answer in zip(judged.features, found[:, 0], strict=True):
        similarity = unit @ feature / np.linalg.norm(feature)
        nearest = np.argsort(-similarity)[:20]
        assert answer == pytest.approx(
            np.average(train.values[nearest], weights=np.exp(similarity[nearest] / 0.07)), rel=1e-4
        )


def test_the_linear_layer_learns_classes_and_values_alike_every_time() -> None:
    train, judged = _clouds(400, 0), _clouds(200, 1)
    one, other = shallow.fit_linear(train, CROPS), shallow.fit_linear(train, CROPS)
    assert (one.scores(judged.features).argmax(axis=1) == judged.strata).mean() > 0.9
    np.testing.assert_array_equal(one.scores(judged.features), other.scores(judged.features))
    train, judged = _clouds(400, 0, values=True), _clouds(200, 1, values=True)
    assert judged.values is not None
    error = shallow.fit_linear(train, TREES).scores(judged.features)[:, 0] - judged.values
    assert np.sqrt(np.mean(error**2)) < 0.2 * judged.values.std()


def test_the_learning_rate_is_chosen_on_held_out_ground_of_the_training_points() -> None:
    train = _clouds(400, 0)
    held = shallow._held_out(train, 0)
    assert len(set(train.blocks[held])) == 2
    assert not set(train.blocks[held]) & set(train.blocks[~held])
    alone = replace(train, blocks=np.zeros(400, np.int64))
    assert shallow._held_out(alone, 0).sum() == 80
    assert shallow.fit_linear(train, CROPS).learning_rate in shallow.RATES


def test_what_no_timestep_shows_gets_what_is_common() -> None:
    train = _clouds(100, 0, width=5)
    features = np.random.default_rng(0).normal(size=(1, 5, 2, 2))
    features[0, :, 1, 0] = 0
    seen = _seen(features, Truth(np.zeros((1, 4, 4), np.uint8)))
    prior = prior_of(train, LAND_COVER)
    [answer] = answers_of(shallow.neighbours(train, LAND_COVER), seen, "main", LAND_COVER, prior)
    assert answer.scores.shape == (1, 3, 4, 4)
    np.testing.assert_array_equal(answer.scores[0, :, 2:, :2], np.broadcast_to(prior[:, None, None], (3, 2, 2)))
    assert not np.allclose(answer.scores[0, :, 0, 0], prior)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def project(dataset: Path, tmp_path: Path) -> Project:
    """Its encoder has weights of its own, in the folder `base`."""
    encoder = build_encoder("v1.1-nano", seed=7)
    encoder.origin = Origin(source="hf://somewhere", sha256="0" * 64, licence="free")
    save_encoder(encoder, tmp_path / "base")
    return stage_run(dataset, tmp_path / "out", model={"weights": "base"}).project


def _probe(project: Project, dataset: Path, notes: Notes | None = None, **asked: Any) -> dict[str, Any]:
    manifest = stage_run(dataset, project.root / "out").upstream["preprocess"].manifest
    named = asked.pop("candidates", None) or candidates(project)
    return probe(project, dataset, manifest, named, progress=notes or Notes(), **asked)


def test_a_probe_tells_what_an_encoder_is_worth_and_remembers_it(
    project: Project, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, rows: (read.extend(rows), real(self, rows))[1])
    found = _probe(project, dataset)
    [row] = found["encoders"]
    assert (row["encoder"], row["sha256"], row["parameters"]) == ("v1.1-nano", "0" * 64, 1_089_072)
    for score in (row["knn"], row["linear"], row["random"]["knn"], row["random"]["linear"], found["forest"]):
        assert 0.5 < score["value"] <= 1
        assert score["low"] <= score["value"] <= score["high"]
        assert score["scores"]["pixels"] == 3 * 256
    assert found["protocol"]["knn"]["k"] == 20
    assert (found["protocol"]["image_size"], found["protocol"]["patch_size"]) == (16, 4)
    assert row["linear"]["learning_rate"] in found["protocol"]["linear"]["learning_rates"]
    assert [c["what"] for c in found["comparisons"]] == ["pretraining of v1.1-nano", "v1.1-nano for a random forest"]
    assert found["blocks"] == 3
    assert "cannot be trusted" in found["note"]
    assert all(c["verdict"] == "not shown" for c in found["comparisons"])  # of three blocks nothing is
    assert set(read) == set(range(11))  # the test's windows, 11 to 13, are not read

    read.clear()
    assert _probe(project, dataset) == found
    assert read == []  # all of it is remembered

    for place in (project.state / "probes").rglob("*.npz"):  # what is damaged is made again
        place.write_bytes(place.read_bytes()[:-100])
    assert _probe(project, dataset) == found


def test_the_test_is_judged_by_where_it_is_asked_for(project: Project, dataset: Path) -> None:
    found = _probe(project, dataset, candidates=[Candidate("v1.1-nano", None)], split="test")
    assert found["protocol"]["split"] == "test"
    assert found["encoders"][0]["knn"] is None


def _asked(project: Project, task: str) -> Project:
    """The project with another task."""
    text = PROJECT.replace("task: {classes: [{name: land, color: '#aaaaaa'}, {name: water, color: '#2c7fb8'}]}", task)
    return Project(project.root, parse_project(text.replace("labels: {", "labels: {windows: centred, ")))


def test_measured_values_are_probed(project: Project, tmp_path: Path) -> None:
    def deep(_split: str, sample: Any) -> Any:
        depth = (40 - sample.inputs["sentinel2_l2a"][0, 3] / 100).clip(0, 40).astype(np.float32)
        strata = (depth // 8).clip(0, 4).astype(np.uint8)
        return replace(sample, truths={"main": Truth(strata, depth)})

    strata = ("0..8", "8..16", "16..24", "24..32", "32..40")
    depths = write_training_set(
        tmp_path / "depths", deep, task=TaskLayout("regression", strata, unit="m", range=(0.0, 40.0))
    )
    found = _probe(_asked(project, "task: {kind: regression, unit: m, range: [0, 40]}"), depths, candidates=[RANDOM])
    assert found["headline"] == "r2"
    [row] = found["encoders"]
    for score in (row["random"]["knn"], row["random"]["linear"], found["forest"]):
        assert score["scores"]["rmse"] < 10
        assert score["value"] > 0.5
    assert found["protocol"]["points"] == "a patch, its pixels' mean value"


def test_classes_of_windows_are_probed(project: Project, tmp_path: Path) -> None:
    def one_class(_split: str, sample: Any) -> Any:
        wet = np.uint8(sample.target.mean() > 0.5)
        return replace(sample, truths={"main": Truth(np.full_like(sample.target, wet))})

    lakes = write_training_set(
        tmp_path / "lakes",
        one_class,
        ("train",) * 14 + ("validation",) * 6,
        task=TaskLayout("classification", ("land", "water")),
    )
    task = "task: {kind: classification, classes: [{name: land, color: '#aaaaaa'}, {name: water, color: '#2c7fb8'}]}"
    found = _probe(_asked(project, task), lakes, candidates=[RANDOM])
    assert found["headline"] == "macro_f1"
    [row] = found["encoders"]
    assert row["random"]["linear"]["points"] == 14
    assert row["random"]["linear"]["scores"]["pixels"] == 6
    assert found["forest"]["scores"]["pixels"] == 6


def test_encoders_are_paired_with_weights(project: Project) -> None:
    assert candidates(project) == [Candidate("v1.1-nano", "base")]
    assert candidates(project, ["v1.1-nano", "v1.1-tiny"]) == [
        Candidate("v1.1-nano", "base"),
        Candidate("v1.1-tiny", "hf://allenai/OlmoEarth-v1_1-Tiny"),
    ]
    assert candidates(project, ["v1-nano"], ["random"]) == [Candidate("v1-nano", None)]
    with pytest.raises(CheckpointError, match=r"1 encoders \(v1-nano\) and 2 weights"):
        candidates(project, ["v1-nano"], ["a", "b"])
    with pytest.raises(CheckpointError, match="v1-nano with weights random is named twice"):
        candidates(project, ["v1-nano", "v1-nano"], ["random", "random"])


def test_what_cannot_be_probed_is_refused_with_the_reason(project: Project, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="'train' is nothing to judge by"):
        _probe(project, dataset, split="train")
    with pytest.raises(ProjectError, match="'roads' is no task of shore; its tasks are main"):
        _probe(project, dataset, task="roads")
    with pytest.raises(CheckpointError, match=r"holds v1\.1-nano, but v1\.1-tiny \(model\.encoder\) was asked for"):
        _probe(project, dataset, candidates=[Candidate("v1.1-tiny", "base")])
    few = write_training_set(tmp_path / "few", lambda _split, sample: sample, ("train", "test"))
    with pytest.raises(TrainingError, match="The validation split has no labelled pixel that can be seen"):
        _probe(project, few)
    alone = write_training_set(
        tmp_path / "alone", lambda split, s: s if split != "train" else _corner(s), ("train", "validation")
    )
    with pytest.raises(TrainingError, match="Only 4 labelled patches can be seen; a probe needs 10"):
        _probe(project, alone)


def _corner(sample: Any) -> Any:
    kept = np.full_like(sample.target, IGNORE)
    kept[:8, :8] = np.arange(8) % 2
    return replace(sample, truths={"main": Truth(kept)})


def test_what_is_kept_stays_within_its_limit(tmp_path: Path) -> None:
    kept = Kept(tmp_path, limit=250)
    places = [kept.place({"n": n}) for n in range(4)]
    for k, place in enumerate(places):
        (place / "features.npy").write_bytes(bytes(100))
        os.utime(place, (k, k))
    kept.place({"n": 0})  # used again
    kept.trim(places[1])
    assert [place.exists() for place in places] == [True, True, False, False]
