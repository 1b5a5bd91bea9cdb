"""What a map will take, from its plan: how many tiles and windows, before anything is read or computed."""

from __future__ import annotations

from dataclasses import dataclass

from olmoearth_core.imagery.search import frozen_map_scenes
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.checks import check_extent
from olmoearth_core.inference.plan import batch_sizes, map_layout, plan_tiles
from olmoearth_core.models.cost import Workload
from olmoearth_core.project import Project


@dataclass(frozen=True)
class MapOutlook:
    """How much there is to compute.

    Attributes:
        km2: of the area.
        tiles: that hold a part of it.
        windows: distinct ones.
        computed: by all tiles together; some windows are two tiles'.
        at_once: windows that go through the model together.
    """

    km2: float
    tiles: int
    windows: int
    computed: int
    at_once: int


def map_outlook(project: Project, work: Workload, device: str) -> MapOutlook:
    """The plan of the project's map, in windows as `work` has them, on a kind of `device` ("cpu", "cuda").

    Raises:
        MappingError: the area cannot be used.
    """
    where, crs = project.config.map.area, project.config.imagery.crs
    areas = load_areas(project.path(where), where, crs=crs, resolution=work.resolution)
    layout = map_layout(project.config.map.tile_size, work.window_size, work.patch_size, work.overlap)
    tiles, windows = plan_tiles(areas, layout)
    check_extent(tiles, where)
    return MapOutlook(
        km2=sum(part.area for area in areas for part in area.parts) / 1e6,
        tiles=len(tiles),
        windows=windows,
        computed=sum(tile.windows for tile in tiles),
        at_once=batch_sizes(work.timesteps, work.window_size, work.patch_size, device)[-1],
    )


def timesteps_with_scenes(project: Project) -> int:
    """In how many timesteps the frozen list of the map has scenes; all of them where nothing was searched yet.

    Those without cost nothing.
    """
    steps = project.config.imagery.framing.spans(project.config.map.date)
    scenes = frozen_map_scenes(project)
    shown = steps if scenes is None else [s for s in steps if any(scene.in_step(s) for scene in scenes.scenes)]
    return max(1, len(shown))
