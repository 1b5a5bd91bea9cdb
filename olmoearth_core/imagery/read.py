"""Reading pixels of assets, wherever they lie: a folder, https, s3.

One `AssetReader` serves many threads. It keeps datasets open between reads, tries again what is worth it, remembers
what cannot be read with the reason, and counts the bytes.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError, RasterioIOError

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.imagery.address import is_url
from olmoearth_core.imagery.sampling import SourceGrid, SourceWindow
from olmoearth_core.stage import Meter

T = TypeVar("T")
Result = TypeVar("Result")

ATTEMPTS = 5
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; doubles with each, times a random factor so that many readers do not march."""
_PASSING = (
    "timed out", "timeout", "curl error", "connection", "reset by peer", "temporarily", "could not resolve host",
    "slowdown", "reduce your request rate", "http error code : 5", "http error code: 5", "response_code=5",
    "http response code: 5", "http response code: 429", "response_code=429", "http response code: 408", "partial file",
    "bytes, expected",  # GDAL got fewer than it asked for: a body that was cut short
)  # fmt: skip
_NETWORK = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the folder beside the asset
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MULTIRANGE": "SERIAL",  # parallel ranges are not retried (GDAL issue 12933)
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # a failed request must not be remembered as "no such file"; open datasets still cache what they have read
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
}


@dataclass(frozen=True)
class Header:
    """What the header of an asset says."""

    grid: SourceGrid
    dtype: str
    nodata: float | None
    block: tuple[int, int]
    """(height, width) of the asset's own blocks."""


@dataclass(frozen=True, order=True)
class Failure:
    """An asset that could not be read, and why."""

    scene: str
    asset: str
    reason: str


class AssetReader(AbstractContextManager["AssetReader"]):
    """Reads windows of assets; safe between threads.

    Args:
        meter: counts the stored (compressed) bytes of the blocks that were read.
        workers: threads for `map`; 1 reads in the caller's thread.
        keep_open: datasets kept open between reads.
    """

    def __init__(self, meter: Meter | None = None, *, workers: int = 1, keep_open: int = 256):
        self._meter = meter
        self._keep_open = keep_open
        self._idle: OrderedDict[str, list[_Dataset]] = OrderedDict()
        self._headers: dict[str, Header] = {}
        self._failures: set[Failure] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read") if workers > 1 else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the datasets and stop the threads."""
        self.close()

    def close(self) -> None:
        """Close the datasets and stop the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        with self._lock:
            idle = [dataset for datasets in self._idle.values() for dataset in datasets]
            self._idle.clear()
        for dataset in idle:
            dataset.close()

    @property
    def failures(self) -> list[Failure]:
        """What could not be read so far, in the order of scene and asset."""
        with self._lock:
            return sorted(self._failures)

    def lost(self, scene: str, asset: str, error: ImageryError) -> None:
        """Record that an asset of a scene could not be read."""
        with self._lock:
            self._failures.add(Failure(scene, asset, str(error)))

    def map(self, function: Callable[[T], Result], items: Sequence[T]) -> Iterable[Result]:
        """`function` of each item, in order; on the reader's threads where it has some."""
        return self._pool.map(function, items) if self._pool and len(items) > 1 else map(function, items)

    def header(self, address: str) -> Header:
        """The header of the asset at `address` (a path, or an https or s3 URL); opened once.

        Raises:
            ImageryError: it cannot be opened (not there, not allowed, no raster), or has no georeference.
            TransientError: as `read`.
        """
        if address not in self._headers:
            self._headers[address] = self._with(address, lambda dataset: dataset.header)
        return self._headers[address]

    def read(self, address: str, window: SourceWindow) -> NDArray[Any]:
        """The pixels (h, w) of `window` in the asset's dtype; 0 where they are nodata or outside the asset.

        Raises:
            ImageryError: the window cannot be read, and trying again would not help (401, 403, 404; a broken file).
            TransientError: the network or server failed in all attempts (time-out, no connection, 429, 5xx, cut body).
        """
        return self._with(address, lambda dataset: self._counted(dataset, window))

    def _counted(self, dataset: _Dataset, window: SourceWindow) -> NDArray[Any]:
        pixels = dataset.read(window)
        if self._meter:
            stored = dataset.newly_read_bytes(window)
            with self._lock:
                self._meter.bytes_read += stored
        return pixels

    def _with(self, address: str, use: Callable[[_Dataset], Result]) -> Result:
        """Call `use` with the open dataset; over a network again, with growing pauses, on faults that may pass."""
        if not is_url(address):
            return self._once(address, use)
        for attempt in range(ATTEMPTS):
            try:
                with rasterio.Env(**_NETWORK):
                    return self._once(address, use)
            except TransientError as error:
                reason = str(error)
                if attempt + 1 < ATTEMPTS:
                    time.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5))
        raise TransientError(
            f"{address.split('?')[0]}: cannot be read at the moment: {reason} ({ATTEMPTS} attempts). "
            "Finished work is kept; the same command goes on."
        )

    def _once(self, address: str, use: Callable[[_Dataset], Result]) -> Result:
        """Lend a dataset to this thread; after an error it is closed, not kept."""
        dataset = self._borrow(address) or _Dataset(address)
        try:
            result = use(dataset)
        except BaseException:
            dataset.close()
            raise
        self._keep(address, dataset)
        return result

    def _borrow(self, address: str) -> _Dataset | None:
        with self._lock:
            datasets = self._idle.get(address)
            if not datasets:
                return None
            dataset = datasets.pop()
            if not datasets:
                del self._idle[address]
            return dataset

    def _keep(self, address: str, dataset: _Dataset) -> None:
        with self._lock:
            self._idle.setdefault(address, []).append(dataset)
            self._idle.move_to_end(address)
            surplus = self._idle.popitem(last=False)[1] if len(self._idle) > self._keep_open else []
        for old in surplus:
            old.close()


class _Dataset:
    """An open asset, used by one thread at a time. Faults become TransientError or ImageryError."""

    def __init__(self, address: str):
        self._address = address
        self._seen: set[tuple[int, int]] = set()
        try:
            self._dataset = rasterio.open(address, sharing=False)
        except RasterioError as error:
            raise _fault(error, address) from error
        self.close = self._dataset.close
        if self._dataset.crs is None:
            self.close()
            raise ImageryError(f"{_short(address)}: has no coordinate reference system")
        self.header = self._read_header()

    def _read_header(self) -> Header:
        dataset = self._dataset
        code = dataset.crs.to_epsg()
        grid = SourceGrid(
            crs=f"EPSG:{code}" if code else dataset.crs.to_wkt(),
            transform=tuple(dataset.transform)[:6],
            width=dataset.width,
            height=dataset.height,
        )
        return Header(grid, dataset.dtypes[0], dataset.nodata, dataset.block_shapes[0])

    def read(self, window: SourceWindow) -> NDArray[Any]:
        source = self.header.grid
        inside = window.inside(source)
        try:
            pixels: NDArray[Any] = self._dataset.read(1, window=inside.to_rasterio())
        except RasterioError as error:
            raise _fault(error, self._address) from error
        nodata = self.header.nodata
        if nodata is not None and nodata != 0:
            pixels[np.isnan(pixels) if np.isnan(nodata) else pixels == nodata] = 0
        if inside == window:
            return pixels
        padded = np.zeros(window.shape, pixels.dtype)
        top, left = inside.top - window.top, inside.left - window.left
        padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return padded

    def newly_read_bytes(self, window: SourceWindow) -> int:
        """Stored size of the blocks below `window` that this dataset had not read before."""
        blocks = blocks_of(window.inside(self.header.grid), self.header.block)
        new = [block for block in blocks if block not in self._seen]
        self._seen.update(new)
        return sum(self._stored_bytes(*block) for block in new)

    def _stored_bytes(self, row: int, column: int) -> int:
        size = self._dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
        return int(size) if size else 0


def blocks_of(window: SourceWindow, block: tuple[int, int]) -> list[tuple[int, int]]:
    """(row, column) of the blocks of `block` (height, width) that `window` touches, row by row."""
    height, width = block
    return [
        (row, column)
        for row in range(window.top // height, -(-window.bottom // height))
        for column in range(window.left // width, -(-window.right // width))
    ]


def _fault(error: RasterioError, address: str) -> TransientError | ImageryError:
    reason = _reason(error, address)
    passing = is_url(address) and any(sign in _chain(error).lower() for sign in _PASSING)
    return TransientError(reason) if passing else ImageryError(reason)


def _chain(error: BaseException | None) -> str:
    """All that GDAL said: why a block cannot be read stands deeper than that it cannot."""
    said = []
    while error is not None:
        said.append(str(error))
        error = error.__cause__
    return " ".join(said)


def _short(address: str) -> str:
    return PurePosixPath(address.split("?")[0]).name


def _reason(error: RasterioError, address: str) -> str:
    """GDAL's own sentence, with the asset's name in place of the path on this machine."""
    cause = error.__cause__ if isinstance(error, RasterioIOError) and error.__cause__ else error
    text = " ".join(str(cause).split())
    name = _short(address)
    for place in (address, os.path.realpath(address)):
        text = text.replace(place, name)
    return text if name in text else f"{name}: {text}"
