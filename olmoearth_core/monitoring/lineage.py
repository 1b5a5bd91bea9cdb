"""The folders behind a map, found by the digests in their manifests; nothing is run, and nothing is searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from olmoearth_core.errors import ProjectError, StoreError
from olmoearth_core.manifest import Manifest, read_manifest
from olmoearth_core.project import Project
from olmoearth_core.stages import PLACES


@dataclass(frozen=True)
class Output:
    """The outputs of a stage: their folder and manifest."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class MapLineage:
    """What a map was made of.

    Attributes:
        map, tiles, model: outputs of postprocess, infer and finetune.
        dataset: the training set in the project; where a newer one took its place, that.
        replaced: whether it did.
    """

    map: Output
    tiles: Output
    model: Output
    dataset: Output
    replaced: bool

    @property
    def name(self) -> str:
        """The map's id."""
        return self.map.folder.name


def outputs(project: Project, stage: str) -> Iterator[Output]:
    """All outputs of a stage that lie in the project, in order of their folders' names; damaged manifests stay out."""
    for folder in sorted(project.root.glob(PLACES[stage])):
        try:
            manifest = read_manifest(folder)
        except StoreError:
            continue
        if manifest is not None and manifest.stage == stage:
            yield Output(folder, manifest)


def maps(project: Project) -> list[Output]:
    """The maps of a project, by the date they are for, then by when they were made."""
    found = outputs(project, "postprocess")
    return sorted(found, key=lambda o: (str(o.manifest.settings["map"]["date"]), made_at(o)))


def made_at(output: Output) -> float:
    """When outputs were put in place: seconds since 1970."""
    return (output.folder / "manifest.json").stat().st_mtime


def trained_since(project: Project, made: Output) -> bool:
    """Whether a model was trained after outputs were put in place, be it champion or refused."""
    return any(made_at(model) > made_at(made) for model in outputs(project, "finetune"))


def lineage_of(project: Project, map_id: str | None = None) -> MapLineage:
    """What a map was made of.

    Args:
        map_id: which; the one that was made last when not given.

    Raises:
        ProjectError: no such map, or what it was made of is gone.
    """
    every = {output.folder.name: output for output in maps(project)}
    if not every:
        raise ProjectError(f"{project.root}: has no map yet. Run `olmoearth run {project.root.name}` first.")
    if map_id is not None and map_id not in every:
        raise ProjectError(f"'{map_id}' is no map of {project.config.name}; its maps are {', '.join(every)}.")
    chosen = every[map_id] if map_id is not None else max(every.values(), key=made_at)
    tiles = _upstream(project, chosen, "infer")
    model = _upstream(project, tiles, "finetune")
    wanted = model.manifest.inputs["preprocess"]
    datasets = list(outputs(project, "preprocess"))
    if not datasets:
        raise ProjectError(f"{project.root}: the training set is not there. Run `olmoearth run --until preprocess`.")
    dataset = next((d for d in datasets if d.manifest.outputs_digest == wanted), None)
    return MapLineage(chosen, tiles, model, dataset or datasets[0], dataset is None)


def _upstream(project: Project, output: Output, stage: str) -> Output:
    digest = output.manifest.inputs[stage]
    for found in outputs(project, stage):
        if found.manifest.outputs_digest == digest:
            return found
    raise ProjectError(
        f"{output.folder}: the outputs of '{stage}' that it was made of are gone; nothing can be compared. "
        "Run `olmoearth run` to make them again."
    )
