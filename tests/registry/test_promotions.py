"""Promotions against a real MLflow and both databases: intent, confirmation, kills between the two, rollback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import smallrun

from olmoearth_core.project import Project
from registry.context import RunContext
from registry.errors import ModelError
from registry.mlflow.models import ModelVersion, get_model, move_alias
from registry.mlflow.promotions import champion_of, disagreement, promote, promotions, rollback, settle
from registry.registry import Registry, open_registry
from registry.workspace import Workspace

NUMBER = iter(range(1000))


@pytest.fixture(scope="module")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database, which takes seconds to make; each test has a project of its own in it."""
    return tmp_path_factory.mktemp("promotions") / "home"


@pytest.fixture
def registry(mlflow_home: Path, database_url: str) -> Iterator[Registry]:
    with open_registry(Workspace.at(mlflow_home, registry_url=database_url)) as registry:
        yield registry


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> list[Project]:
    """Three trained models, copied under a new name by each test."""
    projects = []
    for seed in range(3):
        project = smallrun.small_project(tmp_path_factory.mktemp("trained") / "p", name="p", seed=seed)
        smallrun.run(project, "export", "preprocess", "finetune")
        projects.append(project)
    return projects


@pytest.fixture
def versions(registry: Registry, trainings: list[Project]) -> list[ModelVersion]:
    """A project's versions 1, 2, 3, on record; the first is the champion."""
    name = f"project-{next(NUMBER)}"
    made = []
    for number, trained in enumerate(trainings, start=1):
        project = Project(trained.root, trained.config.model_copy(update={"name": name}))
        result = smallrun.run(trained, "finetune")["finetune"]
        registry.record(project, result, RunContext.here(project))
        made.append(get_model(registry.workspace, name, str(number)))
    settle(registry, name)
    return made


def told(registry: Registry, name: str) -> list[tuple[Any, ...]]:
    """Oldest first."""
    return [(p.action, p.from_version, p.to_version, p.state) for p in reversed(promotions(registry, name))]


def test_the_first_model_is_champion_and_on_record(registry: Registry, versions: list[ModelVersion]) -> None:
    name = versions[0].name
    (first,) = promotions(registry, name)
    assert (first.to_version, first.from_version, first.state, first.why) == ("1", None, "confirmed", "the first model")
    assert first.model is not None
    assert first.model.digest == versions[0].digest
    settle(registry, name)
    assert len(promotions(registry, name)) == 1
    assert disagreement(registry, name) is None


def test_a_promotion_is_intended_and_confirmed(registry: Registry, versions: list[ModelVersion]) -> None:
    name = versions[0].name
    done = promote(registry, versions[1], why="it is better", gates={"score": {"passed": True}}, by="a flow")
    assert (done.state, done.from_version, done.to_version) == ("confirmed", "1", "2")
    row = promotions(registry, name)[0]
    assert (row.who, row.why, row.gates) == ("a flow", "it is better", {"score": {"passed": True}})
    assert row.settled is not None
    assert row.intended <= row.settled
    assert get_model(registry.workspace, name).version == "2"
    with pytest.raises(ModelError, match="version 2 is the champion already"):
        promote(registry, versions[1], why="again")
    assert len(promotions(registry, name)) == 2


def test_rollback_goes_back_and_further_back(registry: Registry, versions: list[ModelVersion]) -> None:
    name = versions[0].name
    for version in versions[1:]:
        promote(registry, version, why="newer")
    assert rollback(registry, name, why="the map looks wrong").to_version == "2"
    assert rollback(registry, name, why="that one too").to_version == "1"
    assert get_model(registry.workspace, name).version == "1"
    with pytest.raises(ModelError, match="version 1 is the first champion"):
        rollback(registry, name, why="and that")
    promote(registry, versions[2], why="it was right")
    assert rollback(registry, name, why="no").to_version == "1"
    assert told(registry, name)[2:] == [
        ("promote", "2", "3", "confirmed"),
        ("rollback", "3", "2", "confirmed"),
        ("rollback", "2", "1", "confirmed"),
        ("promote", "1", "3", "confirmed"),
        ("rollback", "3", "1", "confirmed"),
    ]


KILLED = """
import os, sys
from pathlib import Path
from registry.mlflow import promotions
from registry.mlflow.models import get_model
from registry.registry import open_registry
from registry.workspace import Workspace

workspace = Workspace.at(Path(sys.argv[1]), registry_url=sys.argv[2])
move = promotions.move_alias
def killed(*arguments):
    if sys.argv[4] == "after":
        move(*arguments)
    os._exit(9)
promotions.move_alias = killed
with open_registry(workspace) as registry:
    promotions.promote(registry, get_model(workspace, sys.argv[3], "2"), why="killed")
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_intent_and_confirmation(registry: Registry, versions: list[ModelVersion], when: str) -> None:
    workspace, name = registry.workspace, versions[0].name
    command = [sys.executable, "-c", KILLED, str(workspace.home), workspace.registry_url, name, when]
    assert subprocess.run(command, check=False, timeout=120).returncode == 9
    assert promotions(registry, name)[0].state == "intended"
    (left,) = settle(registry, name)
    assert (left.version, left.state) == ("2", "confirmed")
    assert get_model(workspace, name).version == "2"
    assert told(registry, name)[-1] == ("promote", "1", "2", "confirmed")
    assert settle(registry, name) == []


def test_killed_and_the_alias_moved_elsewhere_since(registry: Registry, versions: list[ModelVersion]) -> None:
    workspace, name = registry.workspace, versions[0].name
    command = [sys.executable, "-c", KILLED, str(workspace.home), workspace.registry_url, name, "before"]
    assert subprocess.run(command, check=False, timeout=120).returncode == 9
    move_alias(workspace, name, "champion", "3")  # somebody, in MLflow's pages
    (left,) = settle(registry, name)
    assert left.state == "failed"
    assert "has been version 3 since" in left.sentence
    champion = champion_of(registry, name)
    assert champion is not None
    assert champion.version == "3"
    odd = str(disagreement(registry, name))
    assert "MLflow says version 3; " in odd
    assert " meant version 1 to be champion on " in odd


def test_a_refusal_of_mlflow_is_on_record(registry: Registry, versions: list[ModelVersion]) -> None:
    from dataclasses import replace

    name = versions[0].name
    with pytest.raises(ModelError, match="says"):
        promote(registry, replace(versions[1], version="99"), why="a version that is gone")
    row = promotions(registry, name)[0]
    assert (row.state, row.to_version) == ("failed", "99")
    assert "99" in str(row.reason)
    assert get_model(registry.workspace, name).version == "1"
    assert disagreement(registry, name) is None
