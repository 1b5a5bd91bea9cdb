"""The stage infer: an area becomes tiles of classes and probabilities, or of measured values.

Leaves `<tile>.tif` (band 1 class, then a probability a class; or the value), `<tile>.json` (its checksum and counts),
plan.json (by which rules) and scenes.json (from which scenes). A run that dies goes on with the tiles that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.mask import without_mask
from olmoearth_core.imagery.presets import absent_catalogue
from olmoearth_core.imagery.read import AssetReader, Failure
from olmoearth_core.imagery.scene import Scene, SceneList, read_scenes
from olmoearth_core.inference.area import Area, load_areas
from olmoearth_core.inference.engines import device_of, local
from olmoearth_core.inference.job import ATTEMPTS, MapJob
from olmoearth_core.inference.journals import failed_tiles, forget_failed, lost_assets, note_failed, note_lost
from olmoearth_core.inference.keys import TileKeys, rules_of, tile_keys
from olmoearth_core.inference.plan import (
    PLAN,
    Layout,
    Plan,
    PlannedModel,
    batch_sizes,
    plan_tiles,
    read_plan,
    window_stride,
    write_plan,
)
from olmoearth_core.inference.product import TileRecord, finished_tile, write_record
from olmoearth_core.inference.reuse import take_over
from olmoearth_core.manifest import Manifest, read_manifest
from olmoearth_core.models.card import ModelCard
from olmoearth_core.models.model_folder import read_card
from olmoearth_core.models.precision import resolve_precision
from olmoearth_core.project import ProjectConfig
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_bytes

SCENES = "scenes.json"
HEADERS_AT_ONCE = 16
"""Threads that read the headers of scenes."""
NAMED = 5
"""Failed tiles that a message names."""
MOST_SPARSE, LEAST_SHARE = 2**33, 0.01
"""An area may span more pixels than the first (900 km at 10 m) only where tiles cover more than the second of them."""


def infer(run: StageRun) -> dict[str, Any]:
    """Map the project's area with its trained model.

    Raises:
        MappingError: the area cannot be used, no scene touches it, the model is not this project's, or tiles could not
            be computed: all others are finished.
        CheckpointError: the model is damaged.
        ImageryError: imagery that cannot be read.
        StoreError: the disk is full; finished tiles are kept.
    """
    config = run.project.config
    model = run.upstream["finetune"].folder
    card = check_card(model, config)
    scenes = read_scenes(run.files["scenes"], run.project.root)
    source = config.map.area
    areas = load_areas(run.files[source], source, crs=config.imagery.crs, resolution=config.imagery.resolution)
    check_coverage(areas, scenes.scenes, source)
    check_catalogue(scenes, run.project.root)
    for sentence in without_mask(scenes.scenes, config.imagery.cloud_mask):
        run.progress.note(f"Warning: {sentence}")
    device = device_of(run.engine)
    damaged = read_manifest(run.scratch)  # of outputs that were finished once: the whole tiles are still here
    plan = with_former_threads(make_plan(config, areas, card, device), run.out, damaged)
    check_extent(plan, source)
    run.meter.device = str(device)

    write_bytes(run.out / SCENES, run.files["scenes"].read_bytes())
    drop_other_rules(run, plan, damaged)
    write_plan(plan, run.out)
    if damaged:  # its whole tiles are kept, so is what they lack
        note_lost(run.scratch, "before", [Failure(**failure) for failure in damaged.summary["failed_assets"]])
    keys = find_keys(run, plan, areas, scenes, card)
    job = MapJob(run.project, plan, run.files[source], run.files["scenes"], model, run.out, keys.keys)
    records = map_tiles(run, job, keys)
    return summarise(run, plan, records, lost_assets(run.scratch))


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
    forget_failed(run.scratch)
    for path in made:
        path.with_suffix(".json").unlink()
        path.unlink()


def with_former_threads(plan: Plan, out: Path, damaged: Manifest | None) -> Plan:
    """The plan with as many threads as the attempt before it had: a map is finished as it was begun."""
    try:
        threads = read_plan(out).threads
    except MappingError:
        threads = damaged.summary.get("threads", plan.threads) if damaged else plan.threads
    return plan.model_copy(update={"threads": threads})


def check_card(model: Path, config: ProjectConfig) -> ModelCard:
    """The card of the project's model in the folder `model`.

    Raises:
        CheckpointError: it is damaged.
        MappingError: it predicts other classes than the project has.
    """
    card = read_card(model)
    main, task = card.main, config.task
    if main.classes != task.class_names:
        raise MappingError(
            f"{model}: the model predicts {', '.join(main.classes) or main.name}, but task.classes in "
            f"project.yaml are {', '.join(task.class_names) or 'none'}. Run `olmoearth finetune`, or give the classes "
            "of the model."
        )
    if (main.kind, main.unit, main.range) != (task.kind, task.unit, task.range):
        raise MappingError(
            f"{model}: the model is a {main.kind} {main.range or ''} {main.unit}, but task in project.yaml "
            f"is a {task.kind} {task.range or ''} {task.unit}. Run `olmoearth finetune`."
        )
    return card


def check_coverage(areas: Sequence[Area], scenes: Sequence[Scene], source: str) -> None:
    """Refuse an area that no scene touches.

    Raises:
        MappingError: with the extents of both.
    """
    if not scenes:
        raise MappingError(
            f"{source}: the scene list is empty: the catalogue has no scene for map.date and imagery.framing. "
            "Correct the date, or imagery.max_cloud_cover."
        )
    boxes = np.array([_box_in_degrees(scene.bbox) for scene in scenes])
    outlines = np.array([area.outline for area in areas])
    shapely.prepare(outlines)
    if not shapely.intersects(outlines[:, None], boxes[None]).any():
        extents = [", ".join(f"{edge:.3f}" for edge in shapely.total_bounds(g)) for g in (outlines, boxes)]
        raise MappingError(
            f"{source}: the area (west, south, east, north: {extents[0]}) lies outside the imagery ({extents[1]}). "
            "Correct map.area, or take a catalogue that covers it."
        )


def check_catalogue(scenes: SceneList, root: Path) -> None:
    """Refuse a scene list whose catalogue is gone from this machine: every tile would come out empty.

    Raises:
        MappingError: with the place.
    """
    if absent := absent_catalogue(scenes.catalogue, {scene.modality for scene in scenes.scenes}, root):
        raise MappingError(
            f"{absent}: the catalogue is not there any more, and so none of the files that the scene list names. Put "
            "it back, or give its new place in imagery.catalogue."
        )


def check_extent(plan: Plan, source: str) -> None:
    """Refuse, before anything is computed, an area of specks far apart: one mosaic of it would be nearly all nodata.

    Raises:
        MappingError: with the extent, and what to do.
    """
    for zone in plan.zones:
        bounds = plan.bounds(zone)
        pixels, tiled = bounds.width * bounds.height, sum(tile.width * tile.height for tile in plan.tiles_of(zone))
        if pixels > MOST_SPARSE and tiled < LEAST_SHARE * pixels:
            raise MappingError(
                f"{source}: its parts lie so far apart that one map of it in {zone} would have {bounds.width:,} x "
                f"{bounds.height:,} pixels, of which {100 * tiled / pixels:.2g} % lie in tiles. Map regions apart: "
                "name a file of one region in map.area."
            )


def make_plan(config: ProjectConfig, areas: Sequence[Area], card: ModelCard, device: torch.device) -> Plan:
    """Resolve everything that must not depend on who computes a tile."""
    layout = Layout(
        tile_size=config.map.tile_size,
        window_size=card.window_size,
        patch_size=card.patch_size,
        stride=window_stride(card.window_size, card.patch_size, config.map.overlap),
    )
    steps = card.framing.spans(config.map.date)
    tiles, windows = plan_tiles(areas, layout)
    return Plan(
        zones=list(dict.fromkeys(tile.crs for tile in tiles)),
        resolution=config.imagery.resolution,
        anchor=config.map.date,
        timesteps=[(step.start, step.end) for step in steps],
        model=PlannedModel(
            weights_sha256=card.weights_sha256,
            classes=card.classes,
            name=card.main.name,
            unit=card.main.unit,
            range=card.main.range,
            sets=card.main.sets,
        ),
        layout=layout,
        batch_sizes=batch_sizes(len(steps), card.window_size, card.patch_size, device.type),
        precision=resolve_precision("auto", device),
        device=device.type,
        threads=torch.get_num_threads(),
        windows=windows,
        tiles=tiles,
    )


def find_keys(run: StageRun, plan: Plan, areas: Sequence[Area], scenes: SceneList, card: ModelCard) -> TileKeys:
    """The keys of the plan's tiles, from the headers of the scenes."""
    from olmoearth_core.stages import STAGES

    rules = rules_of(plan, card, run.project.config.imagery, STAGES["infer"].version)
    with AssetReader(workers=HEADERS_AT_ONCE, access=access_of(run.project)) as reader:
        return tile_keys(plan, areas, scenes, rules, card.bands, card.encoder, reader)


def map_tiles(run: StageRun, job: MapJob, keys: TileKeys) -> list[TileRecord]:
    """Map the tiles that are not finished yet, and that no earlier run of the project made.

    Returns:
        the record of every tile, in the order of the plan.

    Raises:
        MappingError: tiles that could not be computed, now or by an earlier run; all others are finished.
    """
    tiles, engine = job.plan.tiles, run.engine or local
    records = finished_tiles(run.out, job)
    if records:
        run.progress.note(
            f"{len(records)} of {len(tiles)} tiles were finished before; {len(tiles) - len(records)} remain."
        )
    taken = take_over(run, keys, [tile.name for tile in tiles if tile.name not in records])
    if taken:
        left = len(tiles) - len(records) - len(taken)
        run.progress.note(f"{len(taken)} of {len(tiles)} tiles are as they were in an earlier map; {left} to compute.")
    records |= taken
    failed = {name: why for name, why in failed_tiles(run.scratch).items() if name not in records}
    missing = [tile for tile in tiles if tile.name not in records and tile.name not in failed]
    with run.progress.bar("mapping tiles", len(missing)) as advance:
        for outcome in engine(job, missing) if missing else ():
            run.meter.device_seconds += outcome.device_seconds
            run.meter.bytes_read += outcome.bytes_read
            if outcome.record is not None:
                records[outcome.name] = outcome.record
            else:
                failed[outcome.name] = outcome.reason
                note_failed(run.scratch, outcome.name, outcome.reason)
            advance(1)
    if failed:
        raise MappingError(failure_sentence(failed, len(tiles)))
    return [records[tile.name] for tile in tiles]


def finished_tiles(out: Path, job: MapJob) -> dict[str, TileRecord]:
    """The records of tiles that an earlier attempt at this map finished, by name."""
    records = {}
    for tile in job.plan.tiles:
        record = finished_tile(out, tile.name)
        if record is not None and record.key != job.keys[tile.name]:  # then the header of a scene could not be read
            record = record.model_copy(update={"key": job.keys[tile.name]})
            write_record(out, tile.name, record)
        if record is not None:
            records[tile.name] = record
    return records


def failure_sentence(failed: Mapping[str, str], tiles: int) -> str:
    """What a person is told of tiles that could not be computed."""
    names, first = sorted(failed), min(failed)
    named = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return (
        f"{len(failed)} of {tiles} tiles could not be mapped in {ATTEMPTS} attempts: {named}. {first}: {failed[first]} "
        "The other tiles are kept; `olmoearth infer --retry-failed` tries these again."
    )


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
        "threads": plan.threads,
    }


def _box_in_degrees(bbox: tuple[float, float, float, float]) -> shapely.Geometry:
    west, south, east, north = bbox
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))
