"""A small simulated project in a workspace of its own, and the `olmoearth` command as a partner would call it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from partner import Command, Run, command_environment, make_project

from olmoearth_core.simulate import simulate_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated region, made once."""
    folder = tmp_path_factory.mktemp("world")
    simulate_world(folder, size=192, seed=3, every=20)
    return folder


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for the session: Prefect and MLflow lay their databases once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace, in force for this process and for the commands it starts."""
    monkeypatch.setenv("OLMOEARTH_HOME", str(shared_home))
    return shared_home


@pytest.fixture
def project(tmp_path: Path, world: Path) -> Path:
    """A project that has not run."""
    return make_project(tmp_path / "fields", world)


@pytest.fixture
def olmoearth(home: Path) -> Run:
    """Call the command line: olmoearth("run", folder, "--json")."""

    def call(*arguments: str | Path, cwd: Path | None = None) -> Command:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "olmoearth"), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=command_environment(home),
            timeout=300,
        )
        return Command(done)

    return call
