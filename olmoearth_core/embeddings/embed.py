"""The stage embed: what an encoder sees of an area, a direction for each patch, as files of their own.

Many partners want nothing else: similar places, clusters and small models come from it without any deep learning.
Leaves `<tile>.tif` + `<tile>.json`, embeddings.json (what they are), a STAC Item for each tile and a Collection over
them, plan.json, scenes.json. Goes on after a kill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from olmoearth_core.digest import sha256_file
from olmoearth_core.embeddings.catalogue import write_catalogue
from olmoearth_core.embeddings.code import STEPS, Dtype
from olmoearth_core.embeddings.tile import Sight, embed_tile, encode_file, patch_box
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.access import access_of
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.mask import without_mask
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.scene import available_bands, read_scenes
from olmoearth_core.inference.area import Area, load_areas
from olmoearth_core.inference.checks import check_catalogue, check_coverage
from olmoearth_core.inference.imagery import Imagery
from olmoearth_core.inference.infer import SCENES
from olmoearth_core.inference.pipeline import Behind, prefetched
from olmoearth_core.inference.plan import (
    Plan,
    PlannedModel,
    Tile,
    batch_sizes,
    map_layout,
    plan_tiles,
    tile_windows,
    write_plan,
)
from olmoearth_core.models.encoder import Encoder
from olmoearth_core.models.model_folder import load_model
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_bytes, write_json

ABOUT = "embeddings.json"
READERS = 4


class EmbeddedTile(BaseModel):
    """What `<tile>.json` says of `<tile>.tif`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    patches: int
    """How many have an embedding."""


def embed(run: StageRun, dtype: Dtype) -> dict[str, Any]:
    """See the project's map area with its encoder, fine-tuned where that stage lies before this one.

    Raises:
        MappingError: the area cannot be used, or no scene touches it.
        CheckpointError: weights that cannot be loaded.
        ImageryError: imagery that cannot be read.
        StoreError: the disk is full; finished tiles are kept.
    """
    config = run.project.config
    encoder, origin = _encoder(run)
    scenes = read_scenes(run.files["scenes"], run.project.root)
    source = config.map.area
    areas = load_areas(run.files[source], source, crs=config.imagery.crs, resolution=config.imagery.resolution)
    area_of = {area.grid.crs: area for area in areas}
    check_coverage(areas, scenes.scenes, source)
    check_catalogue(scenes, run.project.root)
    for sentence in without_mask(scenes.scenes, config.imagery.cloud_mask):
        run.progress.note(f"Warning: {sentence}")
    if origin["source"] == "random":
        run.progress.note("Warning: the encoder has random weights, so the embeddings tell little. Set model.weights.")
    bands: dict[str, tuple[str, ...]] = {m: available_bands(scenes, m) for m in config.imagery.modalities}
    steps = config.imagery.framing.spans(config.map.date)
    plan = _plan(run, encoder, areas, origin)
    write_bytes(run.out / SCENES, run.files["scenes"].read_bytes())
    write_plan(plan, run.out)
    run.meter.device = str(encoder.device)
    reader = AssetReader(run.meter, workers=READERS, access=access_of(run.project))
    tags = {"OLMOEARTH_ENCODER": encoder.name, "OLMOEARTH_PROVENANCE": run.key, "OLMOEARTH_CODE": dtype}

    def read(tile: Tile) -> Sight:
        box, area = plan.box(tile), area_of[tile.crs]
        windows = tile_windows(area, box, plan.layout)
        around = reduce(PixelBox.union, windows)
        imagery = Imagery(around, steps, bands)
        for modality in bands:
            imagery.fill(
                compose(
                    scenes,
                    around,
                    steps,
                    modality=modality,
                    bands=bands[modality],
                    composite=config.imagery.composite,
                    cloud_mask=config.imagery.cloud_mask,
                    reader=reader,
                )
            )
        return Sight(box, area.mask(box), windows, imagery)

    def look(
        inputs: dict[str, np.ndarray], dates: np.ndarray, valid: dict[str, np.ndarray], *, whole_timesteps: bool
    ) -> np.ndarray:
        with torch.inference_mode():
            features = encoder.encode(
                inputs,
                dates,
                valid,
                patch_size=plan.layout.patch_size,
                resolution=plan.resolution,
                bands=bands,
                whole_timesteps=whole_timesteps,
            )
            return features.map().float().cpu().numpy()

    def write(tile: Tile, vectors: np.ndarray) -> None:
        content = encode_file(vectors, patch_box(plan.box(tile), plan.layout.patch_size), dtype, tags)
        patches = int(np.isfinite(vectors[0]).sum())
        record = EmbeddedTile(sha256=hashlib.sha256(content).hexdigest(), patches=patches)
        write_bytes(run.out / f"{tile.name}.tif", content)
        write_json(run.out / f"{tile.name}.json", record.model_dump())
        records[tile.name] = record
        advance(1)

    records = {tile.name: record for tile in plan.tiles if (record := _finished(run, tile.name))}
    missing = [tile for tile in plan.tiles if tile.name not in records]
    if records:
        run.progress.note(f"{len(records)} of {len(plan.tiles)} tiles were finished before; {len(missing)} remain.")
    with reader, run.progress.bar("embedding tiles", len(missing)) as advance, Behind(1) as behind:
        for tile, sight in prefetched(missing, read, threads=1, ahead=1):
            with run.meter.on_device():
                vectors = embed_tile(
                    sight, look, encoder.embedding_size, layout=plan.layout, batch_sizes=plan.batch_sizes
                )
            behind.do(write, tile, vectors)
    for failure in reader.failures[:1]:
        run.progress.note(f"{len(reader.failures)} assets could not be read, the first: {failure.reason}")
    patches = sum(record.patches for record in records.values())
    write_json(run.out / ABOUT, _about(plan, encoder, origin, dtype, bands))
    checksums = {name: record.sha256 for name, record in records.items()}
    write_catalogue(run, plan, checksums, dtype, encoder.embedding_size, encoder.name)
    return {"tiles": len(plan.tiles), "patches": patches, "dimensions": encoder.embedding_size, "dtype": dtype}


def _encoder(run: StageRun) -> tuple[Encoder, dict[str, Any]]:
    """The encoder on the device, and where its weights come from."""
    from olmoearth_core.models.precision import resolve_device
    from olmoearth_core.training.setup import base_encoder

    if "finetune" in run.upstream:
        model = load_model(run.upstream["finetune"].folder)
        tuned = {"source": "finetune", "sha256": model.card.weights_sha256, "base": model.card.base.model_dump()}
        return model.predictor.encoder.eval(), tuned
    encoder, base = base_encoder(run.project)
    return encoder.to(resolve_device("auto")).eval(), base.model_dump(mode="json")


def _plan(run: StageRun, encoder: Encoder, areas: Sequence[Area], origin: dict[str, Any]) -> Plan:
    config = run.project.config
    model = config.model
    tile_size = -(-config.map.tile_size // model.patch_size) * model.patch_size  # whole patches
    layout = map_layout(tile_size, model.window_size, model.patch_size, config.map.overlap)
    steps = config.imagery.framing.spans(config.map.date)
    tiles, windows = plan_tiles(areas, layout)
    return Plan(
        zones=list(dict.fromkeys(tile.crs for tile in tiles)),
        resolution=config.imagery.resolution,
        anchor=config.map.date,
        timesteps=[(step.start, step.end) for step in steps],
        model=PlannedModel(weights_sha256=str(origin.get("sha256") or ""), classes=[], name="embeddings"),
        layout=layout,
        batch_sizes=batch_sizes(len(steps), model.window_size, model.patch_size, encoder.device.type),
        precision=encoder.precision,  # type: ignore[arg-type]
        device=encoder.device.type,
        threads=torch.get_num_threads(),
        windows=windows,
        tiles=tiles,
    )


def _finished(run: StageRun, name: str) -> EmbeddedTile | None:
    try:
        record = EmbeddedTile.model_validate_json((run.out / f"{name}.json").read_bytes())
        return record if sha256_file(run.out / f"{name}.tif") == record.sha256 else None
    except (FileNotFoundError, ValidationError):
        return None


def _about(
    plan: Plan, encoder: Encoder, origin: dict[str, Any], dtype: Dtype, bands: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    """What somebody needs who has only the files."""
    decoding = f"sign(q) * (q / {STEPS}) ** 2, then length 1" if dtype == "int8" else "as stored"
    return {
        "encoder": encoder.name,
        "weights": origin,
        "dimensions": encoder.embedding_size,
        "dtype": dtype,
        "nodata": "-128 in every band" if dtype == "int8" else "NaN in every band",
        "decoding": decoding,
        "meaning": "direction (unit vector) of the encoder's mean feature of a patch over all timesteps and modalities",
        "metres_per_patch": plan.resolution * plan.layout.patch_size,
        "date": plan.anchor.isoformat(),
        "timesteps": [[start.isoformat(), end.isoformat()] for start, end in plan.timesteps],
        "bands": {m: list(names) for m, names in bands.items()},
        "precision": plan.precision,
    }
