"""The stage infer: an area becomes tiles of classes and probabilities, or of measured values.

Leaves `<tile>.tif` (band 1 class, then a probability a class; or the value), `<tile>.json` (its checksum and counts),
plan.json (by which rules) and scenes.json (from which scenes). A run that dies goes on with the tiles that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import shapely

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.mask import without_mask
from olmoearth_core.imagery.read import AssetReader, Failure
from olmoearth_core.imagery.scene import Scene, SceneList, read_scenes
from olmoearth_core.inference.area import Area, load_area
from olmoearth_core.inference.pipeline import overlapped
from olmoearth_core.inference.plan import (
    PLAN,
    Layout,
    Plan,
    PlannedModel,
    Tile,
    batch_sizes,
    plan_tiles,
    tile_windows,
    window_stride,
    write_plan,
)
from olmoearth_core.inference.product import TileRecord, finished_tile, write_tile
from olmoearth_core.inference.tile import MappedTile, TileInput, map_tile
from olmoearth_core.manifest import Manifest, read_manifest
from olmoearth_core.models.model_folder import load_model
from olmoearth_core.models.predictor import TrainedModel
from olmoearth_core.project import ProjectConfig
from olmoearth_core.stage import StageRun, Upstream
from olmoearth_core.store import write_bytes, write_json

SCENES = "scenes.json"
READERS = 4
"""Threads that read assets for a tile; more hide more of a network's latency, and none changes a pixel."""


def infer(run: StageRun) -> dict[str, Any]:
    """Map the project's area with its trained model.

    Raises:
        MappingError: the area cannot be used, no scene touches it, or the model is not this project's.
        CheckpointError: the model is damaged.
        ImageryError: imagery that cannot be read.
        StoreError: the disk is full; finished tiles are kept.
    """
    config = run.project.config
    model = load_trained(run.upstream["finetune"], config)
    scenes = read_scenes(run.files["scenes"], run.project.root)
    source = config.map.area
    area = load_area(run.files[source], source, crs=config.imagery.crs, resolution=config.imagery.resolution)
    check_coverage(area, scenes.scenes, source)
    for sentence in without_mask(scenes.scenes, config.imagery.cloud_mask):
        run.progress.note(f"warning: {sentence}")
    plan = make_plan(config, area, model)

    damaged = read_manifest(run.scratch)  # of outputs that were finished once: the whole tiles are still here
    write_bytes(run.out / SCENES, run.files["scenes"].read_bytes())
    drop_other_rules(run, plan, damaged)
    write_plan(plan, run.out)
    journal = FailureJournal(run.scratch / "failures.json")
    if damaged:  # its whole tiles are kept, so is what they lack
        journal.add([Failure(**failure) for failure in damaged.summary["failed_assets"]])
    records = map_tiles(run, plan, area, scenes, model, journal)
    return summarise(run, plan, records, journal.read())


def drop_other_rules(run: StageRun, plan: Plan, damaged: Manifest | None) -> None:
    """Remove tiles that an earlier attempt made by another plan (another device's precision or batch sizes).

    A map is made by one rule, and plan.json says which; where it was lost, its checksum in the `damaged` manifest does.
    """
    made = [path for path in run.out.glob("*.tif") if path.with_suffix(".json").is_file()]
    write_plan(plan, run.scratch)
    rule = sha256_file(run.out / PLAN) if (run.out / PLAN).is_file() else damaged and damaged.outputs[PLAN].sha256
    if not made or rule == sha256_file(run.scratch / PLAN):
        return
    run.progress.note(f"{len(made)} tiles were made by another plan (precision, batch size): made anew")
    for path in made:
        path.with_suffix(".json").unlink()
        path.unlink()


def load_trained(upstream: Upstream, config: ProjectConfig) -> TrainedModel:
    """The project's model.

    Raises:
        CheckpointError: it is damaged.
        MappingError: it predicts other classes than the project has.
    """
    model = load_model(upstream.folder)
    main, task = model.card.main, config.task
    if main.classes != task.class_names:
        raise MappingError(
            f"{upstream.folder}: the model predicts {', '.join(main.classes) or main.name}, but task.classes in "
            f"project.yaml are {', '.join(task.class_names) or 'none'}. Run `olmoearth finetune`, or give the classes "
            "of the model."
        )
    if (main.kind, main.unit, main.range) != (task.kind, task.unit, task.range):
        raise MappingError(
            f"{upstream.folder}: the model is a {main.kind} {main.range or ''} {main.unit}, but task in project.yaml "
            f"is a {task.kind} {task.range or ''} {task.unit}. Run `olmoearth finetune`."
        )
    return model


def check_coverage(area: Area, scenes: Sequence[Scene], source: str) -> None:
    """Refuse an area that no scene touches.

    Raises:
        MappingError: with the extents of both.
    """
    if not scenes:
        raise MappingError(
            f"{source}: the scene list is empty: the catalogue has no scene for map.date and imagery.framing. "
            "Correct the date, or imagery.max_cloud_cover."
        )
    boxes = [_box_in_degrees(scene.bbox) for scene in scenes]
    if not any(box.intersects(area.outline) for box in boxes):
        extents = [", ".join(f"{edge:.3f}" for edge in g.bounds) for g in (area.outline, shapely.union_all(boxes))]
        raise MappingError(
            f"{source}: the area (west, south, east, north: {extents[0]}) lies outside the imagery ({extents[1]}). "
            "Correct map.area, or take a catalogue that covers it."
        )


def make_plan(config: ProjectConfig, area: Area, model: TrainedModel) -> Plan:
    """Resolve everything that must not depend on who computes a tile."""
    card = model.card
    layout = Layout(
        tile_size=config.map.tile_size,
        window_size=card.window_size,
        patch_size=card.patch_size,
        stride=window_stride(card.window_size, card.patch_size, config.map.overlap),
    )
    steps = card.framing.spans(config.map.date)
    tiles, windows = plan_tiles(area, layout)
    return Plan(
        crs=area.grid.crs,
        resolution=area.grid.resolution,
        anchor=config.map.date,
        timesteps=[(step.start, step.end) for step in steps],
        model=PlannedModel(
            weights_sha256=card.weights_sha256,
            classes=card.classes,
            name=card.main.name,
            unit=card.main.unit,
            range=card.main.range,
        ),
        layout=layout,
        batch_sizes=batch_sizes(len(steps), card.window_size, card.patch_size, model.predictor.device.type),
        precision=model.predictor.encoder.precision,
        windows=windows,
        tiles=tiles,
    )


class FailureJournal:
    """The assets that could not be read, kept beside the tiles while the stage runs, so that a kill forgets none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Failure]:
        """All failures so far, by scene and asset."""
        try:
            return sorted(Failure(**failure) for failure in json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return []

    def add(self, failures: Sequence[Failure]) -> None:
        """Remember `failures` beside those that are known."""
        known = self.read()
        if not set(failures) <= set(known):
            write_json(self.path, [asdict(failure) for failure in sorted({*known, *failures})])


def map_tiles(
    run: StageRun, plan: Plan, area: Area, scenes: SceneList, model: TrainedModel, journal: FailureJournal
) -> list[TileRecord]:
    """Map the tiles that are not finished yet: threads read, the device computes, one thread writes.

    Returns:
        the record of every tile, in the order of the plan.
    """
    run.meter.device = str(model.predictor.device)
    card, imagery = model.card, run.project.config.imagery
    steps = [Timestep(start, end) for start, end in plan.timesteps]
    reader = AssetReader(run.meter, workers=READERS, access=access_of(run.project))

    def read(tile: Tile) -> TileInput:
        box = plan.box(tile)
        windows = tile_windows(area, box, plan.layout)
        around = reduce(PixelBox.union, windows)
        cubes = {
            modality: compose(
                scenes,
                around,
                steps,
                modality=modality,
                bands=bands,
                composite=imagery.composite,
                cloud_mask=imagery.cloud_mask,
                reader=reader,
            )
            for modality, bands in card.bands.items()
        }
        return TileInput(box, area.mask(box), windows, cubes)

    def compute(_tile: Tile, given: TileInput) -> MappedTile:
        with run.meter.on_device():
            return map_tile(
                given,
                model.predict,
                model=plan.model,
                layout=plan.layout,
                batch_sizes=plan.batch_sizes,
            )

    def write(tile: Tile, mapped: MappedTile) -> tuple[str, TileRecord]:
        journal.add(reader.failures)  # before the tile counts as finished
        return tile.name, write_tile(run.out, tile.name, mapped, plan.model)

    records = {tile.name: record for tile in plan.tiles if (record := finished_tile(run.out, tile.name))}
    missing = [tile for tile in plan.tiles if tile.name not in records]
    if records:
        run.progress.note(f"{len(records)} of {len(plan.tiles)} tiles were finished before; {len(missing)} remain.")
    with reader, run.progress.bar("mapping tiles", len(missing)) as advance:
        for name, record in overlapped(missing, read, compute, write):
            records[name] = record
            advance(1)
    return [records[tile.name] for tile in plan.tiles]


def summarise(run: StageRun, plan: Plan, records: Sequence[TileRecord], failures: Sequence[Failure]) -> dict[str, Any]:
    """What a person wants to know of the tiles; a tile without any imagery is named, and told to the listener."""
    empty = [tile.name for tile, record in zip(plan.tiles, records, strict=True) if not record.mapped_pixels]
    area_pixels = sum(record.area_pixels for record in records)
    mapped = sum(record.mapped_pixels for record in records)
    if failures:
        first = failures[0]
        run.progress.note(
            f"{len(failures)} assets could not be read and were left out, the first {first.asset} of {first.scene}: "
            f"{first.reason}"
        )
    if not mapped:
        run.progress.note("No pixel of the area has a valid observation: the map holds nodata only.")
    elif mapped < area_pixels:
        unseen = area_pixels - mapped
        run.progress.note(
            f"{unseen:,} of the area's {area_pixels:,} pixels have no valid observation in any timestep: nodata."
        )
    return {
        "tiles": len(plan.tiles),
        "empty_tiles": empty,
        "windows": plan.windows,
        "windows_computed": sum(tile.windows for tile in plan.tiles),
        "windows_seen": sum(record.windows_seen for record in records),
        "area_pixels": area_pixels,
        "mapped_pixels": mapped,
        "class_pixels": {
            name: sum(record.class_pixels[value] for record in records) for value, name in enumerate(plan.model.classes)
        },
        "failed_assets": [asdict(failure) for failure in failures],
    }


def _box_in_degrees(bbox: tuple[float, float, float, float]) -> shapely.Geometry:
    west, south, east, north = bbox
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))
