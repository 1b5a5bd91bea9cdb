"""A search in a real MLflow: a run above, a run for every trial, nothing twice after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import smallrun

from olmoearth_core.training.candidates import Candidate
from olmoearth_core.training.trials import Standing, Trial
from registry.mlflow.models import list_models
from registry.mlflow.search import open_search
from registry.workspace import Workspace

KEY, DATASET = "a" * 64, "d" * 64


def _standing(number: int, epochs: int, **changes: Any) -> Standing:
    trial = Trial(number, Candidate("v1.1-nano", None), "full", number / 1000)
    history = [
        {"epoch": k, "training_loss": 1 / k, "headline": k / 10, "validation": {"miou": k / 10}}
        for k in range(1, epochs + 1)
    ]
    return replace(Standing(trial, 0, epochs, 9, epochs / 10, epochs, history), **changes)


def _log(workspace: Workspace, project: Any, standings: list[Standing], *, kill: bool = False) -> str:
    with open_search(workspace, project, KEY, DATASET, 2) as log:
        for standing in standings:
            log.log(standing)
        if kill:
            raise KeyboardInterrupt
        log.end({"winner": {"encoder": "v1.1-nano", "learning_rate": 0.001, "score": 0.3}})
    return log.run


def test_every_trial_is_a_run_below_the_search_and_nothing_is_logged_twice(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    workspace = Workspace.at(tmp_path / "home")
    project = smallrun.small_project(tmp_path / "small")
    first = [_standing(1, 1), _standing(2, 1)]
    with pytest.raises(KeyboardInterrupt):
        _log(workspace, project, first, kill=True)
    failed = _standing(2, 1, outcome="failed", why="no number")
    run = _log(workspace, project, [*first, failed, _standing(1, 3), _standing(1, 3, rung=1, outcome="won")])
    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    experiment = client.get_experiment_by_name(project.config.name).experiment_id
    by_name = {found.info.run_name: found for found in client.search_runs([experiment])}
    assert sorted(by_name) == [f"search-{KEY[:8]}", "trial-001", "trial-002"]
    above, won, lost = (by_name[name] for name in sorted(by_name))
    assert (above.info.run_id, above.info.status) == (run, "FINISHED")
    assert above.data.tags["olmoearth.winner.encoder"] == "v1.1-nano"
    assert above.data.tags["olmoearth.dataset_digest"] == DATASET
    assert above.data.metrics["score"] == 0.3
    assert {found.data.tags["mlflow.parentRunId"] for found in (won, lost)} == {run}
    assert (won.info.status, lost.info.status) == ("FINISHED", "FAILED")
    assert (won.data.tags["olmoearth.outcome"], lost.data.tags["olmoearth.why"]) == ("won", "no number")
    assert won.data.params == {"encoder": "v1.1-nano", "weights": "None", "recipe": "full", "learning_rate": "0.001"}
    history = client.get_metric_history(won.info.run_id, "epoch/validation/miou")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert won.data.metrics["score"] == 0.3
    assert list_models(workspace, project.config.name) == []  # a search registers nothing
