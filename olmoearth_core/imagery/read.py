"""Reading pixels of assets, wherever they lie: a folder, https, s3.

One `AssetReader` serves many threads. It reads whole blocks and keeps them (blocks.py), keeps datasets open between
reads, tries again what is worth it, asks no host for more at once than it may, remembers what cannot be read with the
reason, and counts the bytes. Always at full resolution: how the overviews of a COG were made is not known, and a pixel
made of them would be another than the mean of the pixels below it.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.io import FilePath

from olmoearth_core.errors import ImageryError
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.address import is_url
from olmoearth_core.imagery.blocks import MANY, Block, BlockCache, blocks_of, cut, split, window_of, worth_keeping
from olmoearth_core.imagery.remote import Fetcher, RemoteFile
from olmoearth_core.imagery.sampling import SourceGrid, SourceWindow
from olmoearth_core.stage import Meter

T = TypeVar("T")
Result = TypeVar("Result")

KEPT_BYTES = 128 * 2**20
"""Decoded blocks that a reader remembers."""
DIRECT = 128 * 128
"""Pixels from which a window of a local file is read as it is: copying whole blocks would cost more than a call."""


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
        keep_bytes: of decoded blocks that are remembered (of local assets those that small windows touch).
        access: the settings by which servers are reached.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        workers: int = 1,
        keep_open: int = 256,
        keep_bytes: int = KEPT_BYTES,
        access: Access | None = None,
    ):
        self._meter = meter
        self._keep_open = keep_open
        self._fetcher = Fetcher(access or Access(), self._count)
        self._idle: OrderedDict[str, list[_Dataset]] = OrderedDict()
        self._headers: dict[str, Header] = {}
        self._blocks = BlockCache(keep_bytes)
        self._failures: set[Failure] = set()
        self._broken: set[Failure] = set()
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
        self._fetcher.close()
        self._blocks.clear()

    @property
    def failures(self) -> list[Failure]:
        """What could not be read so far, in the order of scene and asset."""
        with self._lock:
            return sorted(self._failures)

    @property
    def broken(self) -> list[Failure]:
        """Those of `failures` that GDAL could not read: files that are gone or damaged, not merely of no use."""
        with self._lock:
            return sorted(self._broken)

    def lost(self, scene: str, asset: str, error: ImageryError) -> None:
        """Record that an asset of a scene could not be read, or is of no use."""
        failure = Failure(scene, asset, str(error))
        with self._lock:
            self._failures.add(failure)
            if isinstance(error.__cause__, RasterioError):
                self._broken.add(failure)

    def map(self, function: Callable[[T], Result], items: Sequence[T]) -> Iterable[Result]:
        """`function` of each item, in order; on the reader's threads where it has some."""
        return self._pool.map(function, items) if self._pool and len(items) > 1 else map(function, items)

    def header(self, address: str) -> Header:
        """The header of the asset at `address` (a path, or an https or s3 URL); opened once.

        Raises:
            ImageryError: it cannot be opened (not there, not allowed, no raster), or has no georeference.
            TransientError: as `read`.
        """
        header = self._headers.get(address)
        if header is None:
            header = self._headers[address] = self._with(address, lambda dataset: dataset.header)
        return header

    def read(self, address: str, window: SourceWindow) -> NDArray[Any]:
        """The pixels (h, w) of `window` in the asset's dtype; 0 where they are nodata or outside the asset.

        They may be shared with other readers of the same block: not to be written to.

        Raises:
            ImageryError: the window cannot be read, and trying again would not help (401, 403, 404; a broken file).
            TransientError: the network or server failed in all attempts (time-out, no connection, 429, 5xx, cut body).
        """
        header = self.header(address)
        inside = window.inside(header.grid)
        if inside.top >= inside.bottom or inside.left >= inside.right:
            return np.zeros(window.shape, header.dtype)
        wanted = blocks_of(inside, header.block)
        height, width = inside.shape
        cheap = not is_url(address) and height * width >= DIRECT  # GDAL keeps the blocks of local files itself
        if cheap or len(wanted) > MANY or not worth_keeping(header.block):
            pixels = self._with(address, lambda dataset: self._counted(dataset, inside))
            return cut(window, [(inside, pixels)])
        found = {block: self._blocks.get(address, block) for block in wanted}
        if missing := [block for block in wanted if found[block] is None]:
            found.update(self._fetch(address, header, missing))
        return cut(
            window,
            [(window_of(k, header.block, header.grid), pixels) for k, pixels in found.items() if pixels is not None],
        )

    def _fetch(self, address: str, header: Header, missing: Sequence[Block]) -> Iterable[tuple[Block, NDArray[Any]]]:
        """Read blocks and remember them; those that make up a rectangle in one go."""

        def place(block: Block) -> SourceWindow:
            return window_of(block, header.block, header.grid)

        (top, left), (bottom, right) = map(min, zip(*missing, strict=True)), map(max, zip(*missing, strict=True))
        together = (bottom - top + 1) * (right - left + 1) == len(missing)
        for some in [missing] if together else [[block] for block in missing]:
            first, last = place(some[0]), place(some[-1])
            window = SourceWindow(first.top, last.bottom, first.left, last.right)
            pixels = self._with(address, lambda dataset, window=window: self._counted(dataset, window))  # type: ignore[misc]
            for block, own in split(window, pixels, some, place):
                self._blocks.put(address, block, own)
                yield block, own

    def _counted(self, dataset: _Dataset, window: SourceWindow) -> NDArray[Any]:
        pixels = dataset.read(window)
        if self._meter and not dataset.remote:
            self._count(dataset.newly_read_bytes(window))
        return pixels

    def _count(self, amount: int) -> None:
        if self._meter:
            with self._lock:
                self._meter.bytes_read += amount

    def _with(self, address: str, use: Callable[[_Dataset], Result]) -> Result:
        """Lend a dataset to this thread; after an error it is closed, not kept."""
        dataset = self._borrow(address) or _Dataset(address, self._fetcher)
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

    def __init__(self, address: str, fetcher: Fetcher):
        self._address = address
        self._file = RemoteFile(fetcher, address) if is_url(address) else None
        self._seen: set[Block] = set()
        with self._clear_errors():
            opened = _Behind(self._file).open if self._file else partial(rasterio.open, address)
            self._dataset = opened(sharing=False)
        self.close = self._dataset.close
        if self._dataset.crs is None:
            self.close()
            raise ImageryError(f"{_short(address)}: has no coordinate reference system")
        self.header = self._read_header()
        flags = self._dataset.mask_flag_enums[0]
        self._masked = MaskFlags.per_dataset in flags  # a mask beside or inside the file, or an alpha band

    @property
    def remote(self) -> bool:
        """Whether it lies behind a URL."""
        return self._file is not None

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turn what GDAL says into a sentence; what went wrong below it goes first, even if GDAL went on without."""
        try:
            yield
        except RasterioError as error:
            if self._file and self._file.fault:
                raise self._file.fault from error
            raise ImageryError(_reason(error, self._address)) from error
        if self._file and self._file.fault:
            raise self._file.fault

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
        """The pixels of a window that lies inside."""
        with self._clear_errors():
            if self._file:
                self._file.prefetch(self._byte_ranges(window))
            pixels: NDArray[Any] = self._dataset.read(1, window=window.to_rasterio())
            if self._file:
                self._file.forget()
        if self._masked:
            pixels[self._dataset.read_masks(1, window=window.to_rasterio()) == 0] = 0
        nodata = self.header.nodata
        if nodata is not None and nodata != 0:
            pixels[np.isnan(pixels) if np.isnan(nodata) else pixels == nodata] = 0
        return pixels

    def _byte_ranges(self, window: SourceWindow) -> Iterator[tuple[int, int]]:
        """[start, stop) in the file of the blocks that `window` touches; none where the format does not tell."""
        for row, column in blocks_of(window, self.header.block):
            offset = self._dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1)
            if offset and (size := self._stored_bytes(row, column)):
                yield int(offset), int(offset) + size

    def newly_read_bytes(self, window: SourceWindow) -> int:
        """Stored size of the blocks below `window` that this dataset had not read before."""
        blocks = blocks_of(window.inside(self.header.grid), self.header.block)
        new = [block for block in blocks if block not in self._seen]
        self._seen.update(new)
        return sum(self._stored_bytes(*block) for block in new)

    def _stored_bytes(self, row: int, column: int) -> int:
        size = self._dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
        return int(size) if size else 0


class _Behind(FilePath):
    """A Python file that GDAL reads. The `opener` that rasterio offers instead binds a dataset to one thread."""

    def __init__(self, file: RemoteFile):
        super(FilePath, self).__init__(file)  # past its own constructor, which warns that rasterio 2 will not have it


def _short(address: str) -> str:
    return PurePosixPath(address.split("?")[0]).name


def _reason(error: RasterioError, address: str) -> str:
    """GDAL's own sentence, with the asset's name in place of the path on this machine."""
    cause = error.__cause__ if isinstance(error, RasterioIOError) and error.__cause__ else error
    text = " ".join(str(cause).split())
    name = _short(address)
    text = re.sub(r"'?/vsipythonfilelike/\S+", name, text)
    for place in (address, os.path.realpath(address)):
        text = text.replace(place, name)
    return text if name in text else f"{name}: {text}"
