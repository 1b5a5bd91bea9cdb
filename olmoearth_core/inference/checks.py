"""What is refused before anything is computed: an area, a model or imagery of which no map would come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from olmoearth_core.errors import MappingError
from olmoearth_core.imagery.presets import absent_catalogue
from olmoearth_core.imagery.scene import Scene, SceneList
from olmoearth_core.inference.area import Area
from olmoearth_core.inference.plan import Tile
from olmoearth_core.models.card import ModelCard
from olmoearth_core.models.model_folder import read_card
from olmoearth_core.project import ProjectConfig

MOST_SPARSE, LEAST_SHARE = 2**33, 0.01
"""An area may span more pixels than the first (900 km at 10 m) only where tiles cover more than the second of them."""


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


def check_extent(tiles: Sequence[Tile], source: str) -> None:
    """Refuse, before anything is computed, an area of specks far apart: one mosaic of it would be nearly all nodata.

    Raises:
        MappingError: with the extent, and what to do.
    """
    for zone in dict.fromkeys(tile.crs for tile in tiles):
        here = np.array([(t.column, t.row, t.width, t.height) for t in tiles if t.crs == zone], np.int64)
        width, height = (int(edge) for edge in (here[:, :2] + here[:, 2:]).max(axis=0) - here[:, :2].min(axis=0))
        pixels, tiled = width * height, int((here[:, 2] * here[:, 3]).sum())
        if pixels > MOST_SPARSE and tiled < LEAST_SHARE * pixels:
            raise MappingError(
                f"{source}: its parts lie so far apart that one map of it in {zone} would have {width:,} x "
                f"{height:,} pixels, of which {100 * tiled / pixels:.2g} % lie in tiles. Map regions apart: "
                "name a file of one region in map.area."
            )


def _box_in_degrees(bbox: tuple[float, float, float, float]) -> shapely.Geometry:
    west, south, east, north = bbox
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))
