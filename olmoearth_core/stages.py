"""The five stages of the lifecycle, in order: what each reads, which settings it depends on, where its outputs go.

    labels + catalogue -> export -> preprocess -> finetune -> infer -> postprocess

The functions that do the work are imported when a stage runs, so that looking at this table costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.stage import Stage, StageRun


def _export(run: StageRun) -> dict[str, Any]:
    from olmoearth_core.imagery.export import export

    return export(run)


def _preprocess(run: StageRun) -> dict[str, Any]:
    from olmoearth_core.dataset.preprocess import preprocess

    return preprocess(run)


def _finetune(run: StageRun) -> dict[str, Any]:
    from olmoearth_core.training.finetune import finetune

    return finetune(run)


def _infer(run: StageRun) -> dict[str, Any]:
    from olmoearth_core.inference.infer import infer

    return infer(run)


def _postprocess(run: StageRun) -> dict[str, Any]:
    from olmoearth_core.postprocess.postprocess import postprocess

    return postprocess(run)


def _label_files(project: Project) -> dict[str, Path]:
    labels = project.config.labels
    names = [*labels.files, *([labels.area] if labels.area else [])]
    return {name: project.path(name) for name in names}


def _export_files(project: Project, progress: Progress) -> dict[str, Path]:
    from olmoearth_core.imagery.search import freeze_label_scenes

    return {**_label_files(project), "scenes": freeze_label_scenes(project, progress)}


def _infer_files(project: Project, progress: Progress) -> dict[str, Path]:
    from olmoearth_core.imagery.search import freeze_map_scenes

    area = project.config.map.area
    return {area: project.path(area), "scenes": freeze_map_scenes(project, progress)}


def _dump(section: Any, *keys: str) -> dict[str, Any]:
    dumped: dict[str, Any] = section.model_dump(mode="json")
    return {key: dumped[key] for key in keys} if keys else dumped


def _grid_settings(project: Project) -> dict[str, Any]:
    return _dump(project.config.imagery, "modalities", "resolution", "crs", "framing")


def map_id(project: Project, key: str) -> str:
    """The name of a map, and of its folder; `key` is that of its postprocess stage."""
    return f"{project.config.name}-{project.config.map.date.isoformat()}-{key[:8]}"


_ALL = (
    Stage(
        name="export",
        version=1,
        run=_export,
        settings=lambda p: {
            "labels": _dump(p.config.labels),
            "imagery": _grid_settings(p),
            "window_size": p.config.model.window_size,
        },
        files=_export_files,
        place=lambda _project, _key: "data/export",
    ),
    Stage(
        name="preprocess",
        version=1,
        run=_preprocess,
        settings=lambda p: {
            "classes": p.config.task.class_names,
            "labels": _dump(p.config.labels),
            "imagery": {**_grid_settings(p), "composite": p.config.imagery.composite},
            "dataset": _dump(p.config.dataset),
            "window_size": p.config.model.window_size,
        },
        after=("export",),
        files=lambda project, _progress: _label_files(project),
        place=lambda _project, _key: "data/dataset",
    ),
    Stage(
        name="finetune",
        version=1,
        run=_finetune,
        settings=lambda p: {
            "task": {"kind": p.config.task.kind, "classes": p.config.task.class_names},
            "model": _dump(p.config.model),
            "training": _dump(p.config.training),
        },
        after=("preprocess",),
        place=lambda _project, key: f"models/{key[:12]}",
    ),
    Stage(
        name="infer",
        version=1,
        run=_infer,
        settings=lambda p: {
            "imagery": {**_grid_settings(p), "composite": p.config.imagery.composite},
            "map": _dump(p.config.map, "date", "tile_size", "overlap"),
        },
        after=("finetune",),
        files=_infer_files,
        place=lambda _project, key: f"tiles/{key[:12]}",
    ),
    Stage(
        name="postprocess",
        version=1,
        run=_postprocess,
        settings=lambda p: {
            "name": p.config.name,
            "classes": [_dump(c) for c in p.config.task.classes],
            "map": _dump(p.config.map, "date", "min_area"),
        },
        after=("infer",),
        files=lambda project, _progress: {project.config.map.area: project.path(project.config.map.area)},
        place=lambda project, key: f"maps/{map_id(project, key)}",
    ),
)

STAGES = {stage.name: stage for stage in _ALL}
