"""Search: who goes on, by validation alone, resumed after a kill to the same end; what wins is what finetune trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_set import Notes, stage_run, unlabelled, write_training_set

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.errors import TrainingError
from olmoearth_core.models import build_encoder, save_encoder
from olmoearth_core.store import PARTIAL
from olmoearth_core.training.candidates import Candidate
from olmoearth_core.training.finetune import finetune
from olmoearth_core.training.loop import fit
from olmoearth_core.training.search import Search, lay_out
from olmoearth_core.training.trials import Standing, Trial, best_first, epochs_at, ranked, rungs, trials_of

NANO = Candidate("v1.1-nano", None)
EPOCHS = 3


def test_a_third_goes_on_until_one_is_left() -> None:
    assert [rungs(n) for n in (1, 2, 3, 4, 9, 10, 27)] == [0, 1, 1, 2, 2, 3, 3]
    assert [epochs_at(rung, 2, 40) for rung in range(3)] == [5, 14, 40]
    assert epochs_at(0, 3, 4) == 1


def test_trials_are_the_combinations_once_or_some_of_them_always_the_same() -> None:
    combinations = [(NANO, "full", rate / 100) for rate in range(1, 10)]
    assert [t.learning_rate for t in trials_of(combinations + combinations)] == [rate / 100 for rate in range(1, 10)]
    some = trials_of(combinations, most=4, seed=1)
    assert [t.number for t in some] == [1, 2, 3, 4]
    assert some == trials_of(combinations, most=4, seed=1)
    assert {t.learning_rate for t in some} != {t.learning_rate for t in trials_of(combinations, most=4, seed=2)}


def _standing(number: int, scores: list[float | None], **changes: Any) -> Standing:
    history = [{"epoch": k, "headline": score} for k, score in enumerate(scores, start=1)]
    known = max((s for s in scores if s is not None), default=None)
    return replace(Standing(Trial(number, NANO, "full", 0.1), 0, len(scores), 9, known, 0, history), **changes)


def test_ranking_knows_nothing_of_later_rungs() -> None:
    early, late = _standing(1, [0.6, 0.1]), _standing(2, [0.5, 0.5, 0.9], rung=1)
    failed = _standing(3, [0.8], rung=1, outcome="failed")
    blind, equal = _standing(4, [None]), _standing(5, [0.6])
    assert [s.trial.number for s in ranked([blind, late, equal, early, failed], 0, 2)] == [3, 1, 5, 2, 4]
    assert [s.trial.number for s in ranked([late, early, failed], 1, 2)] == [2, 1]


def test_the_table_has_the_better_score_first_also_below_zero_and_those_without_one_last() -> None:
    standings = [
        _standing(1, [-0.5], outcome="stopped"),
        _standing(2, [None], outcome="stopped"),
        _standing(3, [-0.1], outcome="stopped"),
        _standing(4, [-0.9], rung=1, outcome="won"),
        _standing(5, [0.9], outcome="failed"),
        _standing(6, [-0.7], rung=1, outcome="stopped"),
    ]
    assert [s.trial.number for s in best_first(standings)] == [4, 6, 3, 1, 2, 5]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_set(tmp_path_factory.mktemp("dataset"))


def _search(root: Path, dataset: Path, notes: Notes | None = None, **asked: Any) -> Search:
    training = {"epochs": EPOCHS, "recipe": "full"} | asked.pop("training", {})
    run = stage_run(dataset, root / "out", training=training)
    manifest = run.upstream["preprocess"].manifest
    named = asked.pop("candidates", [NANO])
    return lay_out(run.project, dataset, manifest, named, progress=notes or Notes(), **asked)


RATES = [0.003, 1e-7, 0.001]


class Killed(Exception):
    """As if the process had been killed."""


def test_a_search_finds_what_is_best_on_validation_and_never_reads_the_test(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, rows: (read.extend(rows), real(self, rows))[1])
    told: list[Standing] = []
    search = _search(tmp_path, dataset, learning_rates=RATES)
    found = search.run(told.append, Notes())
    assert set(read) == set(range(11))
    assert [(t["epochs"], t["outcome"]) for t in found["trials"]] == [(3, "won"), (1, "stopped"), (1, "stopped")]
    assert found["winner"]["learning_rate"] in (0.003, 0.001)
    assert found["trials"][0]["score"] >= found["trials"][1]["score"] >= found["trials"][2]["score"]
    assert [(s.trial.number, s.outcome) for s in told][:3] == [(1, ""), (2, ""), (3, "")]
    assert told[-1].outcome == "won"
    assert [p.name for p in search.place.iterdir()] == ["search.json"]  # no checkpoint is left

    # what won is what fine-tuning gives with these settings, epoch by epoch
    training = {"epochs": EPOCHS, "recipe": "full", "learning_rate": found["winner"]["learning_rate"]}
    run = stage_run(dataset, tmp_path / "model", training=training)
    finetune(run)
    assert json.loads((run.out / "history.json").read_text()) == told[-1].history


def test_a_search_that_was_killed_ends_as_if_it_had_not_been(dataset: Path, tmp_path: Path) -> None:
    whole: list[Standing] = []
    expected = _search(tmp_path / "whole", dataset, learning_rates=RATES).run(whole.append, Notes())
    for place in (0, 2, 3, len(whole) - 2):  # within a rung, at its end, while going on
        told: list[Standing] = []

        def kill(standing: Standing, told: list[Standing] = told, place: int = place) -> None:
            told.append(standing)
            if len(told) > place:
                raise Killed

        root = tmp_path / str(place)
        with pytest.raises(Killed):
            _search(root, dataset, learning_rates=RATES).run(kill, Notes())
        again: list[Standing] = []
        found = _search(root, dataset, learning_rates=RATES).run(again.append, Notes())
        assert found == expected
        assert again[-1] == whole[-1]


def test_a_finished_search_trains_nothing_again(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _search(tmp_path, dataset, learning_rates=RATES[:2]).run(lambda _s: None, Notes())
    monkeypatch.setattr("olmoearth_core.training.search.fit", None)
    assert _search(tmp_path, dataset, learning_rates=RATES[:2]).run(lambda _s: None, Notes()) == found


@pytest.mark.parametrize(
    "damage", [lambda text: text[:100], lambda _text: "[]", lambda text: text.replace('"trial": 1', '"trial": 99')]
)
def test_a_damaged_journal_costs_only_time(dataset: Path, tmp_path: Path, damage: Callable[[str], str]) -> None:
    search = _search(tmp_path, dataset, learning_rates=RATES[:2])
    found = search.run(lambda _s: None, Notes())
    journal = search.place / "search.json"
    journal.write_text(damage(journal.read_text()))
    assert _search(tmp_path, dataset, learning_rates=RATES[:2]).run(lambda _s: None, Notes()) == found


def test_a_trial_that_fails_loses_and_the_others_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fit
    monkeypatch.setattr(
        "olmoearth_core.training.search.fit",
        lambda job, *rest, **asked: (_diverges if job.recipe.learning_rate == 1 else real)(job, *rest, **asked),
    )
    notes = Notes()
    found = _search(tmp_path, dataset, learning_rates=[1.0, 0.002]).run(lambda _s: None, notes)
    assert not any(told.startswith("Epoch ") for told in notes.told)  # a search has a table of trials instead
    assert [t["outcome"] for t in found["trials"]] == ["won", "failed"]
    assert "no longer a number" in found["trials"][1]["why"]
    assert any("Trial 1 failed" in note for note in notes.told)


def _diverges(*_args: Any, **_asked: Any) -> Any:
    raise TrainingError("The loss or its gradient is no longer a number.")


def test_trials_of_one_frozen_encoder_share_what_it_saw(dataset: Path, tmp_path: Path) -> None:
    encoder = build_encoder("v1.1-nano", seed=7)
    save_encoder(encoder, tmp_path / "base")
    asked: dict[str, Any] = {"candidates": [Candidate("v1.1-nano", "base")], "recipes": ["head_only"]}
    search = _search(tmp_path, dataset, learning_rates=[0.01, 0.001], **asked)
    search.run(lambda _s: None, Notes())
    [place] = (search.project.state / "embeddings").iterdir()
    features = np.load(place / "train" / "features.npy")
    assert features.shape[0] == 8
    made = (place / "train" / "features.npy").stat().st_mtime_ns
    _search(tmp_path, dataset, learning_rates=[0.02], **asked).run(lambda _s: None, Notes())
    assert (place / "train" / "features.npy").stat().st_mtime_ns == made


def test_learning_rates_are_the_recipes_own_where_none_is_named(dataset: Path, tmp_path: Path) -> None:
    search = _search(tmp_path, dataset, recipes=["auto", "full", "lora"], training={"learning_rate": None})
    assert [(t.recipe, t.learning_rate) for t in search.trials] == [
        *(("full", rate) for rate in (0.00033, 0.001, 0.003)),
        *(("lora", rate) for rate in (0.00067, 0.002, 0.006)),
    ]


def test_without_validation_there_is_no_search(tmp_path: Path) -> None:
    blind = write_training_set(tmp_path / "set", lambda split, s: unlabelled(s) if split == "validation" else s)
    with pytest.raises(TrainingError, match="The validation split has no labelled pixel that can be seen"):
        _search(tmp_path, blind)


def test_where_every_trial_fails_that_is_said(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoearth_core.training.search.fit", _diverges)
    with pytest.raises(TrainingError, match=r"^No trial is left; the last to fail said: The loss"):
        _search(tmp_path, dataset, learning_rates=[0.1]).run(lambda _s: None, Notes())


def test_half_files_of_a_search_that_was_killed_go_at_the_next_start(dataset: Path, tmp_path: Path) -> None:
    search = _search(tmp_path, dataset, learning_rates=RATES[:1])
    left = [
        search.place / f"search.json.0a1b{PARTIAL}",
        search.project.state / "embeddings" / "ab" / f"knn.npz{PARTIAL}",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    search.run(lambda _s: None, Notes())
    assert not any(path.exists() for path in left)
