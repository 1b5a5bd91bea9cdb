"""Rows of an array of cubes.zarr, straight from its files.

The arrays are not compressed: of noisy imagery little would be won, and a row is then a slice of a file that the
operating system maps into memory. Zarr itself needs about a millisecond to find and to decode a chunk, which is several
times what it takes to copy a window (docs/decisions/0005).

A shard, by the specification of Zarr v3 (codec sharding_indexed), is its chunks in any order, and at its end the index:
(offset, size) of each chunk as uint64, all ones for a chunk that was never written, and a CRC32C of 4 bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from olmoearth_core.errors import DatasetError

_NOWHERE = np.iinfo(np.uint64).max
_CHECKSUM = 4
KEPT_OPEN = 128
"""Shards of an array that stay mapped."""


class Rows:
    """One array, (N, ...), of which whole rows are read; safe between threads.

    Raises:
        DatasetError: it was not stored as this platform stores arrays.
    """

    def __init__(self, folder: Path, name: str, array: zarr.Array) -> None:
        self._folder = folder / name
        self._dtype: np.dtype[Any] = np.dtype(array.dtype)
        self._rows, self._row = array.shape[0], tuple(array.shape[1:])
        if array.shards is None or array.compressors or array.chunks[1:] != self._row:
            raise DatasetError(
                f"{folder / name}: was stored by an older version of the platform. Run `olmoearth preprocess`."
            )
        self._chunk, self._shard = array.chunks[0], array.shards[0]
        self._nothing = np.full(self._row, array.fill_value, self._dtype)
        self._nothing.flags.writeable = False
        self._open: OrderedDict[int, tuple[np.ndarray, np.ndarray] | None] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> np.ndarray:
        """The row (...), read-only, without a copy.

        Raises:
            IndexError: there is no such row.
            DatasetError: its shard is cut short.
        """
        if not 0 <= row < self._rows:
            raise IndexError(row)
        shard = self._map(row // self._shard)
        if shard is None:
            return self._nothing
        content, index = shard
        place, within = divmod(row % self._shard, self._chunk)
        offset = index[place, 0]
        if offset == _NOWHERE:
            return self._nothing
        size = self._nothing.nbytes
        start = int(offset) + within * size
        read: np.ndarray = content[start : start + size].view(self._dtype).reshape(self._row)
        return read

    def _map(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(bytes, index (chunks, 2)) of a shard; None where nothing of it was ever written."""
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
            path = self._folder / "c" / str(number) / "/".join("0" * len(self._row))
            self._open[number] = self._read_shard(path) if path.exists() else None
            if len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
            return self._open[number]

    def _read_shard(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        chunks = self._shard // self._chunk
        content = np.memmap(path, np.uint8, mode="r")
        index = content[-16 * chunks - _CHECKSUM : -_CHECKSUM].copy()
        if len(index) != 16 * chunks:
            raise DatasetError(f"{path}: is cut short. Run `olmoearth preprocess` to make it again.")
        # a plain view: slicing a memmap costs several times as much
        return content.view(np.ndarray), index.view("<u8").reshape(chunks, 2)
