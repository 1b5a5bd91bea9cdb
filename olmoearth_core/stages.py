"""The five stages of the lifecycle, in order: what each reads, which settings it depends on, where its outputs go.

    labels + catalogue -> export -> preprocess -> finetune -> infer -> postprocess

The functions that do the work are imported when a stage runs, so that looking at this table costs nothing.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from olmoearth_core.errors import ProjectError, StoreError
from olmoearth_core.manifest import MANIFEST, SCRATCH, read_manifest
from olmoearth_core.progress import Progress
from olmoearth_core.project import LabelsConfig, Project, SamplingConfig, TaskConfig
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


def _vector_files(project: Project, *names: str) -> dict[str, Path]:
    """The files by the names that project.yaml gives them; a shapefile's attributes and CRS lie in files beside it."""
    files = {name: project.path(name) for name in names}
    for name, path in list(files.items()):
        if path.suffix.lower() == ".shp":
            beside = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
            files |= {f"{name} {p.suffix}": p for p in beside if p.suffix.lower() in (".dbf", ".prj", ".cpg", ".shx")}
    return files


def label_files(project: Project, _progress: Progress | None = None) -> dict[str, Path]:
    """The labels of all tasks and their areas as inputs of a stage: name -> file, with the files beside a shapefile."""
    sections = [project.config.labels, *(more.labels for more in project.config.auxiliary)]
    names = [name for labels in sections for name in (*labels.files, *([labels.area] if labels.area else []))]
    return _vector_files(project, *dict.fromkeys(names))


def _area_files(project: Project, _progress: Progress | None = None) -> dict[str, Path]:
    return _vector_files(project, project.config.map.area)


def _export_files(project: Project, progress: Progress) -> dict[str, Path]:
    from olmoearth_core.imagery.search import freeze_label_scenes

    return {**label_files(project), "scenes": freeze_label_scenes(project, progress)}


def _preprocess_files(project: Project, progress: Progress) -> dict[str, Path]:
    files = label_files(project)
    if project.config.dataset.split.kind == "blocks":
        from olmoearth_core.labels.frozen import freeze_blocks

        blocks = freeze_blocks(project, progress)
        files[blocks.relative_to(project.root).as_posix()] = blocks
    return files


def _checkpoint_files(project: Project, _progress: Progress) -> dict[str, Path]:
    """The files of the checkpoint that training begins with; a remote one is fetched, so that its content names it."""
    if project.start is not None:
        return {f"start/{name}": project.start / name for name in ("card.json", "weights.safetensors")}
    weights = project.config.model.weights
    if weights is None:
        return {}
    from olmoearth_core.models.catalogue import CATALOGUE

    place = project.path(weights)
    if "://" in weights or (weights in CATALOGUE and not place.exists()):
        from olmoearth_core.models.sources import locate

        fetched = locate(weights)
        return {f"weights/{path.name}": path for path in (fetched.description, fetched.weights)}
    if place.is_file():
        return {"weights": place}
    return {f"weights/{p.relative_to(place).as_posix()}": p for p in sorted(place.rglob("*")) if p.is_file()}


def _infer_files(project: Project, progress: Progress) -> dict[str, Path]:
    from olmoearth_core.imagery.search import freeze_map_scenes

    return {**_area_files(project), "scenes": freeze_map_scenes(project, progress)}


def _dump(section: Any, *keys: str) -> dict[str, Any]:
    dumped: dict[str, Any] = section.model_dump(mode="json")
    return {key: dumped[key] for key in keys} if keys else dumped


def _grid_settings(project: Project) -> dict[str, Any]:
    return _dump(project.config.imagery, "modalities", "resolution", "crs", "framing", "cloud_mask")


def _window_settings(project: Project) -> dict[str, Any]:
    """What decides where windows are, besides how pixels are put on the grid."""
    config, split = project.config, project.config.dataset.split
    return {
        "labels": _label_settings(config.task, config.labels),
        "auxiliary": [_label_settings(more.task, more.labels) for more in config.auxiliary],
        "window_size": config.model.window_size,
        **({"split": split.property} if split.kind == "property" else {}),
    }


def _label_settings(task: TaskConfig, labels: LabelsConfig) -> dict[str, Any]:
    """What decides where the windows of a task are: in most projects not what the labels say there."""
    by_class = labels.unmapped == "ignore" or labels.sampling != SamplingConfig()
    return {**_dump(labels), **({"strata": task.strata} if by_class else {})}


def _task_settings(task: TaskConfig) -> dict[str, Any]:
    """What is learned of a task; the colours of its classes are for pictures."""
    return {**_dump(task, "name", "kind", "unit", "range"), "classes": task.class_names}


def map_id(project: Project, key: str) -> str:
    """The name of a map, and of its folder; `key` is that of its postprocess stage."""
    return f"{project.config.name}-{project.config.map.date.isoformat()}-{key[:8]}"


EMBED, EMBED_TUNED = "embed", "embed-tuned"

_ALL = (
    Stage(
        name="export",
        version=2,
        run=_export,
        settings=lambda p: {"imagery": _grid_settings(p), **_window_settings(p)},
        files=_export_files,
        place=lambda _project, _key: "data/export",
    ),
    Stage(
        name="preprocess",
        version=3,
        run=_preprocess,
        settings=lambda p: {
            "task": _task_settings(p.config.task),
            "labels": _dump(p.config.labels),
            "auxiliary": [{"task": _task_settings(m.task), "labels": _dump(m.labels)} for m in p.config.auxiliary],
            "imagery": {**_grid_settings(p), "composite": p.config.imagery.composite},
            "dataset": _dump(p.config.dataset),
            "window_size": p.config.model.window_size,
        },
        after=("export",),
        files=_preprocess_files,
        place=lambda _project, _key: "data/dataset",
    ),
    Stage(
        name="finetune",
        version=4,
        run=_finetune,
        settings=lambda p: {
            "tasks": {name: _task_settings(task) for name, task in p.config.tasks.items()},
            "weights": {extra.task.name: extra.weight for extra in p.config.auxiliary},
            "model": _dump(p.config.model),
            "training": _dump(p.config.training),
            "framing": _dump(p.config.imagery, "framing"),  # goes into the model card: mapping must frame alike
        },
        after=("preprocess",),
        files=_checkpoint_files,
        place=lambda _project, key: f"models/{key[:12]}",
    ),
    Stage(
        name="infer",
        version=7,
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
        version=6,
        run=_postprocess,
        settings=lambda p: {
            "name": p.config.name,
            "task": {
                **_dump(p.config.task, *(["name"] if p.config.task.range else []), "kind", "unit", "range"),
                "classes": [_dump(c) for c in p.config.task.classes],
            },
            "map": _dump(p.config.map, "date", "min_area", "simplify", "events", "conformal"),
        },
        after=("infer",),
        files=_area_files,
        place=lambda project, key: f"maps/{map_id(project, key)}",
    ),
)

STAGES = {stage.name: stage for stage in _ALL}


def embed_stage(*, tuned: bool = False, dtype: str = "int8") -> Stage:
    """Embeddings of the map's area: no part of the lifecycle, made when somebody asks for them.

    By the encoder that fine-tuning begins with, or, `tuned`, the one it made; stored as `dtype` (embeddings/code.py).

    Raises:
        ProjectError: no such dtype.
    """
    if dtype not in ("int8", "float16"):
        raise ProjectError(f"dtype '{dtype}': embeddings are stored as int8 or float16.")

    def run(stage_run: StageRun) -> dict[str, Any]:
        from olmoearth_core.embeddings.embed import embed

        return embed(stage_run, dtype)  # type: ignore[arg-type]

    return Stage(
        name=EMBED_TUNED if tuned else EMBED,
        version=6,
        run=run,
        settings=lambda p: {
            "imagery": {**_grid_settings(p), "composite": p.config.imagery.composite},
            "map": _dump(p.config.map, "date", "tile_size", "overlap"),
            "model": _dump(p.config.model, "encoder", "weights", "window_size", "patch_size"),
            "seed": p.config.training.seed,
            "dtype": dtype,
        },
        after=("finetune",) if tuned else (),
        files=lambda p, progress: {**_infer_files(p, progress), **({} if tuned else _checkpoint_files(p, progress))},
        place=lambda _project, key: f"embeddings/{key[:12]}",
    )


def stage_named(name: str) -> Stage:
    """A stage of the lifecycle, or one that is made on demand."""
    return STAGES[name] if name in STAGES else embed_stage(tuned=name == EMBED_TUNED)


PLACES = {
    "export": "data/export",
    "preprocess": "data/dataset",
    "finetune": "models/*",
    "infer": "tiles/*",
    "postprocess": "maps/*",
}
"""Stage -> pattern of the folders below a project in which `place` puts its outputs."""


def forget_failed_tiles(project: Project) -> list[str]:
    """Have the next run of infer try the tiles again that failed; their names."""
    from olmoearth_core.inference.journals import forget_failed

    works = sorted((project.state / "work").glob("infer-*"))
    return [name for work in works for name in forget_failed(work / SCRATCH)]


def forget_failures(project: Project) -> list[str]:
    """Have the next run make those outputs again that lack assets which could not be read; the folders it concerns.

    Whole outputs are left alone: their manifest is what makes them count, and only theirs goes.
    """
    forgotten = []
    for pattern in PLACES.values():
        for folder in sorted(project.root.glob(pattern)):
            try:
                manifest = read_manifest(folder)
            except StoreError:  # damaged: made again anyway
                continue
            if manifest is not None and manifest.summary.get("failed_assets"):
                (folder / MANIFEST).unlink()
                forgotten.append(folder.relative_to(project.root).as_posix())
    return forgotten
