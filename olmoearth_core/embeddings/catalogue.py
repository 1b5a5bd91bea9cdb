"""Embeddings as STAC: an Item for each tile, and a Collection over them, so that other tools find and check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pystac

from olmoearth_core.embeddings.code import NODATA, Dtype
from olmoearth_core.embeddings.tile import patch_box
from olmoearth_core.grid import Grid
from olmoearth_core.inference.plan import Plan, Tile
from olmoearth_core.longitudes import unrolled, within_180
from olmoearth_core.postprocess.collection import COLLECTION, Listed, collection_of
from olmoearth_core.postprocess.item import multihash, product_item, write_item
from olmoearth_core.stage import StageRun
from olmoearth_core.store import write_json

LINEAGE = (
    "Composites of satellite imagery, seen window by window by an encoder; of each patch the direction of its mean "
    "feature, averaged where windows overlap. embeddings.json tells the encoder, its weights and how to decode."
)


def write_catalogue(
    run: StageRun, plan: Plan, checksums: Mapping[str, str], dtype: Dtype, dimensions: int, encoder: str
) -> None:
    """Write `item_<tile>.json` (STAC) for each tile of `plan` that is in `run.out`, and collection.json over them.

    Args:
        run: of the stage embed; its tiles are finished.
        plan: of the tiles.
        checksums: tile -> sha256 of its file.
        dtype: that is stored.
        dimensions: bands of a file.
        encoder: its name.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    name = f"{run.project.config.name}-embeddings-{run.key[:8]}"
    listed = []
    for tile in plan.tiles:
        item = _item(run, plan, tile, f"{name}-{tile.name}", _raster(plan, dtype, dimensions, checksums[tile.name]))
        item.properties |= {"olmoearth:encoder": encoder, "olmoearth:provenance": run.key}
        file = f"item_{tile.name}.json"
        write_item(run.out / file, item)
        listed.append(Listed.of(f"./{file}", item.to_dict(include_self_link=False, transform_hrefs=False)))
    content = collection_of(
        listed,
        identity=name,
        title=f"Embeddings of {run.project.config.name} by {encoder}, {plan.anchor}",
        description=f"What the encoder {encoder} sees of each patch, as a direction. {LINEAGE}",
    )
    write_json(run.out / COLLECTION, content)


def _item(run: StageRun, plan: Plan, tile: Tile, identity: str, raster: dict[str, Any]) -> pystac.Item:
    box = patch_box(plan.box(tile), plan.layout.patch_size)
    outline = Grid("EPSG:4326").project(box.polygon, box.grid.crs)
    return product_item(
        run.out,
        identity=identity,
        title=f"Embeddings, {tile.name}, {plan.anchor}",
        anchor=plan.anchor,
        span=(plan.timesteps[0][0], plan.timesteps[-1][1]),
        outline=within_180(unrolled(np.array([outline]))[0]),
        box=box,
        assets={"embeddings": (f"{tile.name}.tif", "A direction for each patch", ["data"], raster)},
        lineage=LINEAGE,
        provenance={},
    )


def _raster(plan: Plan, dtype: Dtype, dimensions: int, sha256: str) -> dict[str, Any]:
    return {
        "type": pystac.MediaType.COG,
        "data_type": dtype,
        "nodata": int(NODATA[dtype]) if dtype == "int8" else "nan",
        "raster:spatial_resolution": plan.resolution * plan.layout.patch_size,
        "bands": [{"name": f"dimension {number}"} for number in range(dimensions)],
        "file:checksum": multihash(sha256),
    }
