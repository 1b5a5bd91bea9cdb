"""Bytes and requests that scattered windows of a COG behind http cost, against the blocks they touch plus the header.

    python benchmarks/fetch.py

Prints JSON and keeps it. The server is this machine's and counts what it sends. `ours` reads through AssetReader,
`gdal` lets GDAL fetch for itself (/vsicurl, nearly as it comes and with the settings that are usually advised).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("benchmarks", "tests"))
import harness
from stacsite import Site, serve

from olmoearth_core.imagery.blocks import blocks_of
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import SourceWindow

PLAIN = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_TIMEOUT": "20"}
ADVISED = {
    **PLAIN,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
}


def measure(*, size: int = 4096, block: int = 512, windows: int = 100, edge: int = 64, ours_only: bool = False) -> Any:
    """Read `windows` windows of `edge` pixels of a COG of `size` pixels.

    Returns:
        for each way of reading: bytes and requests, `ratio` to what the blocks and the header weigh, and requests a
        block; and what it was measured on.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = write_cog(Path(folder) / "cog.tif", size, block)
        random = np.random.default_rng(1)
        places = [
            SourceWindow(int(row), int(row) + edge, int(column), int(column) + edge)
            for row, column in random.integers(0, size - edge, (windows, 2))
        ]
        least, touched = weigh(path, places, block)
        ways: dict[str, dict[str, str] | None] = {"ours": None, "gdal": PLAIN, "gdal, as advised": ADVISED}
        results = {}
        for name, options in ways.items():
            if options is None or not ours_only:
                with serve(Site(Path(folder))) as site:
                    read(f"{site.url}/files/cog.tif", places, options)
                results[name] = {
                    "bytes": site.sent,
                    "requests": site.requests,
                    "ratio": round(site.sent / least, 4),
                    "requests_per_block": round(site.requests / touched, 2),
                }
        return {
            "cog": {"pixels": size, "block": block, "bytes": path.stat().st_size},
            "windows": {"count": windows, "pixels": edge, "blocks_touched": touched, "least_bytes": least},
            "ways": results,
        }  # fmt: skip


def read(url: str, places: list[SourceWindow], options: dict[str, str] | None) -> None:
    """All windows one after the other, by AssetReader where `options` is None, else by GDAL."""
    if options is None:
        with AssetReader() as reader:
            for place in places:
                reader.read(url, place)
        return
    with rasterio.Env(**options), rasterio.open(url) as file:
        for place in places:
            file.read(1, window=place.to_rasterio())


def weigh(path: Path, places: list[SourceWindow], block: int) -> tuple[int, int]:
    """Bytes of the blocks that `places` touch plus the header, and the number of those blocks."""
    touched = {one for place in places for one in blocks_of(place, (block, block))}
    with rasterio.open(path) as file:
        header = min(offset for offset, _ in _blocks(file))
        weight = sum(
            int(file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1) or 0) for row, column in touched
        )
    return header + weight, len(touched)


def _blocks(file: rasterio.DatasetReader) -> Iterator[tuple[int, int]]:
    """(offset, level) of every block; the first pixel data stands behind the header."""
    for level in range(-1, len(file.overviews(1))):
        tag = {} if level < 0 else {"ovr": level}
        if offset := file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, **tag):
            yield int(offset), level


def write_cog(path: Path, size: int, block: int) -> Path:
    """A uint16 COG of land-like noise, deflated with the predictor that catalogues use."""
    random = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 20, size), np.linspace(0, 20, size))
    pixels = (2000 + 800 * np.sin(x) * np.cos(y) + random.normal(0, 120, (size, size))).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="COG", width=size, height=size, count=1, dtype="uint16", crs="EPSG:32631", nodata=0,
        transform=rasterio.Affine(10, 0, 500_000, 0, -10, 4_700_000), blocksize=block, compress="deflate",
        predictor="yes",
    ) as file:  # fmt: skip
        file.write(pixels, 1)
    return path


def main() -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    found = measure()
    harness.write(
        "fetch",
        [{"way": name, **way} for name, way in found["ways"].items()],
        **{k: found[k] for k in ("cog", "windows")},
    )
    told = found["windows"]
    table = harness.markdown(
        ["way", "bytes", "over blocks and header", "requests"],
        [[name, f"{w['bytes']:,}", f"{w['ratio']:.4f}", str(w["requests"])] for name, w in found["ways"].items()],
    )
    text = (
        f"{told['count']} scattered windows of {told['pixels']} px on a COG of {found['cog']['pixels']} px behind "
        f"http: bytes sent over those of the {told['blocks_touched']} blocks touched and the header. The goal: at "
        "most 1.3. Its blocks fit the reader's memory: what a working set that does not fit costs is not seen here."
        f"\n\n{table}"
    )
    harness.put_section("fetch", "Fetching", text)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
