"""The stage infer: an area becomes tiles of classes and probabilities, or of measured values.

Leaves `<tile>.tif` (band 1 class, then a probability a class; or the value), `<tile>.json` (its checksum and counts),
plan.json (by which rules) and scenes.json (from which scenes). A run that dies goes on with the tiles that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.mask import without_mask
from olmoearth_core.imagery.read import AssetReader, Failure
from olmoearth_core.imagery.scene import SceneList, read_scenes
from olmoearth_core.inference.area import Area, load_areas
from olmoearth_core.inference.checks import check_card, check_catalogue, check_coverage, check_extent
from olmoearth_core.inference.engines import device_of, local
from olmoearth_core.inference.job import ATTEMPTS, MapJob
from olmoearth_core.inference.journals import failed_tiles, forget_failed, lost_assets, note_failed, note_lost
from olmoearth_core.inference.keys import TileKeys, rules_of, tile_keys
from olmoearth_core.inference.plan import (
    PLAN,
    Plan,
    PlannedModel,
    batch_sizes,
    map_layout,
    plan_tiles,
    read_plan,
    write_plan,
)
from olmoearth_core.inference.product import TileRecord, finished_tile, write_record
from olmoearth_core.inference.reuse import take_over
from olmoearth_core.inference.tally import Tally
from olmoearth_core.manifest import Manifest, read_manifest
from olmoearth_core.models.card import ModelCard
from olmoearth_core.models.precision import resolve_precision
from olmoearth_core.project import ProjectConfig
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_bytes

SCENES = "scenes.json"
HEADERS_AT_ONCE = 16
"""Threads that read the headers of scenes."""
NAMED = 5
"""Failed tiles that a message names."""


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
    check_extent(plan.tiles, source)
    run.meter.device = str(device)

    write_bytes(run.out / SCENES, run.files["scenes"].read_bytes())
    drop_other_rules(run, plan, damaged)
    write_plan(plan, run.out)
    if damaged:  # its whole tiles are kept, so is what they lack
        note_lost(run.scratch, "before", [Failure(**failure) for failure in damaged.summary["failed_assets"]])
    keys = find_keys(run, plan, areas, scenes, card)
    job = MapJob(run.project, plan, run.files[source], run.files["scenes"], model, run.out, keys.keys)
    tally = map_tiles(run, job, keys)
    lost = lost_assets(run.scratch)
    for sentence in tally.gaps(lost):
        run.progress.note(sentence)
    return tally.summary(lost)


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


def make_plan(config: ProjectConfig, areas: Sequence[Area], card: ModelCard, device: torch.device) -> Plan:
    """Resolve everything that must not depend on who computes a tile."""
    steps = card.framing.spans(config.map.date)
    layout = map_layout(config.map.tile_size, card.window_size, card.patch_size, config.map.overlap)
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


def map_tiles(run: StageRun, job: MapJob, keys: TileKeys) -> Tally:
    """Map the tiles that are not finished yet, and that no earlier run of the project made; all are counted.

    Raises:
        MappingError: tiles that could not be computed, now or by an earlier run; all others are finished.
    """
    tiles, engine, tally = job.plan.tiles, run.engine or local, Tally(job.plan)
    for name, record in finished_tiles(run.out, job):
        tally.add(name, record)
    if before := len(tally.finished):
        run.progress.note(f"{before} of {len(tiles)} tiles were finished before; {len(tiles) - before} remain.")
    taken = take_over(run, keys, [tile.name for tile in tiles if tile.name not in tally.finished])
    for name, record in taken.items():
        tally.add(name, record)
    if taken:
        left = len(tiles) - len(tally.finished)
        run.progress.note(f"{len(taken)} of {len(tiles)} tiles are as they were in an earlier map; {left} to compute.")
    failed = {name: why for name, why in failed_tiles(run.scratch).items() if name not in tally.finished}
    missing = [tile for tile in tiles if tile.name not in tally.finished and tile.name not in failed]
    if missing:
        amount = _many(sum(tile.windows for tile in missing), "window"), _many(len(missing), "tile")
        run.progress.note(f"Computing {' in '.join(amount)}, {job.plan.precision} on {job.plan.device}.")
    with run.progress.bar("mapping tiles", len(missing)) as advance:
        for outcome in engine(job, missing) if missing else ():
            run.meter.device_seconds += outcome.device_seconds
            run.meter.bytes_read += outcome.bytes_read
            if outcome.record is not None:
                tally.add(outcome.name, outcome.record)
            else:
                failed[outcome.name] = outcome.reason
                note_failed(run.scratch, outcome.name, outcome.reason)
            advance(1)
    if failed:
        raise MappingError(failure_sentence(failed, len(tiles)))
    if silent := [tile.name for tile in tiles if tile.name not in tally.finished]:
        raise RuntimeError(f"the engine told nothing of {len(silent)} tiles, the first {silent[0]}")
    return tally


def finished_tiles(out: Path, job: MapJob) -> Iterator[tuple[str, TileRecord]]:
    """Name and record of the tiles that an earlier attempt at this map finished."""
    for tile in job.plan.tiles:
        record = finished_tile(out, tile.name)
        if record is not None and record.key != job.keys[tile.name]:  # then the header of a scene could not be read
            record = record.model_copy(update={"key": job.keys[tile.name]})
            write_record(out, tile.name, record)
        if record is not None:
            yield tile.name, record


def failure_sentence(failed: Mapping[str, str], tiles: int) -> str:
    """What a person is told of tiles that could not be computed."""
    names, first = sorted(failed), min(failed)
    named = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return (
        f"{len(failed)} of {tiles} tiles could not be mapped in {ATTEMPTS} attempts: {named}. {first}: {failed[first]} "
        "The other tiles are kept; `olmoearth infer --retry-failed` tries these again."
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
