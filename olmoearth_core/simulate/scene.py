"""One scene of the simulated world as files: Sentinel-2 L2A as COGs of native resolution, and its STAC Item."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from scipy.ndimage import gaussian_filter
from shapely.geometry import mapping

from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.simulate.season import BANDS, Season, ground_reflectance
from olmoearth_core.simulate.sky import CIRRUS, CLOUD_HIGH, CLOUD_MEDIUM, NODATA, draw_sky, scene_classes, through

OFFSET = 1000
"""Added to every pixel since processing baseline 04.00: reflectance = (value - 1000) / 10000."""
COLLECTION = "sentinel-2-l2a"

_EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_COMMON = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
_CENTRE = dict(zip(BANDS, (0.443, 0.49, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 0.945, 1.61, 2.19), strict=True))
_BLOCK = 128
"""Edge of a COG's blocks: small, as the scenes are."""


def acquire(season: Season, moment: datetime, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Look at the world once.

    Returns:
        ({band: (H, W) uint16 at the band's resolution, 0 where nodata}, scene classes (H/2, W/2) uint8 at 20 m).
    """
    day = moment.timetuple().tm_yday
    ground = ground_reflectance(season, day, rng)
    sky = draw_sky(season.land.box.shape, day, rng)
    classes = scene_classes(ground, sky)
    seen = through(ground, sky)
    bands = {}
    for index, (band, resolution) in enumerate(BANDS.items()):
        # the sensor's point spread mixes neighbours: half a pixel wide at each resolution
        blurred = gaussian_filter(seen[index], 0.5 * resolution / 10, mode="nearest")
        image = _block_mean(blurred, resolution // 10)
        image = image * (1 + 0.01 * rng.standard_normal(image.shape, np.float32))
        image += 0.002 * rng.standard_normal(image.shape, np.float32)
        values = np.clip(np.rint(image * 10000) + OFFSET, 1, 65535).astype(np.uint16)
        values[_blocks(sky.outside, resolution // 10).any(axis=(1, 3))] = 0
        bands[band] = values
    quarters = _blocks(classes, 2)
    return bands, np.where((quarters == NODATA).any(axis=(1, 3)), NODATA, quarters[:, 0, :, 0]).astype(np.uint8)


def write_scene(
    folder: Path, box: PixelBox, moment: datetime, bands: dict[str, np.ndarray], classes: np.ndarray
) -> pystac.Item:
    """Write the COGs of one scene into `folder` and return its STAC Item (hrefs absolute, not yet saved)."""
    folder.mkdir(parents=True)
    name = folder.name
    present = classes != NODATA
    cloudy = np.isin(classes, (CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS))
    outline = _degrees(box)
    item = pystac.Item(
        id=name,
        geometry=outline,
        bbox=[f(c[axis] for c in outline["coordinates"][0]) for f in (min, max) for axis in (0, 1)],
        datetime=moment,
        collection=COLLECTION,
        stac_extensions=_EXTENSIONS,
        properties={
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": 10,
            "proj:code": box.grid.crs,
            "eo:cloud_cover": round(100 * float(cloudy.sum() / max(present.sum(), 1)), 2),
            "s2:nodata_pixel_percentage": round(100 * float(1 - present.mean()), 2),
            "s2:processing_baseline": "05.09",
        },
    )
    for band, values in bands.items():
        raster = {"raster:scale": 0.0001, "raster:offset": -OFFSET / 10000}
        spectral = {"eo:common_name": _COMMON[band], "eo:center_wavelength": _CENTRE[band]}
        item.add_asset(band, _write_asset(folder, box, band, values, ["data", "reflectance"], raster | spectral))
    item.add_asset("SCL", _write_asset(folder, box, "SCL", classes, ["data"], {}))
    return item


def _write_asset(
    folder: Path, box: PixelBox, band: str, values: np.ndarray, roles: list[str], about: dict[str, Any]
) -> pystac.Asset:
    resolution = box.width * 10 // values.shape[1]
    transform = Grid(box.grid.crs, resolution).around(box.bounds).transform
    path = folder / f"{band}.tif"
    # tiled, header first, at most 512 pixels wide: a COG without need of overviews
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=box.grid.crs,
        transform=transform,
        nodata=0,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        compress="deflate",
        predictor=2,
        zlevel=1,
    ) as file:
        file.write(values, 1)
    return pystac.Asset(
        href=str(path),
        media_type=_COG,
        roles=roles,
        extra_fields={
            "gsd": resolution,
            "proj:shape": list(values.shape),
            "proj:transform": list(transform)[:6],
            "bands": [{"name": band, "data_type": values.dtype.name, "nodata": 0, **about}],
        },
    )


def _blocks(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) -> (H/size, size, W/size, size)."""
    height, width = image.shape
    return image.reshape(height // size, size, width // size, size)


def _block_mean(image: np.ndarray, size: int) -> np.ndarray:
    mean: np.ndarray = _blocks(image, size).mean(axis=(1, 3), dtype=np.float32)
    return mean


def _degrees(box: PixelBox) -> dict[str, Any]:
    outline = Grid("EPSG:4326", 1.0).project(box.polygon.segmentize(500.0), box.grid.crs)
    return {
        "type": "Polygon",
        "coordinates": [[[round(x, 7), round(y, 7)] for x, y in mapping(outline)["coordinates"][0]]],
    }


def nominal_moments(year: int, every: int) -> list[datetime]:
    """Overpasses of a year at 10:50 UTC, the first on 4 January, `every` days apart."""
    first = datetime(year, 1, 4, 10, 50, tzinfo=UTC)
    return [moment for n in range(366 // every + 1) if (moment := first + n * timedelta(days=every)).year == year]
