"""Very many tiles to one file: valid, whole, and in memory that does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from test_mosaic import validate

PROGRAM = """
import json, re, sys
from pathlib import Path
import numpy as np
from olmoearth_core.grid import Grid
from olmoearth_core.inference.plan import PlannedModel
from olmoearth_core.inference.product import write_tile
from olmoearth_core.inference.tile import MappedTile
from olmoearth_core.postprocess.mosaic import Band, write_mosaic

folder, side, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
grid, model = Grid("EPSG:32631"), PlannedModel(weights_sha256="0" * 64, classes=["a", "b", "c"])
random, tiles = np.random.default_rng(0), {}
for kind in range(4):  # a few tiles again and again
    classes = np.kron(random.integers(0, 3, (size // 16, size // 16)), np.ones((16, 16))).astype(np.uint8)
    box = grid.box(50_000, -469_000, size, size)
    mapped = MappedTile(box, classes, np.full((3, size, size), 80, np.uint8), size * size, 1)
    write_tile(folder, f"kind{kind}", mapped, model, "0" * 64)
for number in range(side * side):
    row, column = divmod(number, side)
    path = folder / f"t{number}.tif"
    path.hardlink_to(folder / f"kind{(row * 7 + column) % 4}.tif")
    tiles[path] = grid.box(50_000 + column * size, -469_000 + row * size, size, size)
band = Band("class", 1, colours=["#000000", "#00ff00", "#0000ff"])
write_mosaic(folder / "map.tif", tiles, [band], tags={}, scratch=folder)
# not ru_maxrss: Linux begins it with what the process was before exec, a copy of the one that runs the tests
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"tiles": len(tiles), "peak": peak / 1024}))
"""


def mosaicked(folder: Path, side: int, size: int) -> dict[str, Any]:
    """Mosaic side x side tiles in a process of its own: how many, and its peak memory in megabytes."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(side), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("side", "size"), [(10, 64), pytest.param(32, 1024, marks=pytest.mark.verify)])
def test_very_many_tiles_become_a_valid_cog_in_bounded_memory(
    tmp_path: Path, side: int, size: int, record_property: Any
) -> None:
    found = mosaicked(tmp_path, side, size)
    record_property("tiles", found["tiles"])
    record_property("pixels", (side * size) ** 2)
    record_property("peak_megabytes", found["peak"])
    assert validate(tmp_path / "map.tif") == (True, [], [])
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.shape == (side * size, side * size)
        for row, column in ((0, 0), (side - 1, side - 1), (side // 2, 1)):
            window = ((row * size, (row + 1) * size), (column * size, (column + 1) * size))
            with rasterio.open(tmp_path / f"kind{(row * 7 + column) % 4}.tif") as tile:
                assert np.array_equal(source.read(1, window=window), tile.read(1))
    assert found["peak"] < 900  # of which 256 are GDAL's blocks; the pixels of the large one are 1,074
