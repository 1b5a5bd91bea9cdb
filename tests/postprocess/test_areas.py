"""Areas on the ground, whatever CRS the map is in."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Geod, Transformer
from shapely import box, transform

from olmoearth_core.postprocess.areas import class_areas


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [("EPSG:32631", 166_000, 5_000_000), ("EPSG:3857", 300_000, 5_600_000), ("EPSG:3857", 300_000, 8_400_000)],
    ids=["edge of a UTM zone", "Web Mercator at 45 degrees", "Web Mercator at 60 degrees"],
)
def test_hectares_are_those_on_the_ellipsoid(tmp_path: Path, crs: str, x: float, y: float) -> None:
    path = tmp_path / "map.tif"
    values = np.zeros((256, 512), np.uint8)
    values[:, 256:] = 1
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 256, "width": 512, "nodata": 255}
    profile |= {"tiled": True, "blockxsize": 128, "blockysize": 128}
    grid = Affine(10, 0, x, 0, -10, y)
    with rasterio.open(path, "w", crs=crs, transform=grid, **profile) as file:
        file.write(values, 1)
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    for k, area in enumerate(class_areas([path], ["land", "water"])):
        left = x + 2560 * k
        square = box(left, y - 2560, left + 2560, y).segmentize(50)
        outline = transform(square, lambda xy: np.column_stack(to_degrees(xy[:, 0], xy[:, 1])))
        metres, _ = Geod(ellps="WGS84").geometry_area_perimeter(outline)
        assert area.pixels == 65536
        assert area.hectares == pytest.approx(abs(metres) / 1e4, rel=2e-4)
