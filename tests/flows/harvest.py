"""A small project that retrains: a poor first model, settings that make a better or a worse one, labels that change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from partner import make_project

WORSE: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-7, "patience": None}
BETTER: dict[str, Any] = {"epochs": 6, "learning_rate": 0.01, "recipe": "head_only"}
GATES = {"class_drop": 1.0, "newest_drop": 1.0, "ece": 1.0, "drop": 0.0}
"""What is proved is the path, not the calibration of a toy: the score alone decides."""


def harvest_project(folder: Path, world: Path, *, name: str, hook: str | None = None, **retraining: Any) -> Path:
    """A project whose first model will be poor."""
    settings: dict[str, Any] = {"retraining": {"remap": True, "gates": GATES, **retraining}}
    if hook is not None:
        settings["notifications"] = {"to": [hook]}
    project = make_project(folder, world, name=name, **settings)
    train(project, **WORSE)
    relabel(project, leave_out=4)
    return project


def train(project: Path, **training: Any) -> None:
    """Change the section training."""
    change(project, training={"batch_size": 8, "recipe": "head_only", **training})


def change(project: Path, **sections: Any) -> None:
    """Replace sections of project.yaml; keys that are None go."""
    path = project / "project.yaml"
    settings = yaml.safe_load(path.read_text())
    for name, values in sections.items():
        settings[name] = {key: value for key, value in values.items() if value is not None}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


def relabel(project: Path, *, leave_out: int) -> None:
    """The world's labels without the last ones."""
    world = json.loads((project / "world" / "labels" / "fields.geojson").read_text())
    world["features"] = world["features"][: len(world["features"]) - leave_out]
    (project / "labels" / "fields.geojson").write_text(json.dumps(world))
