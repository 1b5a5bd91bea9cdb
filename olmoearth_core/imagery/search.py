"""Searching scenes for labels or a map, once: the answer is frozen in the project's scenes/ and found there again."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from olmoearth_core.digest import sha256_json
from olmoearth_core.errors import CatalogueError, NoSceneError
from olmoearth_core.framing import Timestep
from olmoearth_core.imagery.address import join, relative
from olmoearth_core.imagery.catalogue import Catalogue, FoundItem
from olmoearth_core.imagery.harmonise import sentinel2_offset
from olmoearth_core.imagery.modality import Modality, get_modality
from olmoearth_core.imagery.scene import Scene, SceneList, read_scenes
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project

Geometries = Sequence[BaseGeometry] | NDArray[Any]

FOLDER = "scenes"
CELL = 0.05
"""Degrees. Search areas are made of such cells, so that a label more in the same place asks for nothing new."""
MAX_CELLS = 64
"""Cells along the longer edge of a search area; larger areas get cells of twice the size, and so on."""


@dataclass(frozen=True)
class Query:
    """What is searched. Equal queries have equal files."""

    catalogue: str
    collections: tuple[str, ...]
    modalities: tuple[str, ...]
    area: BaseGeometry
    """In degrees."""
    spans: tuple[tuple[dt.date, dt.date], ...]
    """[start, end), in order, none touching another."""
    max_cloud_cover: float

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "catalogue": self.catalogue,
            "collections": list(self.collections),
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
    from olmoearth_core.labels.labels import read_labels

    labels = read_labels(project)
    reach = project.config.model.window_size * labels.grid.resolution
    bounds = labels.bounds + np.array([-reach, -reach, reach, reach])
    areas = _boxes_in_degrees(np.unique(bounds, axis=0), labels.grid.crs)
    return _freeze(project, "labels", areas, labels.dates, progress, refresh)


def freeze_map_scenes(project: Project, progress: Progress, *, refresh: bool = False) -> Path:
    """The file with the scenes over the area to map, at the timesteps of `map.date`; as `freeze_label_scenes`.

    Raises:
        CatalogueError: the catalogue cannot be read, or has no such scene.
        LabelError: the area cannot be read.
    """
    from olmoearth_core.labels.vector import read_area

    config = project.config
    area = read_area(project.path(config.map.area), config.map.area)
    # windows reach over the edge of the area; at least one metre a unit of the grid, 111 km a degree of latitude
    reach = config.model.window_size * config.imagery.resolution / 111_000
    north = min(max(abs(area.bounds[1]), abs(area.bounds[3])), 85.0)
    areas = [area.buffer(reach / np.cos(np.radians(north)))]
    return _freeze(project, "map", areas, [config.map.date], progress, refresh)


def _freeze(
    project: Project,
    what: str,
    areas: Geometries,
    dates: Sequence[dt.date],
    progress: Progress,
    refresh: bool,
) -> Path:
    imagery = project.config.imagery
    query = Query(
        catalogue=imagery.catalogue,
        collections=tuple(imagery.collections),
        modalities=tuple(imagery.modalities),
        area=search_area(areas),
        spans=merge_spans(step for date in dates for step in imagery.framing.spans(date)),
        max_cloud_cover=imagery.max_cloud_cover,
    )
    path = project.root / FOLDER / f"{what}-{sha256_json(query.to_json())[:12]}.json"
    if path.exists() and not refresh:
        read_scenes(path, project.root)  # a damaged file is told now, not in the middle of a stage
        return path
    scenes = search(query, project.root, progress)
    scenes.write(path)
    progress.note(f"{len(scenes.scenes)} scenes found for the {what}; kept in {path.relative_to(project.root)}")
    return path


def search(query: Query, root: Path, progress: Progress) -> SceneList:
    """Ask the catalogue.

    Args:
        root: the folder that the catalogue's path starts from.

    Raises:
        CatalogueError: the catalogue cannot be read, or has no such scene.
    """
    catalogue = Catalogue(query.catalogue, root)
    items = {}
    for name in query.modalities:
        modality = get_modality(name)
        default = (modality.collection,) if catalogue.is_api else ()
        for found in catalogue.items(query.area, query.spans, query.collections or default, progress):
            items[name, found.item["id"]] = (found, modality)
    scenes, left = [], _Counts(items=len(items))
    for found, modality in items.values():
        if (scene := make_scene(found, modality, catalogue)) is None:
            left.of_modality += 1
        elif not shapely.geometry.shape(found.item["geometry"]).intersects(query.area):
            left.in_area += 1
        elif not any(start <= scene.date < end for start, end in query.spans):
            left.in_time += 1
        elif scene.cloud_cover is not None and scene.cloud_cover > query.max_cloud_cover:
            left.clear += 1
        else:
            scenes.append(scene)
    if not scenes:
        raise NoSceneError(left.sentence(query))
    scenes.sort(key=lambda scene: (scene.modality, scene.datetime, scene.id))
    return SceneList(query.catalogue, query.to_json(), tuple(scenes), root)


@dataclass
class _Counts:
    """How many items were left out, and by which condition (the first that failed)."""

    items: int
    of_modality: int = 0
    in_area: int = 0
    in_time: int = 0
    clear: int = 0

    def sentence(self, query: Query) -> str:
        west, south, east, north = query.area.bounds
        reasons = {
            "show no band of " + ", ".join(query.modalities): self.of_modality,
            f"lie outside the area ({west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N)": self.in_area,
            f"lie outside the time ({_periods(query.spans)})": self.in_time,
            f"have more than {query.max_cloud_cover:g} % cloud": self.clear,
        }
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        return (
            f"{query.catalogue}: no scene for this area and time, of {self.items} items"
            f"{': ' + told if told else ''}. Check the area, the dates and framing, and imagery in project.yaml."
        )


def make_scene(found: FoundItem, modality: Modality, catalogue: Catalogue) -> Scene | None:
    """The scene that a STAC Item describes; None for an item of another modality."""
    item, properties = found.item, found.item["properties"]
    platform = str(properties.get("platform") or properties.get("constellation") or "").lower()
    if platform and not platform.startswith(modality.platforms):
        return None
    named = {band: _first(names, item["assets"]) for band, names in modality.bands.items()}
    names = {band: name for band, name in named.items() if name is not None}
    if not names:
        return None
    mask = _first(modality.mask_assets, item["assets"])
    offset, reason = sentinel2_offset(item, names.values()) if modality.name == "sentinel2_l2a" else (0, "")
    west, south, east, north = _flat(item["bbox"])

    def address(asset: str) -> str:
        return relative(join(found.href, item["assets"][asset]["href"]), catalogue.href)

    return Scene(
        id=str(item["id"]),
        modality=modality.name,
        collection=item.get("collection"),
        datetime=_datetime(item),
        cloud_cover=_number(properties.get("eo:cloud_cover")),
        assets={band: address(name) for band, name in names.items()},
        mask=None if mask is None else address(mask),
        offset=offset,
        offset_reason=reason,
        bbox=(west, south, east, north),
    )


def search_area(areas: Geometries) -> BaseGeometry:
    """The cells of a fixed lattice (degrees) that `areas` touch, as one geometry."""
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
    return shapely.normalize(shapely.union_all(cells[touched]))


def merge_spans(steps: Iterable[Timestep]) -> tuple[tuple[dt.date, dt.date], ...]:
    """Timesteps, of however many labels, as few spans [start, end) that do not touch."""
    merged: list[tuple[dt.date, dt.date]] = []
    for start, end in sorted({(step.start, step.end) for step in steps}):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _boxes_in_degrees(bounds: NDArray[np.float64], crs: str) -> NDArray[Any]:
    """Boxes (N, 4) left, bottom, right, top in `crs` -> N geometries in degrees that hold them."""
    from pyproj import Transformer

    transformer = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = transformer.transform(bounds[:, [0, 2, 0, 2]], bounds[:, [1, 1, 3, 3]])
    boxes: NDArray[Any] = shapely.box(x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1))
    return boxes


def _first(names: Iterable[str], assets: dict[str, Any]) -> str | None:
    return next((name for name in names if name in assets), None)


def _datetime(item: dict[str, Any]) -> dt.datetime:
    text = item["properties"].get("datetime") or item["properties"]["start_datetime"]
    try:
        moment = dt.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise CatalogueError(
            f"item {item['id']}: datetime {text!r} is none; allowed is ISO 8601, as in 2024-05-01T10:40:00Z. "
            "Correct the catalogue"
        ) from None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _flat(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """The four numbers of a bbox, without the heights that STAC allows."""
    west, south, east, north = (bbox[0], bbox[1], bbox[3], bbox[4]) if len(bbox) == 6 else bbox
    return float(west), float(south), float(east), float(north)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _periods(spans: Sequence[tuple[dt.date, dt.date]]) -> str:
    shown = [f"{start} to {end - dt.timedelta(days=1)}" for start, end in spans[:3]]
    return ", ".join(shown) + (f" and {len(spans) - 3} more" if len(spans) > 3 else "")
