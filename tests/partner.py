"""A small project on the simulated region, and what a call of `olmoearth` leaves: for tests of the doors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

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


def command_environment(home: Path) -> dict[str, str]:
    """The environment of a partner's shell: the tests' own Prefect settings stay out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    return {
        **kept,
        "OLMOEARTH_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
    }
