"""A small simulated project in a workspace of its own, and the `olmoearth` command as a partner would call it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from olmoearth_core.simulate import simulate_world

Run = Callable[..., "Command"]

SETTINGS = """
name: fields
task:
  classes:
    - {name: winter crop, color: "#f2c14e"}
    - {name: summer crop, color: "#d1495b"}
    - {name: double crop, color: "#7b4b94"}
    - {name: grassland, color: "#a7c957"}
    - {name: woodland, color: "#2f6b3c"}
labels: {files: [labels/fields.geojson]}
imagery:
  catalogue: world/catalog.json
  framing: {kind: period, timesteps: 3, days: 60, offset_days: 60}
dataset:
  split: {block_size: 320, validation: 0.2, test: 0.2}
model: {encoder: v1.1-nano, patch_size: 8, window_size: 32}
training: {epochs: 4, batch_size: 8}
map: {area: world/area.geojson, date: 2023-01-01, tile_size: 64, min_area: 500}
"""


class Command:
    """What a call of `olmoearth` left."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


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


def make_project(folder: Path, world: Path, **changes: Any) -> Path:
    """A project folder on the simulated region; `changes` replace keys, written as section__key=value."""
    folder.mkdir(parents=True)
    (folder / "labels").mkdir()
    shutil.copy(world / "labels" / "fields.geojson", folder / "labels")
    (folder / "world").symlink_to(world)
    settings = yaml.safe_load(SETTINGS)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            settings[section][key] = value
        else:
            settings[section] = value
    (folder / "project.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


@pytest.fixture
def project(tmp_path: Path, world: Path) -> Path:
    """A project that has not run."""
    return make_project(tmp_path / "fields", world)


def command_environment(home: Path) -> dict[str, str]:
    """The environment of a partner's shell: the tests' own Prefect settings stay out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    return {
        **kept,
        "OLMOEARTH_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
    }


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
