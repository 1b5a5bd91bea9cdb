"""Tile keys: the name of everything that decides the bytes of a tile, by content.

    key = sha256(rules, the tile's box, the area's part of it, the scenes that can reach its windows)

Rules are what the plan resolved (model, batch sizes, precision, threads, ...), how imagery is composed, and the version
of the stage. A scene counts with its timestep, as the encoder is told it: a later date changes the tiles whose months
or scenes differ. Tiles of equal keys have equal bytes, whichever map they belong to: another one takes them over
(reuse.py). What a scene is called in another list, or which others stand there, is of no matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from olmoearth_core.digest import sha256_json
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import PixelBox
from olmoearth_core.imagery.address import is_url
from olmoearth_core.imagery.extent import centre_rectangles, outline_on, reached, source_grids
from olmoearth_core.imagery.presets import catalogue_of
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.imagery.scene import Scene, SceneList
from olmoearth_core.inference.area import Area
from olmoearth_core.inference.plan import Layout, Plan, tile_windows
from olmoearth_core.models.card import ModelCard
from olmoearth_core.models.catalogue import named
from olmoearth_core.project_imagery import ImageryConfig

FILLED = b"\x01"


@dataclass(frozen=True)
class TileKeys:
    """The keys of a plan's tiles, and which scenes they depend on.

    Attributes:
        keys: tile -> key (64 hex digits).
        scenes: ids of the scenes that matter.
        pairs: (2, N): position in `scenes`, position of a tile in `keys`, for each scene that can reach a tile.
    """

    keys: Mapping[str, str]
    scenes: tuple[str, ...]
    pairs: NDArray[np.intp]

    def touched_by(self, scenes: Collection[str]) -> set[str]:
        """The tiles that at least one of `scenes` (ids) can reach."""
        wanted = np.array([scene in scenes for scene in self.scenes], bool)
        names = list(self.keys)
        return {names[j] for j in np.unique(self.pairs[1, wanted[self.pairs[0]]])}


def rules_of(plan: Plan, card: ModelCard, imagery: ImageryConfig, stage_version: int) -> dict[str, Any]:
    """What all tiles of a plan have in common, as JSON values."""
    main = card.main
    return {
        "stage_version": stage_version,
        "resolution": plan.resolution,
        "layout": plan.layout.model_dump(exclude={"tile_size"}),
        "batch_sizes": plan.batch_sizes,
        "precision": plan.precision,
        "device": plan.device,
        "threads": plan.threads,
        "model": {
            "weights": card.weights_sha256,
            "encoder": card.encoder,
            "bands": card.bands,
            "resolution": card.resolution,
            "task": main.model_dump(mode="json", include={"name", "kind", "classes", "range", "head", "temperature"}),
        },
        "imagery": {"composite": imagery.composite, "cloud_mask": imagery.cloud_mask},
    }


def tile_keys(
    plan: Plan,
    areas: Sequence[Area],
    scenes: SceneList,
    rules: Mapping[str, Any],
    bands: Mapping[str, Sequence[str]],
    encoder: str,
    reader: AssetReader,
) -> TileKeys:
    """The keys of all tiles of `plan`.

    Args:
        plan: of the map.
        areas: that it maps, by zone.
        scenes: the frozen list.
        rules: what all tiles have in common, JSON values.
        bands: modality -> those that are composed.
        encoder: name of the one that sees them.
        reader: reads the header of one asset a scene.
    """
    steps = [Timestep(start, end) for start, end in plan.timesteps]
    some = [scene for scene in scenes.scenes if _is_used(scene, steps, bands)]
    told = [_told(step, named(encoder).reads_days) for step in steps]
    contents = [
        next(hashlib.sha256(f"{i} {told[i]} {scene_digest(scenes, scene)}".encode()).digest()
             for i, step in enumerate(steps) if scene.in_step(step))
        for scene in some
    ]  # fmt: skip
    sources = source_grids(scenes, some, bands, reader)
    common = sha256_json(rules)
    keys: dict[str, str] = {}
    pairs = []
    for area in areas:
        tiles = plan.tiles_of(area.grid.crs)
        boxes = [plan.box(tile) for tile in tiles]
        parts = parts_over(area, boxes)
        strip = "" if area.strip is None else f"{area.strip.west} {area.strip.east}"
        reaching = _reaching(sources, some, area, boxes, parts, plan.layout)
        by_tile = np.searchsorted(reaching[1], np.arange(len(boxes) + 1))
        pairs.append(reaching + np.array([[0], [len(keys)]]))
        for j, (tile, box) in enumerate(zip(tiles, boxes, strict=True)):
            place = f"{box.grid.crs} {box.column} {box.row} {box.width} {box.height} {strip}"
            digest = hashlib.sha256(f"{common} {place} {hashlib.sha256(parts[j]).hexdigest()}".encode())
            for i in reaching[0, by_tile[j] : by_tile[j + 1]]:
                digest.update(contents[i])
            keys[tile.name] = digest.hexdigest()
    return TileKeys(keys, tuple(scene.id for scene in some), np.concatenate(pairs, axis=1))


def scene_digest(scenes: SceneList, scene: Scene) -> str:
    """sha256 of what a scene is to a map, with the version of its pixels where that is known."""
    content = scene.to_json()
    del content["reason"]  # for people
    if not all(is_url(address) for address in scene.addresses):  # relative to the catalogue
        content["catalogue"] = catalogue_of(scenes.catalogue, scene.modality)
    return sha256_json(content)


def parts_over(area: Area, boxes: Sequence[PixelBox]) -> list[bytes]:
    """What decides which pixels of each box belong to the area's parts, as bytes; `FILLED` where all do.

    The edges of outlines that pass between the box's pixel centres, and whether the first centre is inside: from these
    follows every other one.
    """
    edges = _edges(area.parts)
    rectangles = centre_rectangles(boxes)
    at, edge = shapely.STRtree(shapely.linestrings(edges)).query(rectangles, predicate="intersects")
    order = np.lexsort((edge, at))
    at, edge = at[order], edge[order]
    first = np.searchsorted(at, np.arange(len(boxes) + 1))
    inside = _inside(area, np.array([(box.centres[0][0], box.centres[1][0]) for box in boxes]))
    found = [inside[j].tobytes() + edges[edge[first[j] : first[j + 1]]].tobytes() for j in range(len(boxes))]
    # a large polygon is in pieces (cutting.py): a box that holds nothing but their common edges is filled
    pieces = np.array(area.parts)
    tree = shapely.STRtree(pieces)
    along = (edges[:, 0] == edges[:, 1]) & (edges[:, 0] % area.grid.resolution == 0)
    cuts = np.append(along.any(axis=1)[edge], False)
    for j in np.flatnonzero(np.logical_and.reduceat(cuts, first[:-1]) & (np.diff(first) > 0)):
        if shapely.covers(shapely.union_all(pieces[tree.query(rectangles[j])]), rectangles[j]):
            found[j] = FILLED
    return found


def _edges(parts: Sequence[shapely.Geometry]) -> NDArray[np.float64]:
    """The edges (N, 2, 2) of polygons, each in one direction, in one order, however they were drawn."""
    points, ring = shapely.get_coordinates(shapely.get_rings(np.array(parts)), return_index=True)
    follows = ring[1:] == ring[:-1]
    edges = np.stack([points[:-1][follows], points[1:][follows]], axis=1)
    (x, y), (to_x, to_y) = edges[:, 0].T, edges[:, 1].T
    turned = (x > to_x) | ((x == to_x) & (y > to_y))
    edges[turned] = edges[turned, ::-1]
    in_order: NDArray[np.float64] = edges[np.lexsort(edges.reshape(-1, 4).T[::-1])]
    return in_order


def _inside(area: Area, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,): whether points (N, 2) lie inside one of the area's parts."""
    parts = np.array(area.parts)
    shapely.prepare(parts)
    at, part = shapely.STRtree(parts).query(shapely.points(points))
    inside = np.zeros(len(points), bool)
    inside[at[shapely.contains_xy(parts[part], *points[at].T)]] = True
    return inside


def _told(step: Timestep, days: bool) -> str:
    """What an encoder reads of the date of a timestep."""
    return step.date.isoformat() if days else str(step.date.month)


def _is_used(scene: Scene, steps: Sequence[Timestep], bands: Mapping[str, Sequence[str]]) -> bool:
    """Whether a scene is of a timestep and has all bands; others are not composed."""
    has = set(bands.get(scene.modality, ())) <= scene.assets.keys()
    return scene.modality in bands and has and any(scene.in_step(step) for step in steps)


def _reaching(
    sources: Sequence[SourceGrid | None],
    some: Sequence[Scene],
    area: Area,
    boxes: Sequence[PixelBox],
    parts: Sequence[bytes],
    layout: Layout,
) -> NDArray[np.intp]:
    """(2, N): positions of scenes and tiles whose windows they reach into, by tile, then scene."""
    outline_of = {source: source and outline_on(source, area.grid) for source in set(sources)}
    outlines = [outline_of[source] for source in sources]
    pairs = reached(outlines, some, [_around(box, layout) for box in boxes])
    # a tile at the area's edge computes fewer windows than lie around it: those decide, where a scene ends there
    rectangles = centre_rectangles(boxes)
    keep = np.ones(pairs.shape[1], bool)
    windows: dict[int, NDArray[np.object_]] = {}
    for k, (i, j) in enumerate(pairs.T):
        outline = outlines[i]
        if outline is None or parts[j] == FILLED or shapely.covers(outline, rectangles[j]):
            continue
        if j not in windows:
            windows[j] = centre_rectangles(tile_windows(area, boxes[j], layout))
        keep[k] = shapely.intersects(outline, windows[j]).any()
    return pairs[:, keep]


def _around(box: PixelBox, layout: Layout) -> PixelBox:
    """The smallest box around all windows of the lattice that touch `box`."""
    lattice = layout.lattice
    column, row = (lattice.start(lattice.first(edge)) for edge in (box.column, box.row))
    right, bottom = (
        lattice.start(lattice.last(edge - 1)) + lattice.size for edge in (box.column + box.width, box.row + box.height)
    )
    return PixelBox(box.grid, column, row, right - column, bottom - row)
