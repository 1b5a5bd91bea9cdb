"""Scenes to a static STAC catalogue of COGs, in the form that a search reads back (imagery/catalogue.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from olmoearth_core.imagery.harmonise import OFFSET
from olmoearth_core.imagery.sampling import SourceGrid
from olmoearth_core.importing.bands import MASK, SPELLINGS
from olmoearth_core.importing.source import Layer, Level, SourceScene, outline
from olmoearth_core.importing.values import SCALE, cloud_cover, to_classes, to_stored
from olmoearth_core.progress import Progress
from olmoearth_core.store import write_json

CATALOGUE = "catalog.json"
BLOCK = 512
"""Largest edge of a COG's blocks; a smaller raster has one block."""
FIRST_DAY = datetime(2022, 1, 25, tzinfo=UTC)
"""From then on ESA adds an offset to every value (harmonise.py)."""
_FEW = 0.001
"""Share of values that haze and noise make darker than black."""
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TIFF = "image/tiff; application=geotiff"
_EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]


@dataclass
class Tally:
    """What was noticed in the pixels."""

    undeclared_zeros: int = 0
    """Values of 0 in files that declare no nodata: stored as dark ground."""
    dark_layers: int = 0
    unknown_classes: int = 0
    recent: int = 0
    """Valid values that were stored as they were, of scenes since ESA adds 1000 to every value."""
    recent_low: int = 0
    """How many of them are so low that 1000 cannot have been added."""
    empty: list[str] = field(default_factory=list)
    """Scenes without any data."""
    linked: int = 0
    written: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def warnings(self) -> list[str]:
        """A sentence for each thing that a partner should know."""
        told = [f"{note} ({count} layers)" for note, count in sorted(self.notes.items())]
        if self.undeclared_zeros:
            told.append(
                f"{self.undeclared_zeros} values of 0 in {self.dark_layers} layers count as dark ground and become "
                "1, because no nodata value is declared; give --nodata 0 if they mean no data"
            )
        if self.recent_low < _FEW * self.recent:
            told.append(
                f"hardly a value is below {OFFSET}: the files may still hold the {OFFSET} that ESA adds since January "
                "2022, and do not say so; give --offset -0.1 if they do"
            )
        if self.unknown_classes:
            told.append(
                f"{self.unknown_classes} pixels of {MASK} have none of its classes (0 to 11) and count as no data"
            )
        if self.empty:
            told.append(f"{len(self.empty)} scenes have no data at all ({', '.join(self.empty[:3])}, ...)")
        return told


def write_catalogue(
    folder: Path, scenes: Sequence[SourceScene], title: str, level: Level, link: bool, progress: Progress
) -> Tally:
    """Write catalog.json, a collection, and an item with its assets for each scene below `folder`.

    Values are reflectance x 10000 (uint16, nodata 0) without offset, and the items say so. The same scenes give the
    same bytes.

    Args:
        title: of the catalogue.
        link: leave files that need no change where they are.

    Raises:
        SourceError: pixels cannot be read, or it cannot be told what they mean.
    """
    name = f"sentinel-2-{level.lower()}"
    tally = Tally()
    items = []
    with progress.bar("Import scenes", len(scenes)) as advance:
        for scene in scenes:
            items.append(_write_scene(folder / name / scene.id, scene, name, level, link, tally))
            advance(1)
    boxes = np.array([item.bbox for item in items])
    around = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    moments = sorted(scene.moment for scene in scenes)
    extent = pystac.Extent(pystac.SpatialExtent([around]), pystac.TemporalExtent([[moments[0], moments[-1]]]))
    catalogue = pystac.Catalog("imported", f"Imported with olmoearth import: {title}.", title=title)
    collection = pystac.Collection(name, f"Sentinel-2 {level}: {title}.", extent, title=title, license="other")
    collection.add_items(items)
    catalogue.add_child(collection)
    catalogue.normalize_hrefs(str(folder / CATALOGUE))  # the file: pystac takes a folder with a dot for one
    catalogue.make_all_asset_hrefs_relative()
    catalogue.save(pystac.CatalogType.SELF_CONTAINED)
    return tally


def _write_scene(
    folder: Path, scene: SourceScene, collection: str, level: Level, link: bool, tally: Tally
) -> pystac.Item:
    folder.mkdir(parents=True)
    shape = outline(scene.finest)
    codes = {layer.grid.crs for layer in scene.layers.values()}
    item = pystac.Item(
        id=scene.id,
        geometry=mapping(shape),
        bbox=list(shape.bounds),
        datetime=scene.moment,
        collection=collection,
        stac_extensions=_EXTENSIONS,
        properties={"constellation": "sentinel-2", "instruments": ["msi"], "processing:level": level},
    )
    if len(codes) == 1:
        item.properties.update(_projection(codes.pop()))
    some_data = False
    for name, layer in scene.layers.items():
        path = folder / f"{name}.tif"
        pixels = layer.read()
        if name == MASK:
            values: NDArray[Any]
            values, unknown = to_classes(pixels, layer.encoding.nodata, layer.name)
            tally.unknown_classes += unknown
            if (cover := cloud_cover(values)) is not None:
                item.properties["eo:cloud_cover"] = cover
        else:
            stored = to_stored(pixels, layer.encoding, layer.name)
            values = stored.values
            tally.notes.update(stored.notes)
            if scene.moment >= FIRST_DAY and (layer.encoding.scale or SCALE) == SCALE and not layer.encoding.offset:
                tally.recent += int((values > 0).sum())
                tally.recent_low += int(((values > 0) & (values < OFFSET)).sum())
            if layer.encoding.nodata is None and stored.dark:
                tally.undeclared_zeros += stored.dark
                tally.dark_layers += 1
        some_data |= bool(values.any())
        linked = link and layer.file is not None and values.dtype == pixels.dtype and np.array_equal(values, pixels)
        if linked and layer.file is not None:
            path = layer.file.resolve()
            tally.linked += 1
        else:
            _write_cog(path, values, layer.grid, "mode" if name == MASK else "average")
            tally.written += 1
        item.add_asset(name, _asset(path, name, layer, values, _TIFF if linked else _COG, bool(codes)))
    if not some_data:
        tally.empty.append(scene.id)
    return item


def _asset(path: Path, name: str, layer: Layer, values: NDArray[Any], media: str, with_crs: bool) -> pystac.Asset:
    band: dict[str, Any] = {"name": name, "data_type": values.dtype.name, "nodata": 0}
    if name != MASK:
        band |= {"eo:common_name": SPELLINGS[name][0], "raster:scale": SCALE, "raster:offset": 0}
    return pystac.Asset(
        href=str(path),
        media_type=media,
        roles=["data"] if name == MASK else ["data", "reflectance"],
        extra_fields={
            "proj:shape": [layer.grid.height, layer.grid.width],
            "proj:transform": list(layer.grid.transform),
            **(_projection(layer.grid.crs) if with_crs else {}),
            "bands": [band],
        },
    )


def _projection(crs: str) -> dict[str, Any]:
    return {"proj:code": crs} if crs.startswith("EPSG:") else {"proj:code": None, "proj:wkt2": crs}


def _write_cog(path: Path, values: NDArray[Any], grid: SourceGrid, resampling: str) -> None:
    height, width = values.shape
    options = {
        "driver": "COG", "compress": "deflate", "predictor": 2, "overview_resampling": resampling,
        "bigtiff": "if_safer", "blocksize": min(BLOCK, -(-max(height, width) // 16) * 16), "statistics": "no",
    }  # fmt: skip
    with MemoryFile() as memory:  # GDAL does not tell when writing to a full disk fails: the file is written in one go
        with memory.open(
            count=1, dtype=values.dtype, height=height, width=width, nodata=0, crs=grid.crs,
            transform=rasterio.Affine(*grid.transform), **options,
        ) as file:  # fmt: skip
            file.write(values, 1)
        path.write_bytes(memory.getbuffer())


def write_outlines(path: Path, features: Iterable[tuple[dict[str, Any], BaseGeometry]]) -> None:
    """Write a GeoJSON of (properties, geometry in degrees)."""
    rows = [
        {"type": "Feature", "id": number, "properties": properties, "geometry": mapping(shape)}
        for number, (properties, shape) in enumerate(features, 1)
    ]
    write_json(path, {"type": "FeatureCollection", "features": rows})


def footprint(scenes: Sequence[SourceScene]) -> BaseGeometry:
    """What the scenes cover, in degrees."""
    area: BaseGeometry = shapely.union_all([outline(grid) for grid in {scene.finest for scene in scenes}])
    return area
