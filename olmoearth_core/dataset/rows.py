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

_NOWHERE = 2**64 - 1
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
        self._empty = np.full((self._chunk, *self._row), array.fill_value, self._dtype)
        self._empty.flags.writeable = False
        self._open: OrderedDict[int, list[np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> np.ndarray:
        """The row (...), read-only, without a copy.

        Raises:
            IndexError: there is no such row.
            DatasetError: its shard is cut short.
        """
        if not 0 <= row < self._rows:
            raise IndexError(row)
        number, place = divmod(row, self._shard)
        chunks = self._open.get(number) or self._map(number)
        read: np.ndarray = chunks[place // self._chunk][place % self._chunk]
        return read

    def _map(self, number: int) -> list[np.ndarray]:
        """The chunks (rows, ...) of a shard, in their order."""
        path = self._folder / "c" / str(number) / "/".join("0" * len(self._row))
        count = self._shard // self._chunk
        chunks = self._read_shard(path, count) if path.exists() else [self._empty] * count
        with self._lock:
            self._open[number] = chunks
            if len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return chunks

    def _read_shard(self, path: Path, count: int) -> list[np.ndarray]:
        # a plain view: slicing a memmap costs several times as much
        content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        index = content[-16 * count - _CHECKSUM : -_CHECKSUM]
        if len(index) != 16 * count:
            raise DatasetError(f"{path}: is cut short. Run `olmoearth preprocess` to make it again.")
        chunks = []
        for offset, size in index.copy().view("<u8").reshape(count, 2).tolist():
            if offset == _NOWHERE:
                chunks.append(self._empty)
            elif size != self._empty.nbytes or offset + size > len(content):
                raise DatasetError(f"{path}: is damaged. Run `olmoearth preprocess` to make it again.")
            else:
                chunks.append(content[offset : offset + size].view(self._dtype).reshape(self._empty.shape))
        return chunks
