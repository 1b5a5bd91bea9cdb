"""The stage postprocess: tiles become a map that a partner can publish."""

from __future__ import annotations

from typing import Any

from olmoearth_core.errors import MappingError
from olmoearth_core.inference.plan import read_plan
from olmoearth_core.inference.product import verify_tile
from olmoearth_core.postprocess import class_map, value_map
from olmoearth_core.postprocess.products import Mapped
from olmoearth_core.stage import StageRun


def postprocess(run: StageRun) -> dict[str, Any]:
    """Make the mosaic and what goes with it: of classes probabilities, polygons and areas, of a regression its values.

    Raises:
        StoreError: a tile changed since it was made, or the disk is full; products that are finished are kept.
        MappingError: the tiles are of another task than the project's.
    """
    tiles, task = run.upstream["infer"].folder, run.project.config.task
    plan = read_plan(tiles)
    if (plan.model.range is None) != (task.range is None):
        raise MappingError(
            f"{tiles}: the tiles are of another kind of task than a {task.kind}. Run `olmoearth infer` again."
        )
    of_values = task.kind == "regression"
    mapped = Mapped(run, plan, [verify_tile(tiles, tile.name) for tile in plan.tiles])
    with run.progress.bar("making the products", (value_map if of_values else class_map).steps(mapped)) as advance:
        make = value_map.make_value_products if of_values else class_map.make_class_products
        made = make(mapped, advance)
    return {
        "map_id": mapped.identity,
        "area_pixels": sum(record.area_pixels for record in mapped.records),
        "mapped_pixels": mapped.mapped_pixels,
        **made,
    }
