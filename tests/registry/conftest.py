"""Fixtures: a small project that went through its lifecycle, workspaces, a real PostgreSQL server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import house as houses
import pytest
import smallrun
from pgdatabase import new_postgres_database

from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult
from registry.mlflow.models import ModelVersion, register_model
from registry.workspace import Workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with every stage's outputs; to be copied, not changed."""
    project = smallrun.small_project(tmp_path_factory.mktemp("finished") / "small")
    smallrun.run(project)
    return project.root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Project:
    """A copy of the finished project."""
    return load_project(shutil.copytree(finished, tmp_path / "small"))


@pytest.fixture
def results(project: Project) -> dict[str, StageResult]:
    """The finished stages of `project`, as a run that skips them all gives them."""
    return smallrun.run(project)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace in a folder of its own."""
    return Workspace.at(tmp_path / "home")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server."""
    folder = tmp_path_factory.mktemp("postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))  # pgserver warns where there is none
        import pgserver

    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    return new_postgres_database(request.getfixturevalue("postgres_server"))


@pytest.fixture(scope="session")
def models_home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with MLflow's database, which takes seconds to make."""
    return Workspace.at(tmp_path_factory.mktemp("models") / "home")


@pytest.fixture(scope="session")
def registered(finished: Path, models_home: Workspace) -> ModelVersion:
    """The finished project's model as MLflow knows it."""
    project = load_project(finished)
    return register_model(models_home, project, smallrun.run(project)["finetune"])


@pytest.fixture(scope="session")
def house(
    finished: Path, models_home: Workspace, registered: ModelVersion, tmp_path_factory: pytest.TempPathFactory
) -> houses.House:
    """A workspace with a map; tests put back what they change."""
    return houses.build(tmp_path_factory.mktemp("house"), finished, models_home, registered)
