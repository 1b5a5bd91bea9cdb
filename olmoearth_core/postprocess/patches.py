"""The patches of equal class of a whole map, over all its zones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import geopandas as gpd

from olmoearth_core.postprocess.derived import CONFIDENCE
from olmoearth_core.postprocess.events import with_confidence
from olmoearth_core.postprocess.polygons import outline
from olmoearth_core.postprocess.products import MAP, Mapped
from olmoearth_core.postprocess.simplify import simplify, with_shared_corners
from olmoearth_core.postprocess.zone_edges import in_degrees, joined


def patches_of(
    mapped: Mapped, names: Sequence[str], *, with_sureness: bool
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """Along the edges of pixels, and smoother; in the map's CRS, of several zones in EPSG:4326.

    Args:
        mapped: the map, whose rasters are made.
        names: of its classes.
        with_sureness: whether the first have a column confidence.

    Returns:
        columns class, value, area_m2, geometry; where zones meet patches go on, and neither gap nor overlap is left.
    """
    folder, settings, scratch = mapped.run.out, mapped.run.project.config.map, mapped.run.scratch
    resolution = mapped.plan.resolution
    beyond = 2 + math.ceil(settings.simplify / resolution) if len(mapped.zones) > 1 else 0
    exact: list[gpd.GeoDataFrame] = []
    smooth: list[gpd.GeoDataFrame] = []
    for zone in mapped.zones:
        path = folder / zone.named(MAP)
        found = outline(path, names, min_area=settings.min_area, scratch=scratch, strip=zone.strip, beyond=beyond)
        smooth.append(simplify(found, resolution, settings.simplify))
        exact.append(with_confidence(found, folder / zone.named(CONFIDENCE)) if with_sureness else found)
    if len(mapped.zones) == 1:
        return exact[0], smooth[0]
    exact = [_noded(patches, resolution) for patches in exact]
    if settings.simplify <= 0:
        smooth = exact
    return _together(mapped, exact), _together(mapped, smooth).drop(columns="confidence", errors="ignore")


def _together(mapped: Mapped, patches: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    strips = [zone.strip for zone in mapped.zones if zone.strip is not None]
    return joined([in_degrees(one, strip) for one, strip in zip(patches, strips, strict=True)], strips)


def _noded(patches: gpd.GeoDataFrame, resolution: float) -> gpd.GeoDataFrame:
    """Patches along the edges of pixels with a vertex wherever a neighbour has one, so that they stay neighbours."""
    if not len(patches):
        return patches
    shapes = with_shared_corners(patches.geometry.to_numpy(), resolution)
    return patches.set_geometry(gpd.GeoSeries(shapes, index=patches.index, crs=patches.crs))
