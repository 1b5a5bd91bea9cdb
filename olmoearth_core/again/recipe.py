"""The folder in which a map is made again: what lies in it, and the file that says what is to be done.

    recipe.json            what to make, and which file is which input
    project.yaml           as it was
    inputs/  model/        the files that the map was made of
    training/  dataset/    with a training: its project.yaml and checkpoint, and the training set
    plan.json              by which the tiles were computed, where it was kept
    made/tiles/ map/ model/   what came of it, and made/made.json, which tells how it went

Nothing in it knows a registry, so that the platform's code of that time, in an environment of that time, can do the
work: `python -m olmoearth_core.again FOLDER`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from olmoearth_core.errors import StoreError
from olmoearth_core.store import write_json

RECIPE, INPUTS, MODEL, TRAINING, DATASET = "recipe.json", "inputs", "model", "training", "dataset"
MADE, TILES, MAP, RETRAINED = "made", "made/tiles", "made/map", "made/model"
RESULT = "made/made.json"

Value = TypeVar("Value", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recorded(_Part):
    """A stage as it was recorded."""

    key: str
    version: int
    """Of the stage."""
    settings: dict[str, Any]
    summary: dict[str, Any]
    files: dict[str, str]
    """Name of each input file -> where it lies in the folder; those of a training in its own."""


class Recipe(_Part):
    """What is to be made again."""

    schema_version: Literal[1] = 1
    map_id: str
    infer: Recorded
    postprocess: Recorded
    finetune: Recorded | None = None
    """Where the model is to be trained again as well."""
    tiles: list[str] | None = None
    """Names of the tiles to compute; None for all of them and then the products of the map."""
    imagery: str | dict[str, str] | None = None
    """Where the catalogue lies now (one, or one a modality), where the scene list names a path that is not in here."""
    processes: int = 1
    """That compute tiles."""


class Lost(_Part):
    """An asset that could not be read."""

    scene: str
    asset: str
    reason: str


class Made(_Part):
    """How it went, and on what."""

    schema_version: Literal[1] = 1
    tiles: dict[str, str] = {}
    """Name -> sha256 of each tile that was computed."""
    failed: dict[str, str] = {}
    """Name -> why it could not be."""
    lost: list[Lost] = []
    products: dict[str, str] = {}
    """File of the map -> sha256; empty of a sample."""
    retrained: dict[str, str] = {}
    """File of the model -> sha256; empty where none was trained."""
    device: str
    precision: str
    threads: int
    notes: list[str] = []
    """What this code had to do otherwise than was recorded, one sentence each."""
    packages: list[str]
    hardware: dict[str, Any]
    seconds: float


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json into `folder`, whole or not at all."""
    write_json(folder / RECIPE, recipe.model_dump(mode="json"))


def read_recipe(folder: Path) -> Recipe:
    """Read recipe.json of `folder`.

    Raises:
        StoreError: there is none, or it is none of this platform's.
    """
    return _read(folder / RECIPE, Recipe)


def write_made(folder: Path, made: Made) -> None:
    """Write made/made.json into `folder`, whole or not at all."""
    write_json(folder / RESULT, made.model_dump(mode="json"))


def read_made(folder: Path) -> Made:
    """Read made/made.json of `folder`.

    Raises:
        StoreError: there is none, or it is none of this platform's.
    """
    return _read(folder / RESULT, Made)


def _read(path: Path, kind: type[Value]) -> Value:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(
            f"{path}: not a file that this platform writes when a map is made again ({error.__class__.__name__})."
        ) from error
