"""Searching scenes for labels or a map, once: the answer is frozen in the project's scenes/ and found there again."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import NoSceneError, WrongProductError
from olmoearth_core.framing import Timestep
from olmoearth_core.imagery.access import Access, access_of
from olmoearth_core.imagery.catalogue import Catalogue, FoundItem
from olmoearth_core.imagery.duplicates import Dropped, acquisition_of, without_duplicates
from olmoearth_core.imagery.footprint import boxes_in_degrees, footprint_of
from olmoearth_core.imagery.item import make_scene
from olmoearth_core.imagery.modality import Modality, get_modality
from olmoearth_core.imagery.presets import Named, catalogue_of
from olmoearth_core.imagery.scene import Scene, SceneList, read_scenes
from olmoearth_core.imagery.version import content_version
from olmoearth_core.longitudes import across_180, within_180
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project

Geometries = Sequence[BaseGeometry] | NDArray[Any]

FOLDER = "scenes"
CELL = 0.05
"""Degrees. Search areas are made of such cells, so that a label more in the same place asks for nothing new."""
MANY = 10_000
"""Polygons of an area from which on only their boxes are looked at."""
MAX_CELLS = 64
"""Cells along the longer edge of a search area; larger areas get cells of twice the size, and so on."""


@dataclass(frozen=True)
class Query:
    """What is searched. Equal queries have equal files."""

    catalogue: Named
    collections: tuple[str, ...] | Mapping[str, tuple[str, ...]]
    """Ids; for each modality where a mapping. Empty for a modality's usual one (API) or all (static catalogue)."""
    modalities: tuple[str, ...]
    area: BaseGeometry
    """In degrees."""
    spans: tuple[tuple[dt.date, dt.date], ...]
    """[start, end), in order, none touching another."""
    max_cloud_cover: float

    def collections_of(self, modality: str) -> tuple[str, ...]:
        """The collections that `modality` is searched in."""
        return self.collections.get(modality, ()) if isinstance(self.collections, Mapping) else self.collections

    @property
    def names(self) -> str:
        """The catalogues' names, for a message."""
        return self.catalogue if isinstance(self.catalogue, str) else ", ".join(dict.fromkeys(self.catalogue.values()))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "catalogue": self.catalogue if isinstance(self.catalogue, str) else dict(self.catalogue),
            "collections": {name: list(ids) for name, ids in self.collections.items()}
            if isinstance(self.collections, Mapping)
            else list(self.collections),
            "modalities": list(self.modalities),
            "area": json.loads(shapely.to_geojson(self.area)),
            "spans": [[start.isoformat(), end.isoformat()] for start, end in self.spans],
            "max_cloud_cover": self.max_cloud_cover,
        }


def freeze_label_scenes(project: Project, progress: Progress, *, refresh: bool = False) -> Path:
    """The file with the scenes around the labels, at the timesteps of their dates.

    Searched where it is missing; with `refresh` searched anew, and replaced only by an answer.

    Raises:
        CatalogueError: the catalogue cannot be read, or has no such scene.
        LabelError: the labels cannot be read.
    """
    from olmoearth_core.labels.tasks import all_bounds, all_dates, read_all

    labels = read_all(project)
    grid = labels[project.config.task.name].grid
    reach = project.config.model.window_size * grid.resolution
    bounds = all_bounds(labels) + np.array([-reach, -reach, reach, reach])
    areas = boxes_in_degrees(np.unique(bounds, axis=0), grid.crs)
    return _freeze(project, "labels", areas, all_dates(labels), progress, refresh)


def freeze_map_scenes(project: Project, progress: Progress, *, refresh: bool = False) -> Path:
    """The file with the scenes over the area to map, at the timesteps of `map.date`; as `freeze_label_scenes`.

    Raises:
        CatalogueError: the catalogue cannot be read, or has no such scene.
        LabelError: the area cannot be read.
    """
    return _freeze(project, "map", _map_area(project), [project.config.map.date], progress, refresh)


def frozen_map_scenes(project: Project) -> SceneList | None:
    """The scenes over the area to map, where they were searched; asks no catalogue.

    Raises:
        CatalogueError: the file is damaged.
        LabelError: the area cannot be read.
    """
    _, path = _query(project, "map", _map_area(project), [project.config.map.date])
    return read_scenes(path, project.root) if path.exists() else None


def _map_area(project: Project) -> list[BaseGeometry]:
    from olmoearth_core.labels.vector import read_area

    config = project.config
    area = read_area(project.path(config.map.area), config.map.area)
    # windows reach over the edge of the area; at least one metre a unit of the grid, 111 km a degree of latitude
    reach = config.model.window_size * config.imagery.resolution / 111_000
    north = min(max(abs(area.bounds[1]), abs(area.bounds[3])), 85.0)
    return grown(area, float(reach / np.cos(np.radians(north))))


def grown(area: BaseGeometry, degrees: float) -> list[BaseGeometry]:
    """An area with a margin around it; of very many polygons the cells around them, which is quicker."""
    if shapely.get_num_geometries(area) < MANY:
        return [within_180(area.buffer(degrees))]
    bounds = shapely.bounds(shapely.get_parts(area)) + np.array([-degrees, -degrees, degrees, degrees])
    cells = np.unique(np.concatenate([np.floor(bounds[:, :2] / CELL), np.ceil(bounds[:, 2:] / CELL)], axis=1), axis=0)
    return [within_180(box) for box in shapely.box(*(cells * CELL).T)]


def _freeze(
    project: Project,
    what: str,
    areas: Geometries,
    dates: Sequence[dt.date],
    progress: Progress,
    refresh: bool,
) -> Path:
    query, path = _query(project, what, areas, dates)
    if path.exists() and not refresh:
        read_scenes(path, project.root)  # a damaged file is told now, not in the middle of a stage
        return path
    scenes = search(query, project.root, progress, access_of(project))
    scenes.write(path)
    count = "1 scene" if len(scenes.scenes) == 1 else f"{len(scenes.scenes)} scenes"
    progress.note(f"{count} found for the {what}; kept in {path.relative_to(project.root)}")
    return path


def _query(project: Project, what: str, areas: Geometries, dates: Sequence[dt.date]) -> tuple[Query, Path]:
    """What is searched, and the file that holds the answer."""
    imagery = project.config.imagery
    query = Query(
        catalogue=imagery.catalogue,
        collections=tuple(imagery.collections)
        if isinstance(imagery.collections, list)
        else {name: tuple(ids) for name, ids in imagery.collections.items()},
        modalities=tuple(imagery.modalities),
        area=search_area(areas),
        spans=merge_spans(step for date in dates for step in imagery.framing.spans(date)),
        max_cloud_cover=imagery.max_cloud_cover,
    )
    return query, project.root / FOLDER / f"{what}-{sha256_json(query.to_json())[:12]}.json"


def search(query: Query, root: Path, progress: Progress, access: Access | None = None) -> SceneList:
    """Ask the catalogue.

    Args:
        root: the folder that the catalogue's path starts from.
        progress: told of each item.
        access: the settings by which servers are reached.

    Raises:
        CatalogueError: the catalogue cannot be read, or has no such scene.
    """
    opened: dict[str, Catalogue] = {}
    scenes: list[Scene] = []
    dropped: list[Dropped] = []
    left = _Counts()
    for name in query.modalities:
        modality, where = get_modality(name), catalogue_of(query.catalogue, name)
        catalogue = opened[where] = opened.get(where) or Catalogue(where, root, access)
        default = modality.collections if catalogue.is_api else ()
        collections, limit = query.collections_of(name) or default, query.max_cloud_cover
        found = catalogue.items(query.area, query.spans, collections, progress, max_cloud_cover=limit)
        seen = _in_place_and_time(found, modality, catalogue, query, left)
        items, copies = without_duplicates([item for item, _ in seen])
        used = {id(item) for item in items}
        dropped += copies
        for item, scene in seen:
            if id(item) not in used:
                left.copies += 1
            elif scene.cloud_cover is not None and scene.cloud_cover > query.max_cloud_cover:
                left.clear += 1
            else:
                version = content_version(scene.addresses, catalogue.href) or scene.version
                scenes.append(replace(scene, acquisition=acquisition_of(item), version=version))
    found_modalities = {scene.modality for scene in scenes}
    if lacking := [name for name in query.modalities if name not in found_modalities]:
        raise NoSceneError(left.sentence(query, lacking))
    scenes.sort(key=lambda scene: (scene.modality, scene.datetime, scene.id))
    return SceneList(query.catalogue, query.to_json(), tuple(scenes), root, tuple(d.to_json() for d in dropped))


def _in_place_and_time(
    found: Sequence[FoundItem], modality: Modality, catalogue: Catalogue, query: Query, left: _Counts
) -> list[tuple[dict[str, Any], Scene]]:
    """The items of `modality` that a query means, with their scenes, in the order of their names."""
    seen = []
    for one in sorted(found, key=lambda f: (str(f.item["id"]), f.href)):
        left.items += 1
        try:
            scene = make_scene(one, modality, catalogue.href)
        except WrongProductError as error:
            left.refused.append(str(error))
            continue
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            left.refused.append(f"item {one.item.get('id')!r:.80}: is malformed ({type(error).__name__}: {error})")
            continue
        if scene is None:
            left.of_modality += 1
        elif not footprint_of(one.item).intersects(query.area):
            left.in_area += 1
        elif not any(start <= scene.date < end for start, end in query.spans):
            left.in_time += 1
        else:
            seen.append((one.item, scene))
    return seen


@dataclass
class _Counts:
    """How many items were left out, and by which condition (the first that failed)."""

    items: int = 0
    of_modality: int = 0
    in_area: int = 0
    in_time: int = 0
    clear: int = 0
    refused: list[str] = field(default_factory=list)
    """Why items of the right sensor are of no use."""
    copies: int = 0

    def sentence(self, query: Query, lacking: Sequence[str]) -> str:
        west, south, east, north = query.area.bounds
        reasons = {
            "show no band of what is asked for": self.of_modality,
            f"lie outside the area ({west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N)": self.in_area,
            f"lie outside the time ({_periods(query.spans)})": self.in_time,
            f"have more than {query.max_cloud_cover:g} % cloud": self.clear,
            "are older versions or copies of others": self.copies,
        }
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        return (
            f"{query.names}: no scene of {', '.join(lacking)} for this area and time, of {self.items} items"
            f"{': ' + told if told else ''}. {self._refusals()}"
            "Check the area, the dates and framing, and imagery in project.yaml."
        )

    def _refusals(self) -> str:
        more = f" ({len(self.refused) - 1} more like it.)" if len(self.refused) > 1 else ""
        return f"Refused: {self.refused[0]}{more} " if self.refused else ""


def search_area(areas: Geometries) -> BaseGeometry:
    """The cells of a fixed lattice (degrees) that `areas` touch, as one geometry."""
    areas = across_180(areas)
    west, south, east, north = shapely.total_bounds(areas)
    cell = CELL
    while max(east - west, north - south) / cell > MAX_CELLS:
        cell *= 2
    i = np.arange(np.floor(west / cell), np.ceil(east / cell) + 1)
    j = np.arange(np.floor(south / cell), np.ceil(north / cell) + 1)
    x, y = (edges.ravel() for edges in np.meshgrid(i, j))
    corners = (np.round(edges * cell, 6) for edges in (x, y, x + 1, y + 1))
    cells = shapely.box(*corners)
    touched = np.unique(shapely.STRtree(areas).query(cells, predicate="intersects")[0])
    return shapely.normalize(within_180(shapely.union_all(cells[touched])))


def merge_spans(steps: Iterable[Timestep]) -> tuple[tuple[dt.date, dt.date], ...]:
    """Timesteps, of however many labels, as few spans [start, end) that do not touch."""
    merged: list[tuple[dt.date, dt.date]] = []
    for start, end in sorted({(step.start, step.end) for step in steps}):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _periods(spans: Sequence[tuple[dt.date, dt.date]]) -> str:
    shown = [f"{start} to {end - dt.timedelta(days=1)}" for start, end in spans[:3]]
    return ", ".join(shown) + (f" and {len(spans) - 3} more" if len(spans) > 3 else "")
